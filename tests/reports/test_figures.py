"""Figures and their place on a page: what they show, and that they can fail nobody."""

import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from bids_semantoks.reports.figures_embedding import compute_stability, draw_stability, draw_tokens, draw_windows
from bids_semantoks.reports.figures_networks import draw_coverage, sort_by_network
from bids_semantoks.reports.figures_signals import Volumes, draw_carpet

from bids_semantoks.reports.figures import build_figure_path, load_picture, render_figure, write_figure, zscore_rows
from bids_semantoks.reports.figures_probes import draw_values

P, T = 13, 41


NETWORKS = ("Cont", "Vis", "", "Other", "Vis", "Limbic", "Vis", "Cont", "", "Other", "Vis", "Limbic", "Default")


STEM = "sub-01_task-rest_space-MNI152NLin6Asym_atlas-Own"


DRAWN = '<?xml version="1.0"?>\n<svg id="a#b"><text>50 % & ü > "é" < 1\'</text></svg>\n'


def build_volumes():
    kept = np.ones(T, dtype=bool)
    kept[[0, 1, 7, 8, 20]] = False
    return Volumes(kept=kept, n_dummy=2, motion=np.full(T, 0.1), threshold=0.3, repetition_time=1.5)


def write_picture(out_dir, word):
    folder = out_dir / "sub-01" / "figures"
    folder.mkdir(parents=True)
    (folder / f"{STEM}_desc-{word}_bold.svg").write_text(DRAWN, encoding="utf-8")


def test_parcels_are_scored_over_the_volumes_they_have():
    values = np.random.default_rng(3).normal(size=(T, P)).astype(np.float32)
    values[5] = np.nan
    values[:, 4] = np.nan
    scores = zscore_rows(values)
    assert scores.shape == (P, T)
    np.testing.assert_allclose(np.nanstd(scores[0]), 1)


@pytest.mark.parametrize("n_windows", [1, 3])
def test_figures_are_drawn_even_where_little_is_known(tmp_path, n_windows):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(T, P)).astype(np.float32)
    values[:, 3] = np.nan
    unknown = Volumes(
        kept=np.ones(T, dtype=bool), n_dummy=0, motion=np.full(T, np.nan), threshold=None, repetition_time=2
    )
    order, missing = sort_by_network(NETWORKS), np.full(P, np.nan)
    tokens = rng.normal(size=(n_windows, 1 + 3 * 2, 8)).astype(np.float32)
    onset, kept = np.arange(n_windows) * 10.0, np.full(n_windows, 0.5)
    vectors = [tokens[:, 0]]
    draws = {
        "carpet": lambda: draw_carpet(values, values, unknown, order, np.full(P, -1)),
        "coverage": lambda: draw_coverage(missing, np.zeros(P, dtype=bool), order, None),
        "windows": lambda: draw_windows(onset, 100.0, kept, build_volumes()),
        "tokens": lambda: draw_tokens(tokens, ("a", "b", "c"), ("b",)),
        "stability": lambda: draw_stability(compute_stability(vectors, ("run",), [])),
    }
    for word, draw in draws.items():
        path = build_figure_path(tmp_path, "sub-01_task-rest", word)
        assert path == tmp_path / "sub-01" / "figures" / f"sub-01_task-rest_desc-{word}_bold.svg"
        assert write_figure(path, draw), word
        first = path.read_bytes()
        assert first.startswith(b"<?xml")
        assert write_figure(path, draw)
        assert path.read_bytes() == first


def test_a_failing_figure_is_said_and_takes_its_old_one_along(tmp_path, caplog):
    path = tmp_path / "old.svg"
    path.write_text("old")

    def fail():
        raise ZeroDivisionError("no pixels")

    assert not write_figure(path, fail)
    assert not path.exists()
    assert "old.svg could not be drawn: ZeroDivisionError: no pixels" in caplog.text


def test_figures_never_fail_a_call() -> None:
    assert render_figure("x", lambda: draw_values(np.arange(7.0), np.arange(7.0), name="age")).startswith("data:image")

    def fail() -> None:
        raise ValueError("no")

    assert render_figure("x", fail) == ""  # type: ignore[arg-type]


def test_the_figure_comes_back_from_its_address_as_it_was_drawn(tmp_path):
    write_picture(tmp_path, "OwnTokens")
    picture = load_picture(tmp_path, STEM, "OwnTokens", "Tokens")
    assert picture.title == "Similarity of tokens"
    head, _, body = picture.data.partition(",")
    assert head == "data:image/svg+xml;charset=utf-8"
    assert urllib.parse.unquote(body) == DRAWN
    # It stands in an attribute of HTML.
    assert not set('"<>#&') & set(body)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("carpet", "It needs the signals before denoising"),
        ("motion", "It needs the confounds"),
        ("Tokens", "save them with --save-tokens"),
        ("coverage", "It could not be drawn; the log says why."),
    ],
)
def test_a_figure_that_is_not_there_says_why(tmp_path, kind, reason):
    picture = load_picture(tmp_path, STEM, kind, kind)
    assert picture.data == ""
    assert reason in picture.missing
    assert picture.title
    assert picture.caption


def test_a_figure_lies_in_the_folder_of_a_participant_whose_label_holds_an_underscore():
    path = build_figure_path(Path("out"), "sub-site1_03_task-rest_atlas-A", "motion")
    assert path.parent == Path("out/sub-site1_03/figures")
