"""Pages and figures: what they show, and that they can fail nobody."""

import json
import re
import shutil

import numpy as np
import pytest

from bids_semantoks.outputs.figures import build_figure_path, sort_by_network, spread, write_figure, zscore_rows
from bids_semantoks.outputs.figures_embedding import compute_stability, draw_stability, draw_tokens, draw_windows
from bids_semantoks.outputs.figures_signals import Volumes, compute_dvars, compute_global, draw_carpet, draw_coverage
from bids_semantoks.outputs.fit import find_worst, judge_fit
from bids_semantoks.outputs.report import build_page, write_report

P, T = 13, 41
NETWORKS = ("Cont", "Vis", "", "Other", "Vis", "Limbic", "Vis", "Cont", "", "Other", "Vis", "Limbic", "Default")


def build_volumes():
    kept = np.ones(T, dtype=bool)
    kept[[0, 1, 7, 8, 20]] = False
    return Volumes(kept=kept, n_dummy=2, motion=np.full(T, 0.1), threshold=0.3, repetition_time=1.5)


def test_parcels_are_sorted_by_network():
    order = sort_by_network(NETWORKS)
    assert order.names == ("Vis", "Limbic", "Cont", "Default", "Other", "no network")
    assert order.edges.tolist() == [0, 4, 6, 8, 9, 11, 13]
    assert order.order.tolist() == [1, 4, 6, 10, 5, 11, 0, 7, 12, 3, 9, 2, 8]


def test_labels_are_moved_apart_within_limits():
    placed = spread([1.0, 1.5, 9.0, 9.5], gap=2.0, low=0.0, high=10.0)
    assert np.diff(placed).min() >= 2.0
    assert placed[0] >= 0
    assert placed[-1] <= 10


def test_dvars_and_global_signal_against_loops():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(T, P)).astype(np.float32)
    values[5] = np.nan
    values[:, 4] = np.nan
    weights = rng.integers(1, 9, P)
    there = [p for p in range(P) if p != 4]
    dvars, mean = compute_dvars(values), compute_global(values, weights)
    for t in range(T):
        if t in (0, 5, 6):
            assert np.isnan(dvars[t])
        else:
            wanted = np.sqrt(np.mean([(float(values[t, p]) - float(values[t - 1, p])) ** 2 for p in there]))
            assert dvars[t] == pytest.approx(wanted)
    wanted = sum(float(values[9, p]) * weights[p] for p in there) / sum(weights[p] for p in there)
    assert mean[9] == pytest.approx(wanted)
    scores = zscore_rows(values)
    assert scores.shape == (P, T)
    np.testing.assert_allclose(np.nanstd(scores[0]), 1)


def test_stability_tells_runs_from_others():
    rng = np.random.default_rng(5)
    own = rng.normal(size=8)
    runs = [(own + 0.1 * rng.normal(size=(n, 8))).astype(np.float32) for n in (3, 2)]
    others = [rng.normal(size=(4, 8)).astype(np.float32) for _ in range(6)]
    found = compute_stability(runs, ("a", "b"), others)
    assert found.is_centred
    assert (found.within.size, found.between.size, found.others.size) == (4, 6, 30)
    assert np.median(found.within) > 0.9
    assert np.median(found.between) > 0.9
    assert np.median(found.others) < 0.5
    assert not compute_stability(runs, ("a", "b"), others[:3]).is_centred


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


SIGNALS = {
    "VolumesKept": 200,
    "RepetitionTime": 2.0,
    "Settings": {"denoising": {"name": "simple"}, "band_pass": [0.01, 0.1]},
}
NO_BAND = {"band": "no filter"}
UNFILTERED = {"denoising": {"name": "x"}, "band_pass": None}
EMBEDDING = {"Model": {"Limits": None}, "MaskedNetworks": []}
OWN = {
    "repetition_time_of_the_sources_in_s": [0.8, 1.2],
    "length_of_the_runs_in_s": [300.0, 500.0],
    "band": [0.01, 0.1],
    "smallest_share_of_parcels_with_signal": 0.95,
}


