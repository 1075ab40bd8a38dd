"""Figures of a run for papers."""

import re
import shutil

import pytest

STEM = "sub-001_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457"
WORDS = ("carpet", "connectivity", "coverage", "RandomTinyTokens")


def test_runs_have_no_figures_unless_asked_for(outputs):
    assert not list(outputs.glob("sub-*/figures"))


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_figures_are_drawn_from_what_pages_draw(study, outputs, tmp_path, app, kind):
    shutil.copytree(outputs, tmp_path / "out")
    code, text = app(study, tmp_path / "out", "--reports-only", "--figures", kind, "--participant-label", "001")
    assert code == 0
    assert "Could not draw figure" not in text
    folder = tmp_path / "out" / "sub-001" / "figures"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{STEM}_desc-{word}_bold.{kind}" for word in WORDS)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert content.startswith(b"<?xml" if kind == "svg" else b"\x89PNG")
    if kind == "svg":
        # Text can be searched and edited.
        text = (folder / f"{STEM}_desc-carpet_bold.svg").read_text()
        assert {"SomMot", "signals after denoising"} <= set(re.findall(r"<text[^>]*>([^<]+)</text>", text))
    assert not list((tmp_path / "out").glob("sub-002/figures"))
