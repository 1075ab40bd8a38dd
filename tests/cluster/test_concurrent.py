"""Twenty processes on one output directory leave what one leaves."""

import os
import signal
import subprocess
import sys

N_PROCESSES = 20


LABELS = ("001", "004")


# Loading the libraries takes longer than the work; forked afterwards, all processes begin at the same time.
DRIVER = """
import os, sys
import matplotlib.backends.backend_svg, matplotlib.figure
import nilearn.connectome, nilearn.interfaces.fmriprep, nilearn.signal
import bids_semantoks.reports.reporting
from bids_semantoks.cli import call

study, out = sys.argv[1:]
assert call([study, out, "participant", "--atlas", "Demo457", "--model", "random:tiny", "-q", "--dry-run"]) == 0
children = []
for i in range(int(os.environ["N_PROCESSES"])):
    child = os.fork()
    if not child:
        # Most do the same run; all write the files that the whole dataset shares.
        label = "004" if i % 4 == 0 else "001"
        options = ["--participant-label", label, "--atlas", "Demo457", "--model", "random:tiny", "-q"]
        os._exit(call([study, out, "participant", *options, "--n-procs", "1"]))
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(f"exit codes {codes}" if any(codes) else 0)
"""


def read_results(root, labels):
    files = [
        path for label in labels for path in (root / f"sub-{label}").rglob("*") if path.suffix in (".tsv", ".json")
    ]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_twenty_processes_write_what_one_writes(study, outputs, tmp_path):
    out = tmp_path / "out"
    environment = {**os.environ, "N_PROCESSES": str(N_PROCESSES), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(study), str(out)]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        text = driver.communicate(timeout=600)[1]
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        raise
    assert driver.returncode == 0, text
    assert text.count(" 0 failed") == N_PROCESSES
    one, many = read_results(outputs, LABELS), read_results(out, LABELS)
    assert one.keys() == many.keys()
    for name, content in one.items():
        if name.endswith(".tsv"):
            assert many[name] == content, name
    assert sorted(path.name for path in (out / "logs").glob("sub-*/*")) == sorted(
        path.name for path in (outputs / "logs").glob("sub-*/*") if path.name[4:7] in LABELS
    )
    for name in ("dataset_description.json", "descriptions.tsv"):
        assert (out / name).read_bytes() == (outputs / name).read_bytes(), name
    assert not list(out.rglob("*.tmp"))
    assert len(list((out / "logs" / "calls").glob("*/config.json"))) == N_PROCESSES
