"""Downloads into the cache, whole or not at all, with their checksums beside them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import http.client
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from bids_semantoks.errors import AtlasError
from bids_semantoks.network import find_obstacle
from bids_semantoks.places import find_cache

LOG = logging.getLogger("bids_semantoks")
TEMPLATEFLOW_SERVER: Final = "https://templateflow.s3.amazonaws.com"
_PATIENCE: Final = 30.0  # seconds without a byte
_BLOCK: Final = 1 << 20


def find_target(work_dir: Path | None) -> Path:
    """Return the cache if writable, else a temporary directory (in `work_dir` if given) that is removed at exit."""
    cache = find_cache()
    if cache is not None and is_writable(cache):
        return cache
    return _make_temporary(work_dir)


@functools.cache
def _make_temporary(work_dir: Path | None) -> Path:
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="bids_semantoks-fetched-", dir=work_dir))
    atexit.register(_remove, path, os.getpid())
    LOG.warning("The cache %s cannot be written: what is fetched is kept for this call only.", find_cache() or "")
    return path


def _remove(path: Path, owner: int) -> None:
    # Worker processes inherit this duty by fork, but not the right to it.
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


def download(address: str, target: Path, *, sha256: str | None = None) -> None:
    """Download a URL (https, http, file) to `target`, whole or not at all, and record its checksum beside it. Raises
    AtlasError where downloads are forbidden or fail, bytes are missing, or the checksum is not `sha256`."""
    if obstacle := find_obstacle(address):
        raise AtlasError(f"{target.name} is not here, and {obstacle}.")
    LOG.info("Fetching %s ...", address)
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        partial = Path(name)
        with os.fdopen(handle, "wb") as file:
            found = _copy(address, file)
        if sha256 is not None and found != sha256:
            raise AtlasError(
                f"{address} has the SHA-256 {found}, expected {sha256}: the file was damaged on its way or replaced.",
                hint="Try again; if it was replaced, fetch the file by hand and give its directory with --atlas-dir.",
            )
        partial.chmod(0o644)
        _record(target, found)
        partial.replace(target)
    except HTTPError as error:
        raise AtlasError(f"{address} cannot be fetched: the server answers {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AtlasError(f"{address} cannot be fetched to {target.parent}: {error}.") from error
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def _copy(address: str, file: BinaryIO) -> str:
    digest, n_bytes = hashlib.sha256(), 0
    request = Request(address, headers={"User-Agent": "bids_semantoks"})
    with urlopen(request, timeout=_PATIENCE) as response:
        promised = response.headers.get("Content-Length")
        while block := response.read(_BLOCK):
            digest.update(block)
            n_bytes += len(block)
            file.write(block)
    if promised is not None and n_bytes != int(promised):
        raise OSError(f"{n_bytes} of {promised} bytes came")
    if not n_bytes:
        raise OSError("it is empty")
    return digest.hexdigest()


def _record(target: Path, sha256: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
        file.write(f"{sha256}  {target.name}\n")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(_name_record(target))


def _name_record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def check_published(path: Path, sha256: str, published: str | None) -> None:
    """Refuse a file whose checksum is not that of the published file: AtlasError; None passes any."""
    if published is not None and sha256 != published:
        raise AtlasError(
            f"{path} has the SHA-256 {sha256}, expected {published}: it is not the file that is published as "
            f"{path.name}.",
            hint="It is damaged or was changed: fetch it again (bids_semantoks-fetch), or give a file of your own with "
            "--atlas PATH.",
        )


def check_recorded(path: Path, sha256: str) -> None:
    """Refuse a file whose checksum has changed since it was fetched: AtlasError; a file without a record passes."""
    record = _name_record(path)
    try:
        recorded = record.read_text(encoding="utf-8").split()[:1]
    except (OSError, UnicodeDecodeError):
        return
    is_record = bool(recorded) and re.fullmatch(r"[0-9a-f]{64}", recorded[0]) is not None
    if is_record and recorded[0] != sha256:
        raise AtlasError(
            f"{path} has the SHA-256 {sha256}, but {recorded[0]} when it was fetched ({record.name}).",
            hint="It is damaged or was replaced: delete both files and fetch it again (bids_semantoks-fetch).",
        )
