"""Downloads: whether this process may use the network, where our caches are, and how files are fetched and checked."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import re
import shutil
import socket
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, url2pathname

from bids_semantoks.disk import is_full, remove_leftovers, tag_owner
from bids_semantoks.errors import AtlasError, ResourceError
from bids_semantoks.files import hash_content, hash_file, open_atomic, write_text

HUB_SERVER: Final = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
_PATIENCE: Final = 5.0  # seconds
_OFFLINE: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# Variables with the number of this job in an array (SLURM, PBS, LSF, Grid Engine); the last two set it in all jobs.
_ARRAYS: Final = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "PBS_ARRAYID", "LSB_JOBINDEX", "SGE_TASK_ID")
_NO_ARRAY: Final = ("LSB_JOBINDEX=0", "LSB_JOBINDEX=undefined", "SGE_TASK_ID=0", "SGE_TASK_ID=undefined")
CACHE_VARIABLE: Final = "BIDS_SEMANTOKS_CACHE_DIR"
# Below our cache, and below the directory that `bids_semantoks-fetch` fills.
ATLASES: Final = "atlases"
TEMPLATEFLOW: Final = "templateflow"
HUB: Final = "huggingface/hub"
GRIDS: Final = "grids"
LOG = logging.getLogger("bids_semantoks")
TEMPLATEFLOW_SERVER: Final = "https://templateflow.s3.amazonaws.com"
_DOWNLOAD_PATIENCE: Final = 30.0  # seconds without a byte
_BLOCK: Final = 1 << 20
_ROOM: Final = "Free disk space and rerun."
# What to do where the hub refuses.
_TERMS: Final = "Log in at {page}, accept its terms, and set HF_TOKEN to a token of that account (hf auth login)."
_LOGIN: Final = "Check the name; for a private repository, set HF_TOKEN (hf auth login)."
_REVISION: Final = "Give a branch, tag or commit of the repository after @, or none for the main branch."
_LATER: Final = "Try again later, or pass the path of a local file to --model."
_PORTAL: Final = (
    "A login page or proxy may be in the way (log in with a browser, check HTTPS_PROXY and HF_ENDPOINT); or pass the "
    "path of a local file to --model."
)


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids downloads now,
    rather than when a library was imported."""
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in _OFFLINE)


def find_array_job() -> str:
    """Return the variable and value that mark this process as one of a scheduler's job array; empty if it is not."""
    found = [f"{name}={value}" for name in _ARRAYS if (value := os.environ.get(name, "").strip())]
    return next((job for job in found if job not in _NO_ARRAY), "")


