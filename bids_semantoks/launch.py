"""How pretraining ended, in a file, for those who started it by torchrun, which ends with 1 whatever happened."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bids_semantoks.errors import SemantoksError, TrainingStopped
from bids_semantoks.outputs.files import write_json
from bids_semantoks.pool import read_rank


def find_record(out_dir: Path) -> Path | None:
    """Find where the record of this launch goes.

    Parameters
    ----------
    out_dir : Path
        Of the call.

    Returns
    -------
    Path or None
        ``logs/launch-<rdzv id>.json``; None in all processes but the first, and where torchrun did not start them.
    """
    launch = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if not launch or read_rank() > 0:
        return None
    return out_dir / "logs" / f"launch-{re.sub(r'[^A-Za-z0-9_.-]', '_', launch)}.json"


@contextlib.contextmanager
def record_end(out_dir: Path) -> Iterator[None]:
    """Leave a record of how what is done meanwhile ended: its status, its exit code and why.

    A process that is killed leaves none, and none of an earlier launch of the same name stays.

    Parameters
    ----------
    out_dir : Path
        Of the call.

    Yields
    ------
    None
        Once.
    """
    path = find_record(out_dir)
    if path is None:
        yield
        return
    with contextlib.suppress(OSError):
        path.unlink()
    status, code, message = "ok", 0, ""
    try:
        yield
    except SemantoksError as error:
        status = "stopped" if isinstance(error, TrainingStopped) else "failed"
        code, message = error.exit_code, str(error)
        raise
    except Exception as error:
        status, code, message = "failed", 1, f"{type(error).__name__}: {error}"
        raise
    except BaseException:
        # Interrupted: the launch is over, and what it would have come to is not known.
        path = None
        raise
    finally:
        if path is not None:
            # A full disk must not replace the error that is on its way.
            with contextlib.suppress(OSError):
                write_json(path, {"status": status, "exit_code": code, "message": message})
