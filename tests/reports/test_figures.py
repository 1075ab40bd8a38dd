"""Figures and their place on a page: what they show, and that they can fail nobody."""

from pathlib import Path

import numpy as np

from bids_semantoks.reports.figures import build_figure_path, write_figure
from bids_semantoks.reports.figures_probes import draw_values


def test_a_failing_figure_is_said_and_takes_its_old_one_along(tmp_path, caplog):
    path = tmp_path / "old.svg"
    path.write_text("old")

    def fail():
        raise ZeroDivisionError("no pixels")

    assert not write_figure(path, fail)
    assert not path.exists()
    assert "old.svg: ZeroDivisionError: no pixels" in caplog.text


def test_a_figure_is_svg_with_text_or_png(tmp_path):
    for kind, head in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        path = tmp_path / f"x.{kind}"
        assert write_figure(path, lambda: draw_values(np.arange(7.0), np.arange(7.0), name="age"))
        assert path.read_bytes().startswith(head)
    assert ">predicted age" in (tmp_path / "x.svg").read_text()


def test_a_figure_lies_in_the_folder_of_a_participant_whose_label_holds_an_underscore():
    path = build_figure_path(Path("out"), "sub-site1_03_task-rest_atlas-A", "carpet", "svg")
    assert path.parent == Path("out/sub-site1_03/figures")
