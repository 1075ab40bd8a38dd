"""Files as the disk has them: full disks, remains of processes that died, absent content, sizes that cannot be."""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bids_semantoks.errors import ConfigurationError, ResourceError, RunSkipped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A file-size limit ends a write in the same way as a full disk or an exceeded quota.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Messages of libraries in other languages, whose errors have no number: Rust, C and SQLite.
_SAID: Final = (*(f"(os error {number})" for number in _FULL), os.strerror(errno.ENOSPC), "disk is full")
# Names of temporary files, folders and segments with their owner, as `tag_owner` writes it; before 0.2, without.
_OWNER: Final = re.compile(r"([0-9a-f]{8})-(\d+)-(\d*)-")
_TEMPORARY: Final = re.compile(
    rf"\.(?:{_OWNER.pattern})?[0-9a-f]{{12}}\.tmp|(?:\.making-|bids_semantoks-fetched-){_OWNER.pattern}.*"
)
#: Seconds without a write after which a file counts as left behind if its owner cannot be checked.
_PATIENCE: Final = 86400.0


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, reports a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, Exception) and any(words in str(error) for words in _SAID):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def read_space() -> str:
    """Read which name space process numbers belong to: a container has its own; empty if /proc does not tell."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def read_start(process: int) -> str:
    """Read when a process was started, which tells it from a later one of its number; empty for none, or a dead one."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # after the name, which may hold blanks
    return "" if fields[0] in "ZX" else fields[19]


@functools.cache
def _identify_place() -> str:
    """Identify the scope of process numbers: machine, boot and name space; if the system does not
    provide these, no two processes share a scope."""
    space = read_space()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        boot = ""
    if not (space and boot):
        return os.urandom(4).hex()
    import hashlib  # noqa: PLC0415 - --help needs none of it

    return hashlib.sha256(f"{socket.gethostname()} {boot} {space}".encode()).hexdigest()[:8]


@functools.cache
def _tag(process: int) -> str:
    return f"{_identify_place()}-{process}-{read_start(process)}-"


def tag_owner() -> str:
    """Return a name prefix by which later calls can tell whether this process, the owner, is dead."""
    return _tag(os.getpid())


def name_temporary() -> str:
    """Return a new hidden name for a temporary file."""
    return f".{tag_owner()}{os.urandom(6).hex()}.tmp"


def is_left_behind(name: str, status: os.stat_result) -> bool:
    """Return whether the owner in a name is dead. If that cannot be checked (another machine,
    container or user), the file must not have been written to for a day."""
    owner = _OWNER.search(name)
    if owner and owner[1] == _identify_place() and status.st_uid == os.geteuid():
        return read_start(int(owner[2])) != owner[3]
    return time.time() - status.st_mtime > _PATIENCE


def remove_leftovers(directory: Path) -> None:
    """Remove our temporary files and folders that dead processes left in a directory."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                if is_left_behind(entry.name, entry.stat(follow_symlinks=False)):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else Path(entry.path).unlink()


#: For writing many files into one directory.
remove_leftovers_once = functools.cache(remove_leftovers)


@contextlib.contextmanager
def open_folder(directory: Path) -> Iterator[Path]:
    """Open a folder that gets its name only once complete; if the block raises, nothing is left behind, and later calls
    remove what a killed process leaves."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers_once(directory.parent)
    partial = directory.parent / f".making-{tag_owner()}{os.urandom(6).hex()}"
    partial.mkdir()
    try:
        yield partial
        partial.replace(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_writable(directory: Path) -> None:
    """Create a directory if needed, remove leftovers and try to write to it: ConfigurationError if it is not
    writable, ResourceError if the disk is full."""
    probe = directory / name_temporary()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        reason = error.strerror or str(error)
        if is_full(error):
            raise ResourceError(f"No space left to write to {directory}: {reason}.", hint="Free disk space.") from error
        raise ConfigurationError(
            f"Cannot write to {directory}: {reason}.", hint="Use an output directory with write permission."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def check_content(path: Path) -> None:
    """Raise RunSkipped no_content if a file's content was not fetched (dangling link or git-annex pointer)."""
    is_pointer = False
    if path.is_file() and path.stat().st_size < 4096:
        is_pointer = b"/annex/objects/" in path.read_bytes()[:2048]
    if is_pointer or (path.is_symlink() and not path.exists()):
        raise RunSkipped("no_content", f"The content of {path} has not been fetched.", hint="Run `datalad get` first.")


#: Maximum compression ratio of DEFLATE, the method of gzip and zlib.
MOST_INFLATED: Final = 1032
_STORED: Final = {".nii": 1, ".gz": MOST_INFLATED, ".mgz": MOST_INFLATED}


def check_size(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Raise ValueError if an image of this shape and type needs more bytes than its file can hold. Files compressed
    with anything but gzip are not checked."""
    n_bytes = math.prod(map(int, shape)) * dtype.itemsize
    factor = _STORED.get(path.suffix.lower())
    if factor is not None and n_bytes > factor * path.stat().st_size:
        raise ValueError(
            f"its header declares {n_bytes} bytes ({dtype}, shape {tuple(map(int, shape))}), more than the "
            "file can hold"
        )


def read_array(path: Path) -> NDArray[Any]:
    """Read a ``.npy`` file without objects. Raises OSError, or ValueError if it is anything else or shorter than
    its header declares."""
    import numpy as np  # noqa: PLC0415 - --help needs none of it

    # Memory-map first: this checks the sizes before any memory is allocated.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray):
        raise ValueError("it is an archive of arrays (.npz)")
    return np.array(mapped)
