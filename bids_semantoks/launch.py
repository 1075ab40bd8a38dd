"""Record in a file how pretraining ended, since torchrun exits with 1 whatever the reason."""

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
    """Return the path of the record, ``logs/launch-<rdzv id>.json``; None without torchrun and in all ranks but the
    first."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if not launch or read_rank() > 0:
        return None
    return out_dir / "logs" / f"launch-{re.sub(r'[^A-Za-z0-9_.-]', '_', launch)}.json"


@contextlib.contextmanager
def record_end(out_dir: Path) -> Iterator[None]:
    """Record how the enclosed block ended: status, exit code and message.

    The record of an earlier launch of the same name is removed; a process that is killed or interrupted leaves none.
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
