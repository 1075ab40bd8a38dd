"""Where temporary files and caches go on machines that allow little."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from bids_semantoks.runtime.resources import open_work_dir

VARIABLES = ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No cache has its place yet, and what the code sets is undone."""
    for name in (*VARIABLES, "TMPDIR"):
        # Set first, so that it is taken away again even where it was not there.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", None)
    return monkeypatch


def test_a_work_directory_takes_everything(places, tmp_path):
    open_work_dir(tmp_path / "work", tmp_path / "out")
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path / "work")
    for name in VARIABLES:
        assert Path(os.environ[name]).parent == tmp_path / "work"
    assert not (tmp_path / "out").exists()


def test_what_the_user_set_stays(places, tmp_path):
    places.setenv("TRITON_CACHE_DIR", "/elsewhere")
    open_work_dir(tmp_path / "work", tmp_path / "out")
    assert os.environ["TRITON_CACHE_DIR"] == "/elsewhere"


def test_without_a_home_caches_are_temporary(places, tmp_path):
    places.setenv("HOME", str(tmp_path / "nowhere"))
    places.setenv("TMPDIR", str(tmp_path))
    open_work_dir(None, tmp_path / "out")
    for name in VARIABLES:
        assert Path(os.environ[name]).parent == tmp_path / f"bids_semantoks-{os.getuid()}"
    (own,) = tmp_path.iterdir()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert list(own.iterdir()) == []


def test_a_home_is_left_to_the_libraries(places, tmp_path):
    places.setenv("HOME", str(tmp_path))
    open_work_dir(None, tmp_path / "out")
    assert not set(VARIABLES) & set(os.environ)
