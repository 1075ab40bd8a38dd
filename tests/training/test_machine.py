"""A machine for training has torch and NumPy, but nothing of BIDS: everything that trains must start there."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


START = """
import importlib, pkgutil, runpy, sys
for absent in ("bids", "nibabel", "nilearn", "templateflow", "pandas", "click"):
    sys.modules[absent] = None
import bids_semantoks.models, bids_semantoks.training
for package in (bids_semantoks.models, bids_semantoks.training):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
for script in ("bench_pretrain", "bench_packing", "compare_pretraining"):
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(f"benchmarks/{script}.py", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, script
"""


def test_all_starts_without_what_speaks_bids():
    command = [sys.executable, "-c", START]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=240)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage:") == 3