def can_connect(address: str) -> bool:
    """Tell within 5 s whether a server answers (libraries try for half a minute);
    True if a proxy is set, which alone knows."""
    parts = urlsplit(address)
    if parts.scheme in getproxies() or "all" in getproxies():
        return True
    ports = {"http": 80, "https": 443}
    try:
        place = (parts.hostname or "", parts.port or ports.get(parts.scheme, 443))
        socket.create_connection(place, timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


_can_connect_once = functools.cache(can_connect)


def find_obstacle(address: str) -> str:
    """Return in half a sentence why this process cannot download from an address (scheme included); empty if nothing is
    known. Each server is tried once per process; ``file:`` needs no network."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return ""
    if is_offline():
        return "downloads are disabled (HF_HUB_OFFLINE)"
    # A thousand jobs that start together would all download the same files; one call before them should.
    if job := find_array_job():
        return f"downloads are disabled in array jobs ({job})"
    if not _can_connect_once(f"{parts.scheme}://{parts.netloc}"):
        return f"the network cannot be reached ({parts.netloc})"
    return ""


def find_cache() -> Path | None:
    """Return our cache directory, which need not exist; None for a user without a home. BIDS_SEMANTOKS_CACHE_DIR, else
    ``bids_semantoks`` in XDG_CACHE_HOME or ``~/.cache``."""
    base = _find_user_cache()
    return _read_path(CACHE_VARIABLE) or (base / "bids_semantoks" if base else None)


def find_templateflow_homes() -> list[Path]:
    """List directories that may hold TemplateFlow's archive: TEMPLATEFLOW_HOME or its client's default, then that in
    our cache."""
    # Where its client looks, which differs between systems: ~/Library/Caches on a Mac.
    from platformdirs import user_cache_dir  # noqa: PLC0415

    usual = Path(user_cache_dir("templateflow")) if _find_user_cache() else None
    own, cache = _read_path("TEMPLATEFLOW_HOME") or usual, find_cache()
    return [path for path in (own, cache / TEMPLATEFLOW if cache else None) if path]


def find_hub_caches() -> list[Path]:
    """List directories that may hold Hugging Face files: its client's cache, then that in ours; they need not exist."""
    base, cache = _find_user_cache(), find_cache()
    home = _read_path("HF_HOME") or (base / "huggingface" if base else None)
    own = _read_path("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") or (home / "hub" if home else None)
    return [path for path in (own, cache / HUB if cache else None) if path]


def find_hub_file(repository: str, name: str, *, revision: str = "") -> Path | None:
    """Find a file of a hub repository (ORG/NAME) in the local caches, by default of the main revision; None if
    absent."""
    for cache in find_hub_caches():
        snapshot = find_snapshot(cache / f"models--{repository.replace('/', '--')}", revision)
        if snapshot is not None and (snapshot / name).is_file():
            return snapshot / name
    return None


def find_snapshot(folder: Path, revision: str = "") -> Path | None:
    """Find the files of a repository in its folder of a cache: those of a branch, tag or commit (7 digits or more);
    by default the main revision, or the only one. None if absent."""
    try:
        commit = (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    if commit:
        path = folder / "snapshots" / commit
        return path if path.is_dir() else None
    found = [path for path in (folder / "snapshots").glob("*/") if not path.name.startswith(".")]
    if revision:
        is_commit = re.fullmatch(r"[0-9a-f]{7,40}", revision) is not None
        found = [path for path in found if path.name == revision or (is_commit and path.name.startswith(revision))]
    # A copied cache may lack its refs.
    return found[0] if len(found) == 1 else None


def _find_user_cache() -> Path | None:
    try:
        return _read_path("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no HOME, and no entry for this user
        return None


def _read_path(*names: str) -> Path | None:
    """Read the first of several variables that is set."""
    return next((Path(text) for name in names if (text := os.environ.get(name))), None)


def find_target(work_dir: Path | None) -> Path:
    """Return the cache if writable, else a temporary directory (in `work_dir` if given) that is removed at exit."""
    cache = find_cache()
    return cache if cache is not None and is_writable(cache) else _make_temporary(work_dir)


@functools.cache
def _make_temporary(work_dir: Path | None) -> Path:
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    remove_leftovers(Path(work_dir or tempfile.gettempdir()))
    path = Path(tempfile.mkdtemp(prefix=f"bids_semantoks-fetched-{tag_owner()}", dir=work_dir))
    atexit.register(_remove, path, os.getpid())
    LOG.warning("The cache %s is not writable; downloads are kept for this call only.", find_cache() or "")
    return path


def _remove(path: Path, owner: int) -> None:
    # Forked workers inherit this handler but must not remove the files of their parent.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)


def is_writable(folder: Path) -> bool:
    """Test by writing whether a directory (made if need be) is writable; permission bits can mislead."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """What is known of a published file; empty if nothing is."""

    sha256: tuple[str, ...] = ()  # of the file as published, and of its uncompressed bytes
    labels: str = ""  # SHA-256 of what it holds, as `identity.hash_labels` computes it
    md5: str = ""
    size: int = 0  # bytes

    def find_fault(self, path: Path) -> str:
        """Describe how a file differs from the published one; empty if it does not, or nothing is known. A file
        that was compressed or unpacked since counts as the published one where the SHA-256 of its content is known."""
        if self.size and path.stat().st_size != self.size:
            return f"has {path.stat().st_size} bytes, expected {self.size}"
        if self.md5 and (found := hash_file(path, "md5")) != self.md5:
            return f"has MD5 {found}, expected {self.md5}"
        if self.sha256 and not {found := hash_file(path), hash_content(path)} & set(self.sha256):
            return f"has SHA-256 {found}, expected {self.sha256[0]}"
        return ""


UNKNOWN: Final = Pin()


def download(address: str, target: Path, *, pin: Pin = UNKNOWN) -> None:
    """Download a URL (https, http, file) to `target`, whole or not at all, and record its checksum next to it. Raises
    AtlasError if downloads are forbidden or fail, bytes are missing, or the file is not that of the pin."""
    if obstacle := find_obstacle(address):
        raise AtlasError(f"{target.name} is not available locally, and {obstacle}.")
    LOG.info("Fetching %s ...", address)
    try:
        with open_atomic(target) as file:
            _copy(address, file)
            file.flush()
            partial = Path(file.name)
            if fault := pin.find_fault(partial):
                raise AtlasError(
                    f"{address} {fault}: the file was corrupted in transit or replaced.",
                    hint="Try again; if it was replaced, download it manually and set --atlas-dir to its directory.",
                )
            partial.chmod(0o644)
            write_text(_name_record(target), f"{hash_file(partial)}  {target.name}\n")
            _name_record(target).chmod(0o644)
    except (OSError, ValueError) as error:
        if is_full(error):
            raise ResourceError(
                f"{target.name} cannot be downloaded to {target.parent}: {error}.", hint=_ROOM
            ) from error
        if (answer := getattr(error, "response", None)) is not None:
            place = urlsplit(address).netloc
            why = f": the server responded with {answer.status_code} {answer.reason} ({place})"
        else:
            why = f" to {target.parent}: {_find_cause(error)}"
        # The whole address, which is long, is in the log.
        raise AtlasError(f"{target.name} cannot be downloaded{why}.") from error


def _copy(address: str, file: BinaryIO) -> None:
    # Imported late: few calls fetch anything. The archive of TemplateFlow is fetched like the rest, not by its client,
    # which takes ten seconds to list the archive (twice, in its own home, too), cannot be silent, does not tell why a
    # server refuses, and leaves half a file behind under the final name.
    import pooch  # noqa: PLC0415

    parts = urlsplit(address)
    if parts.scheme == "file":
        file.write(Path(url2pathname(parts.path)).read_bytes())
    else:
        # As stored: a server may declare a compressed file to be encoded in transit.
        headers = {"User-Agent": "bids_semantoks", "Accept-Encoding": "identity"}
        pooch.HTTPDownloader(chunk_size=_BLOCK, timeout=_DOWNLOAD_PATIENCE, headers=headers)(address, file, None)
    if not file.tell():
        raise OSError("it is empty")


def _find_cause(error: BaseException) -> BaseException | str:
    """Find the error of the system or protocol below the wrappers of the requests library."""
    if not hasattr(error, "request"):
        return error
    while cause := error.__cause__ or error.__context__:
        error = cause
    if hasattr(error, "expected") and hasattr(error, "partial"):
        return f"{error.partial} of {error.partial + error.expected} bytes were received"
    return error


def _name_record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def check_file(path: Path) -> str:
    """Compute the SHA-256 of a file. Raises AtlasError if it has changed since it was fetched."""
    sha256 = hash_file(path)
    record = _name_record(path)
    try:
        recorded = record.read_text(encoding="utf-8").split()[:1]
    except (OSError, UnicodeDecodeError):
        recorded = []
    is_record = bool(recorded) and re.fullmatch(r"[0-9a-f]{64}", recorded[0]) is not None
    if is_record and recorded[0] != sha256:
        raise AtlasError(
            f"{path} has SHA-256 {sha256}, but had {recorded[0]} when it was downloaded ({record.name}).",
            hint="It is damaged or was replaced: delete both files and download it again (bids_semantoks-fetch).",
        )
    return sha256


class FetchError(Exception):
    """A Hugging Face file could not be fetched; the reason is half a sentence, `hint` what to do about it,
    `is_absent` if the server has no such file."""

    def __init__(self, reason: str, *, hint: str = "", is_absent: bool = False) -> None:
        super().__init__(reason)
        self.hint = hint
        self.is_absent = is_absent


def fetch_hub_file(repository: str, name: str, *, revision: str = "", cache: Path | None = None) -> Path:
    """Download a file of a Hugging Face repository (ORG/NAME) into `cache`, by default the hub client's; `revision` is
    a branch, tag or commit, empty for the main branch. Raises FetchError."""
    # Imported late: few calls need it, and its constants are read from the environment.
    from huggingface_hub import constants, errors, hf_hub_download  # noqa: PLC0415

    # The bases are the errors of the HTTP library, which differs between versions, and OSError.
    failures: tuple[type[Exception], ...] = (*errors.HfHubHTTPError.__mro__[1:2], OSError, ValueError)
    if obstacle := find_obstacle(constants.ENDPOINT):
        raise FetchError(obstacle)
    pinned: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        return Path(hf_hub_download(repository, name, cache_dir=cache, **pinned))
    except errors.LocalEntryNotFoundError as error:  # also an EntryNotFoundError, but hides what the server answered
        raise _explain_refusal(repository, error.__cause__, constants.ENDPOINT) from error
    except errors.RevisionNotFoundError as error:
        raise FetchError(f"{repository} has no revision {revision}", hint=_REVISION) from error
    except errors.EntryNotFoundError as error:
        raise FetchError(f"{repository} has no {name}", is_absent=True) from error
    except Exception as error:
        if is_full(error):
            where = cache or find_hub_caches()[0]
            raise ResourceError(
                f"{name} of {repository} cannot be downloaded to {where}: {error}.", hint=_ROOM
            ) from error
        if not isinstance(error, failures):
            raise
        raise _explain_refusal(repository, error, constants.ENDPOINT) from error


def _explain_refusal(repository: str, error: BaseException | None, server: str) -> FetchError:
    """Explain in half a sentence and a hint why the hub did not serve a file; None if there was no response."""
    from huggingface_hub import errors  # noqa: PLC0415 - as above

    code = getattr(getattr(error, "response", None), "status_code", None)
    page = f"{server}/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return FetchError(f"access to it is restricted (gated, {code})", hint=_TERMS.format(page=page))
    if isinstance(error, errors.RepositoryNotFoundError) or code in (401, 404):
        return FetchError(f"{server} has no such repository, or it is private ({code})", hint=_LOGIN)
    if code == 403:
        return FetchError(f"{server} denies access to it (403)", hint=_TERMS.format(page=page))
    if code == 429:
        return FetchError("the server limits the rate of requests (429)", hint=f"Wait a few minutes. {_LATER}")
    if code is not None and code >= 500:
        return FetchError(f"the server is unavailable ({code})", hint=_LATER)
    if isinstance(error, errors.FileMetadataError) or (code is not None and 200 <= code < 400):
        return FetchError(f"{server} responded with a page that is not from the hub", hint=_PORTAL)
    reason = textwrap.shorten(str(error or "no response"), 100, placeholder=" ...").rstrip(".") or type(error).__name__
    is_local = isinstance(error, OSError) and error.errno is not None  # a full disk, a folder that is not writable
    return FetchError(
        f"it cannot be downloaded ({reason})" if is_local else f"the network cannot be reached ({reason})"
    )
