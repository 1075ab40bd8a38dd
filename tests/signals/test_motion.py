"""Displacement from filtered movement parameters: against SciPy written out, sines, and what XCP-D wrote."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import filtfilt

from bids_semantoks.config import SignalsConfig
from bids_semantoks.errors import RunFailed
from bids_semantoks.records import Run
from bids_semantoks.signals.confounds import ConfoundsTable
from bids_semantoks.signals.denoising import load_denoising
from bids_semantoks.signals.motion import design_filter, filter_motion, read_filtered
from bids_semantoks.signals.regressors import Regressors, select_regressors, select_volumes

T, N_DUMMY = 157, 4
NAMES = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


@pytest.fixture
def parameters() -> np.ndarray:
    """Slow drifts (T, 6) in mm and radians; the dummy volumes are far away."""
    steps = np.random.default_rng(11).standard_normal((T, 6)) * [0.1, 0.07, 0.2, 0.002, 0.003, 0.001]
    walk = np.cumsum(steps, axis=0)
    walk[:N_DUMMY, :3] += 7
    return walk


def write_table(path: Path, columns: dict[str, np.ndarray]) -> Path:
    cells = [["n/a" if np.isnan(x) else repr(float(x)) for x in column] for column in columns.values()]
    path.write_text("\n".join("\t".join(row) for row in [list(columns), *zip(*cells, strict=True)]) + "\n")
    return path


def compute_power(parameters: np.ndarray) -> np.ndarray:
    rows = [np.nan]
    for now, before in zip(parameters[1:], parameters[:-1], strict=True):
        rows.append(sum(abs(now[i] - before[i]) * (1 if i < 3 else 50) for i in range(6)))
    return np.array(rows)


def write_confounds(folder: Path, parameters: np.ndarray, **more: np.ndarray) -> Path:
    marks = {
        f"non_steady_state_outlier{n:02d}": (np.arange(len(parameters)) == n).astype(float) for n in range(N_DUMMY)
    }
    columns = dict(zip(NAMES, parameters.T, strict=True)) | {"framewise_displacement": compute_power(parameters)}
    return write_table(folder / "sub-01_desc-confounds_timeseries.tsv", columns | marks | more)


def apply(folder: Path, parameters: np.ndarray, text: str, repetition_time: float, n_dummy: int = 0) -> np.ndarray:
    table = ConfoundsTable(write_confounds(folder, parameters))
    return filter_motion(table, text, n_dummy=n_dummy, repetition_time=repetition_time, notes=[]).values


def write_out_low_pass(edge: float, repetition_time: float) -> tuple[list[float], list[float]]:
    """Butterworth of order 2 by the bilinear transform."""
    k = np.tan(np.pi * edge * repetition_time)
    scale = 1 + np.sqrt(2) * k + k**2
    b = k**2 / scale
    return [b, 2 * b, b], [1.0, 2 * (k**2 - 1) / scale, (1 - np.sqrt(2) * k + k**2) / scale]


def write_out_notch(centre: float, width: float, repetition_time: float) -> tuple[list[float], list[float]]:
    """Zeros on the unit circle, 3 dB width by the bilinear transform."""
    gain = 1 / (1 + np.tan(np.pi * width * repetition_time))
    turn = 2 * np.cos(2 * np.pi * centre * repetition_time)
    return [gain, -gain * turn, gain], [1.0, -gain * turn, 2 * gain - 1]


@pytest.mark.parametrize(
    ("text", "repetition_time", "coefficients"),
    [
        ("lp:0.1", 2.0, write_out_low_pass(0.1, 2.0)),
        ("lp:.2", 0.8, write_out_low_pass(0.2, 0.8)),
        ("notch:12-18", 0.8, write_out_notch(0.25, 0.1, 0.8)),
        # Above 0.2 Hz: 14 and 18 breaths are seen at 1/6 and 0.1 Hz.
        ("notch:14-18", 2.5, write_out_notch((0.1 + 1 / 6) / 2, 1 / 6 - 0.1, 2.5)),
        # Only the upper edge, 0.3 Hz, is above 0.25: seen at 0.2 Hz.
        ("notch:9-18", 2.0, write_out_notch(0.175, 0.05, 2.0)),
        # Above the sampling rate itself: 0.6 and 0.65 Hz, at 2 s, are seen at 0.1 and 0.15 Hz.
        ("notch:36-39", 2.0, write_out_notch(0.125, 0.05, 2.0)),
    ],
)
def test_displacement_is_that_of_parameters_filtered_after_dummies(
    tmp_path: Path, parameters: np.ndarray, text: str, repetition_time: float, coefficients: tuple
) -> None:
    steady = parameters[N_DUMMY:]
    smooth = filtfilt(*coefficients, steady, axis=0, padtype="constant", padlen=len(steady) - 1)
    found = apply(tmp_path, parameters, text, repetition_time, N_DUMMY)
    assert np.isnan(found[: N_DUMMY + 1]).all()
    np.testing.assert_allclose(found[N_DUMMY + 1 :], compute_power(smooth)[1:], rtol=1e-7)


def test_breathing_goes_and_slow_motion_stays(tmp_path: Path) -> None:
    seconds = np.arange(600) * 0.8

    def amount(text: str | None, frequency: float) -> float:
        wave = np.zeros((600, 6))
        wave[:, 1] = wave[:, 3] = np.sin(2 * np.pi * frequency * seconds)
        values = compute_power(wave) if text is None else apply(tmp_path, wave, text, 0.8)
        return float(values[100:500].mean())

    for text, out, kept in (("lp:0.1", 0.35, 0.01), ("notch:12-18", 0.25, 0.05)):
        assert amount(text, out) < 0.02 * amount(None, out), text
        assert amount(text, kept) == pytest.approx(amount(None, kept), rel=0.02)
    # About half of the amplitude is left at the edges, as each direction takes 3 dB.
    for edge in (0.2, 0.3):
        assert amount("notch:12-18", edge) == pytest.approx(0.5 * amount(None, edge), rel=0.06)


@pytest.mark.parametrize(
    ("text", "repetition_time", "said"),
    [
        ("lp:0.25", 2.0, "0.25 Hz; --motion-filter lp:0.25 would remove nothing"),
        ("lp:6", 0.8, "lp:6 would remove nothing"),
        ("notch:12-18", 2.0, "both edges map to 0.2 Hz"),
    ],
)
def test_what_a_repetition_time_does_not_allow_is_refused(text: str, repetition_time: float, said: str) -> None:
    with pytest.raises(RunFailed, match=re.escape(said)) as caught:
        design_filter(text, repetition_time)
    assert caught.value.reason == "bad_confounds"
    if text == "lp:6":
        assert "lp:0.1" in caught.value.hint


def test_a_folded_band_is_named() -> None:
    assert "0.1 to 0.167 Hz" in design_filter("notch:14-18", 2.5)[2]
    assert [design_filter(*one)[2] for one in (("notch:12-18", 0.8), ("lp:0.1", 2.0))] == ["", ""]


def select(path: Path | None, preset: str = "none", **asked: object) -> Regressors:
    config = SignalsConfig(**asked)  # type: ignore[arg-type]
    return select_regressors(path, load_denoising(preset), config, n_volumes=T, repetition_time=2.0)


def test_it_scrubs_and_leaves_regressors_alone(tmp_path: Path, parameters: np.ndarray) -> None:
    path = write_confounds(tmp_path, parameters)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"columns": NAMES}))
    plain = select(path, str(own), fd_threshold=0.5)
    chosen = select(path, str(own), fd_threshold=0.5, motion_filter="lp:0.1")
    smooth = apply(tmp_path, parameters, "lp:0.1", 2.0, N_DUMMY)
    np.testing.assert_array_equal(chosen.kept, (np.arange(T) >= N_DUMMY) & ~(smooth > 0.5))
    assert N_DUMMY < (~chosen.kept).sum() < (~plain.kept).sum()
    np.testing.assert_array_equal(chosen.values, parameters)
    np.testing.assert_array_equal(chosen.framewise_displacement, plain.framewise_displacement)
    assert chosen.filtered_motion is not None
    assert "--motion-filter lp:0.1" in chosen.filtered_motion.source
    assert chosen.warnings == ()
    assert plain.filtered_motion is None
    # Dummy volumes are those of this call.
    given = select(path, motion_filter="lp:0.1", dummy_scans="9").filtered_motion
    assert given is not None
    assert np.flatnonzero(~np.isnan(given.values))[0] == 10


def test_missing_parameters_are_refused(tmp_path: Path, parameters: np.ndarray) -> None:
    path = write_table(tmp_path / "few.tsv", {"trans_x": parameters[:, 0], "framewise_displacement": parameters[:, 1]})
    with pytest.raises(RunFailed, match=r"trans_y,.*--motion-filter lp:0.1"):
        select(path, motion_filter="lp:0.1")
    with pytest.raises(RunFailed, match="--motion-filter") as caught:
        select(None, motion_filter="lp:0.1")
    assert "none without --motion-filter to" in caught.value.hint
    parameters[40, 4] = np.nan
    with pytest.raises(RunFailed, match="n/a in row 41 of column rot_y"):
        select(write_confounds(tmp_path, parameters), motion_filter="lp:0.1")


def test_it_needs_no_displacement_as_measured(tmp_path: Path, parameters: np.ndarray) -> None:
    path = write_table(tmp_path / "bare.tsv", dict(zip(NAMES, parameters.T, strict=True)))
    assert not select(path, motion_filter="lp:0.1", fd_threshold=0.5).kept.all()


def build_run(folder: Path, *tables: Path) -> Run:
    entities = (("sub", "01"), ("task", "rest"))
    return Run(
        **{"entities": entities, "bold": folder / "bold.nii.gz", "mask": None, "confounds": None},
        **{"repetition_time": 2.0, "pipeline": "xcp_d 0.10.6", "dataset": folder, "tables": tables},
    )


def test_what_a_pipeline_filtered_is_read_and_scrubs_nothing(tmp_path: Path, parameters: np.ndarray) -> None:
    measured, filtered = np.linspace(0, 1, T), np.linspace(0, 0.5, T)
    columns = dict(zip(NAMES, parameters.T, strict=True)) | {"framewise_displacement": measured}
    name = "sub-01_task-rest"
    both = write_table(tmp_path / f"{name}_motion.tsv", columns | {"framewise_displacement_filtered": filtered})
    config = SignalsConfig(fd_threshold=0.4)
    one = select_volumes(build_run(tmp_path, both), config, n_volumes=T, repetition_time=2.0)
    plain = write_table(tmp_path / f"{name}_run-1_motion.tsv", columns)
    own = write_table(tmp_path / f"{name}_run-1_desc-filtered_motion.tsv", {"framewise_displacement": filtered})
    two = select_volumes(build_run(tmp_path, plain, own), config, n_volumes=T, repetition_time=2.0)
    for found, source in ((one, "framewise_displacement_filtered in "), (two, f"framewise_displacement in {own.name}")):
        assert found.filtered_motion is not None
        assert found.filtered_motion.source.startswith(source)
        np.testing.assert_array_equal(found.filtered_motion.values, filtered)
        np.testing.assert_array_equal(found.framewise_displacement, measured)
        np.testing.assert_array_equal(found.kept, measured <= 0.4)
    config = SignalsConfig(fd_threshold=0.4, motion_filter="lp:0.1")
    ours = select_volumes(build_run(tmp_path, both), config, n_volumes=T, repetition_time=2.0)
    smooth = apply(tmp_path, parameters, "lp:0.1", 2.0)
    np.testing.assert_array_equal(ours.kept, ~(smooth > 0.4))
    assert ours.filtered_motion is not None
    np.testing.assert_allclose(ours.filtered_motion.values, smooth)
    with pytest.raises(RunFailed, match="filtered"):
        select_volumes(build_run(tmp_path, own), config, n_volumes=T, repetition_time=2.0)
    with pytest.raises(RunFailed, match=r"No motion table.*--motion-filter"):
        select_volumes(build_run(tmp_path), SignalsConfig(motion_filter="lp:0.1"), n_volumes=T, repetition_time=2.0)
    motion, notes = read_filtered([plain, own], T + 1)
    assert motion is None
    assert f"{own.name} has {T} rows for {T + 1} volumes" in notes[0]


def test_sidecar_and_page_have_both(study, tmp_path, app):
    sidecars = {}
    for name, more in {"plain": (), "filtered": ("--motion-filter", "lp:0.1", "--fd-threshold", "0.1")}.items():
        call = ("--signals-only", "--participant-label", "001", "--min-time", "20", "--no-band-pass")
        code, text = app(study, tmp_path / name, *call, *more)
        assert code == 0, text
        sidecars[name] = json.loads(sorted((tmp_path / name).rglob("*_stat-mean_timeseries.json"))[0].read_text())
    plain, filtered = sidecars["plain"], sidecars["filtered"]
    assert not any("ilter" in key for key in (*plain, *plain["Settings"]) if "motion" in key.lower())
    assert "MeanFilteredFramewiseDisplacement" not in plain
    assert filtered["MeanFramewiseDisplacement"] == plain["MeanFramewiseDisplacement"]
    assert 0 < filtered["MeanFilteredFramewiseDisplacement"] < filtered["MeanFramewiseDisplacement"]
    assert filtered["Settings"]["motion_filter"] == ["lp", 0.1]
    assert filtered["VolumesDropped"]["Scrubbed"]["FramewiseDisplacement"] == "filtered"
    page = (tmp_path / "filtered" / "sub-001.html").read_text()
    assert "mean filtered FD" in page
    assert "filtered FD above 0.1 mm" in page
