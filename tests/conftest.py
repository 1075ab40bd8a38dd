"""A small synthetic study, and its outputs, shared by all tests of the whole program."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_semantoks.cli import call
from bids_semantoks.demo.study import write_study

# Nothing is fetched, and what users keep in their caches changes no test; set here because child processes count, too.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["BIDS_SEMANTOKS_CACHE_DIR"] = tempfile.mkdtemp(prefix="bids_semantoks-tests-")
atexit.register(shutil.rmtree, os.environ["BIDS_SEMANTOKS_CACHE_DIR"], ignore_errors=True)

#: Options that let the program run on the synthetic study.
DEMO_OPTIONS = ("--atlas", "Demo457", "--model", "random:tiny")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests unless a call selects tests by their marks."""
    if not config.option.markexpr:
        items[:] = [item for item in items if item.get_closest_marker("long") is None]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Let no test's random numbers depend on which tests ran before it in the same process."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the checkout; tests that need it are skipped without."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the shared folder beside the checkout")
    return folder


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four participants: six runs of 136 s and one too short; two sessions; acq-AP and acq-PA. Only read it."""
    root = tmp_path_factory.mktemp("study") / "raw"
    write_study(root, n_participants=4, short=True)
    return root


@pytest.fixture(scope="session")
def outputs(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the participant level makes of the study. Only read it."""
    out_dir = tmp_path_factory.mktemp("outputs") / "out"
    arguments = [str(study), str(out_dir), "participant", *DEMO_OPTIONS, "--n-procs", "1", "-q"]
    assert call(arguments) == 0
    return out_dir


@pytest.fixture
def own_study(study: Path, tmp_path: Path) -> Path:
    """A copy of the study that a test may damage."""
    shutil.copytree(study, tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def app(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Call the program in this process; gives its exit code and all that it printed."""

    def run(bids_dir: Path, out_dir: Path, *arguments: str, level: str = "participant") -> tuple[int, str]:
        capsys.readouterr()
        code = call([str(bids_dir), str(out_dir), level, *DEMO_OPTIONS, "--n-procs", "1", *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run