@pytest.mark.parametrize(
    ("signals", "embedding", "coverage", "name", "level", "words"),
    [
        ({}, {}, 0.97, "repetition time", "green", "0.735 to 3 s of the published"),
        ({"RepetitionTime": 3.5}, {}, 0.97, "repetition time", "amber", "outside"),
        ({}, {"Model": {"Limits": OWN}}, 0.97, "repetition time", "amber", "0.8 to 1.2 s this encoder was trained on"),
        ({"VolumesKept": 49}, {}, 0.97, "length", "red", "under 100 s"),
        ({"VolumesKept": 75}, {}, 0.97, "length", "amber", "shorter than the 200 s"),
        ({"Settings": {"denoising": {}, "band_pass": None}}, {}, 0.97, "band", "amber", "not known here"),
        ({"Settings": UNFILTERED}, {}, 0.97, "band", "amber", "differs from"),
        ({"Settings": UNFILTERED}, {"Model": {"Limits": NO_BAND}}, 0.97, "band", "green", "the same as this encoder"),
        ({}, {"Model": {"Limits": NO_BAND}}, 0.97, "band", "amber", "trained on: no filter"),
        ({}, {}, 0.85, "coverage", "amber", "under 0.90"),
        ({}, {"Model": {"Limits": OWN}}, 0.94, "coverage", "amber", "under 0.95"),
        ({}, {}, 0.79, "coverage", "red", "under 0.8"),
        ({}, {}, float("nan"), "coverage", "amber", "without a coverage table"),
        ({}, {"MaskedNetworks": ["Limbic"]}, 0.97, "networks", "red", "guess"),
    ],
)
def test_input_fit_is_a_light_with_words(signals, embedding, coverage, name, level, words):
    items = judge_fit({**SIGNALS, **signals}, {**EMBEDDING, **embedding}, np.full(P, coverage))
    (item,) = [item for item in items if item.name == name]
    assert (item.level, words in item.words) == (level, True), item
    assert find_worst(items) == level


def test_a_page_holds_all_and_needs_nothing(outputs):
    page = (outputs / "sub-002.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//(?!doi\.org)[^"]*\.(js|css|png|svg)"', page)
    assert "<script" not in page
    assert "Session 1" in page
    assert "Session 2" in page
    assert page.count("data:image/svg+xml") == 2 * (4 + 2) + 1
    assert "Missing." not in page
    assert "Methods" in page
    assert "References" in page
    for link in re.findall(r'href="(sub-[^"]+)"', page):
        assert (outputs / link).is_file(), link
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page, anchor
    short = (outputs / "sub-004.html").read_text(encoding="utf-8")
    assert "too_short" in short
    assert "shorter than --min-time 100 s" in short


def test_figures_are_named_in_bids_manner(outputs):
    names = sorted(path.name for path in (outputs / "sub-001" / "figures").iterdir())
    stem = "sub-001_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457"
    assert names == sorted(
        [
            *(f"{stem}_desc-{word}_bold.svg" for word in ("carpet", "motion", "coverage", "connectivity")),
            *(f"{stem}_desc-RandomTiny{word}_bold.svg" for word in ("Windows", "Tokens")),
            "sub-001_space-MNI152NLin2009cAsym_atlas-Demo457_desc-RandomTinyStability_bold.svg",
        ]
    )


def test_missing_figures_and_failures_are_reported(outputs, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    next((out / "sub-001" / "figures").glob("*_desc-carpet_bold.svg")).unlink()
    (status,) = (out / "logs" / "runs").glob("sub-001_*.json")
    values = json.loads(status.read_text()) | {"status": "failed", "reason": "bad_image", "message": "Torn <file>."}
    status.write_text(json.dumps(values))
    page = build_page(out, "001")
    assert "Missing. It needs the signals before denoising" in page
    assert "Torn &lt;file&gt;." in page
    assert "bad_image" in page
    assert "No run failed" not in page


def test_a_page_that_cannot_be_written_fails_nobody(outputs, tmp_path, caplog):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    next((out / "logs" / "runs").glob("sub-001_*.json")).write_text("{")
    assert not write_report(out, "001")
    assert "sub-001.html could not be written" in caplog.text


def test_reports_only_draws_from_files_and_keeps_the_rest(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    figures = {path.name: path for path in (out / "sub-002" / "figures").iterdir()}
    before = {name: path.read_bytes() for name, path in figures.items()}
    for name, path in figures.items():
        if "connectivity" in name or "Windows" in name:
            path.unlink()
    (out / "sub-002.html").unlink()
    (out / "sub-001.html").unlink()
    code, text = app(study / "gone", out, "--reports-only", "--participant-label", "sub-002")
    assert code == 0
    assert "1 reports written" in text
    after = {path.name: path.read_bytes() for path in (out / "sub-002" / "figures").iterdir()}
    # More of the others are known by now.
    (changing,) = [name for name in before if "Stability" in name]
    assert after.pop(changing).startswith(b"<?xml")
    before.pop(changing)
    assert after == before
    assert (out / "sub-002.html").is_file()
    assert not (out / "sub-001.html").exists()
    code, text = app(study, out, "--reports-only", "--participant-label", "099")
    assert code == 3
    assert "099" in text
