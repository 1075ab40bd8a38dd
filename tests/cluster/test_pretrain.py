"""What the job script of pretraining makes of the ways in which a training can end."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "slurm" / "pretrain.sbatch"


#: Ends as torchrun does, leaving a record as the program does; with ``ask`` the scheduler asks the script to stop.
SRUN = """#!/bin/bash
test -z "$ASK" || { trap : USR1; kill -USR1 "$PPID"; /bin/sleep 0.3; }
test -z "$RECORD" || printf '{\\n  "status": "x",\\n  "exit_code": %s,\\n  "message": ""\\n}\\n' "$RECORD" \
    >"$OUT/logs/launch-41-2.json"
exit "$CODE"
"""


@pytest.mark.parametrize(
    ("code", "record", "is_asked", "expected", "is_requeued"),
    [
        (0, 0, False, 0, False),
        (0, 0, True, 0, False),
        (1, 8, True, 8, True),
        (1, 8, False, 8, False),
        (1, 9, True, 9, False),
        (1, 5, False, 5, False),
        (1, None, True, 1, True),
        (1, None, False, 1, False),
        (1, 0, True, 1, True),
        (1, 0, False, 1, False),
    ],
)
def test_saved_goes_on_and_failed_does_not(tmp_path, code, record, is_asked, expected, is_requeued):
    scontrol = '#!/bin/sh\necho scontrol "$@"\n'
    # The script sleeps until SLURM ends it when it has been requeued.
    for name, text in (("srun", SRUN), ("scontrol", scontrol), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "logs").mkdir()
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "OUT": str(tmp_path),
        "CODE": str(code),
        "RECORD": "" if record is None else str(record),
        "ASK": "yes" if is_asked else "",
        "SLURM_JOB_ID": "41",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_JOB_NODELIST": "one",
        "SLURM_JOB_NUM_NODES": "1",
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), "/in", str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == expected, done.stderr
    assert ("scontrol requeue 41" in done.stdout) == is_requeued
    assert ("stop requested: saving" in done.stdout) == is_asked
    assert ("resume" in done.stdout) == (expected == 8 or is_requeued)
