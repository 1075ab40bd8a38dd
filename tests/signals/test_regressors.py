"""Regressors that presets and files choose from real and broken confounds tables, and the volumes to keep."""

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds

from bids_semantoks.config import SignalsConfig
from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.signals.denoising import COMPCOR, PRESETS, Denoising, load_denoising
from bids_semantoks.signals.regressors import Regressors, select_regressors

TABLES = Path(__file__).parents[1] / "data" / "confounds"


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fmriprep_confounds"


VERSIONS = ("1.5.3", "20.1.0", "20.2.1", "23.1.2", "24.1.1")


REPETITION_TIMES = {"1.5.3": 2.0, "20.1.0": 2.0, "20.2.1": 2.0, "23.1.2": 1.0, "24.1.1": 3.0}


MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


SUFFIXES = ("", "_derivative1", "_power2", "_derivative1_power2")


N_ROWS = 41


def find_table(version: str) -> Path:
    return next((TABLES / version).glob("*.tsv"))


def select(table: Path | None, preset: str = "simple", **changed: object) -> Regressors:
    asked = {name: changed.pop(name) for name in ("dummy_scans", "fd_threshold", "motion_filter") if name in changed}
    arguments: dict = {"n_volumes": 40, "repetition_time": 2.0}
    return select_regressors(table, load_denoising(preset), SignalsConfig(**asked), **(arguments | changed))


def make_table(folder: Path, *, without: tuple[str, ...] = (), n_cosines: int = 0, rows: int = N_ROWS) -> Path:
    """Synthetic table with fMRIPrep's columns and n/a in the first row of derivatives."""
    rng = np.random.default_rng(3)
    names = [base + suffix for base in (*MOTION, "csf", "white_matter", "global_signal") for suffix in SUFFIXES]
    names += ["framewise_displacement", *(f"cosine{number:02d}" for number in range(n_cosines))]
    names = [name for name in names if name not in without]
    lines = ["\t".join(names)]
    for row in range(rows):
        cells = [f"{value:.6f}" for value in rng.uniform(0, 1, len(names))]
        lines.append(
            "\t".join(
                "n/a" if row == 0 and ("derivative" in name or "framewise" in name) else cell
                for name, cell in zip(names, cells, strict=True)
            )
        )
    path = folder / "sub-1_task-rest_desc-confounds_timeseries.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def edit(path: Path, row: int, column: str, cell: str) -> None:
    """Change one cell; row 1 is the first below the header."""
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    lines[row][lines[0].index(column)] = cell
    path.write_text("\n".join("\t".join(line) for line in lines) + "\n")


# --- files of users ---


def test_own_strategy_and_own_columns(tmp_path):
    own = tmp_path / "mine.json"
    own.write_text(json.dumps({"strategy": ["motion"], "motion": "basic"}))
    assert sorted(select(find_table("24.1.1"), str(own)).names) == sorted(MOTION)
    own.write_text(json.dumps({"columns": ["csf", "cosine*", "trans_?"]}))
    chosen = select(find_table("24.1.1"), str(own))
    assert sorted(chosen.names) == sorted(
        ["csf", "cosine00", "cosine01", "cosine02", "cosine03", "trans_x", "trans_y", "trans_z"]
    )


def test_pattern_without_match_is_named(tmp_path):
    own = tmp_path / "mine.json"
    own.write_text(json.dumps({"columns": ["csf", "respiration*"]}))
    with pytest.raises(RunFailed, match=r"respiration\*,.*--denoise"):
        select(find_table("24.1.1"), str(own))


# --- real tables ---


@pytest.mark.parametrize("version", VERSIONS)
def test_presets_on_real_tables(version):
    path = find_table(version)
    header = path.read_text().splitlines()[0].split("\t")
    cosines = [name for name in header if name.startswith("cosine")]
    metadata = json.loads(path.with_suffix(".json").read_text())
    combined = [name for name, entry in metadata.items() if entry.get("Mask") == "combined"]
    motion = [base + suffix for base in MOTION for suffix in SUFFIXES]
    tissue = ["csf", "white_matter"]
    full = [base + suffix for base in (*tissue, "global_signal") for suffix in SUFFIXES]
    expected = {
        "none": [],
        "simple": motion + tissue + cosines,
        "simple+gsr": [*motion, *tissue, "global_signal", *cosines],
        "24p": motion + cosines,
        "36p": motion + full + cosines,
        "compcor": motion + combined + cosines,
        "ica_aroma_aggr": [name for name in header if name.startswith("aroma_motion")] + tissue + cosines,
    }
    assert len(motion + full) == 36
    assert combined
    for preset, names in expected.items():
        if preset == "ica_aroma_aggr" and version != "1.5.3":
            with pytest.raises(RunFailed, match=r"aroma_motion_\*.*--denoise ica_aroma_aggr"):
                select(path, preset)
            continue
        chosen = select(path, preset)
        assert chosen.names == tuple(name for name in header if name in set(names))
        assert set(chosen.names) == set(names)
        assert chosen.values.shape == (40, len(names))
        assert np.isfinite(chosen.values[chosen.kept]).all()
        assert chosen.n_dummy == (1 if version == "1.5.3" else 0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
@pytest.mark.parametrize("version", VERSIONS)
def test_presets_on_whole_real_tables(version):
    for path in sorted((SHARED / version).glob("*confounds*.tsv")):
        n_volumes = len(path.read_text().splitlines()) - 1
        for preset in ("simple", "36p", "compcor"):
            chosen = select(
                path, preset, n_volumes=n_volumes, fd_threshold=0.5, repetition_time=REPETITION_TIMES[version]
            )
            assert chosen.values.shape[0] == n_volumes
            assert np.isfinite(chosen.values[chosen.kept]).all()
            assert not chosen.warnings


def test_values_are_the_tables_and_do_not_depend_on_dropped_volumes():
    path = find_table("20.1.0")
    plain = select(path, "36p")
    scrubbed = select(path, "36p", fd_threshold=0.1, dummy_scans="3")
    assert scrubbed.kept.sum() < 37
    np.testing.assert_array_equal(plain.values[3:], scrubbed.values[3:])
    column = plain.names.index("csf")
    position = path.read_text().splitlines()[0].split("\t").index("csf")
    cells = [float(line.split("\t")[position]) for line in path.read_text().splitlines()[1:]]
    np.testing.assert_array_equal(plain.values[:, column], cells)


def test_anatomical_components_per_tissue_of_old_tables(tmp_path):
    own = tmp_path / "mine.json"
    own.write_text(json.dumps({"strategy": ["compcor", "high_pass"], "compcor": "anat_separated", "n_compcor": 3}))
    chosen = select(find_table("20.2.1"), str(own))
    metadata = json.loads(find_table("20.2.1").with_suffix(".json").read_text())
    masks = [metadata[name]["Mask"] for name in chosen.names if name.startswith("a_comp")]
    assert sorted(masks) == ["CSF"] * 3 + ["WM"] * 3


# --- the first row, dummies, scrubbing ---


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", ""])
def test_empty_lines_at_the_end_are_no_volumes(tmp_path, end):
    path = make_table(tmp_path)
    whole = select(path, n_volumes=N_ROWS)
    path.write_text(path.read_text().rstrip("\n") + end, newline="")
    again = select(path, n_volumes=N_ROWS)
    assert again.names == whole.names
    np.testing.assert_array_equal(again.values, whole.values)
    path.write_text(path.read_text().rstrip() + "\n\n3\n")
    with pytest.raises(RunFailed, match="has 1 values in row 42"):
        select(path, n_volumes=N_ROWS)


def test_scrubbing_all_but_the_first_volume_is_no_fault_of_the_table(tmp_path):
    """Derivatives have no value in the first volume; that the run has too few kept volumes is told elsewhere."""
    path = make_table(tmp_path)
    chosen = select(path, n_volumes=N_ROWS, fd_threshold=1e-9)
    assert np.flatnonzero(chosen.kept).tolist() == [0]
    assert np.isfinite(chosen.values[0]).all()
    for row in range(1, N_ROWS + 1):
        edit(path, row, "rot_y", "n/a")
    with pytest.raises(RunFailed, match="has n/a in row 2 of column rot_y"):
        select(path, n_volumes=N_ROWS)


def test_first_row_of_derivatives_takes_the_next_kept_value(tmp_path):
    path = make_table(tmp_path)
    plain = select(path, "24p", n_volumes=N_ROWS)
    column = plain.names.index("trans_x_derivative1")
    assert plain.values[0, column] == plain.values[1, column]
    edit(path, 2, "framewise_displacement", "9")
    scrubbed = select(path, "24p", n_volumes=N_ROWS, fd_threshold=5.0)
    assert scrubbed.kept[:3].tolist() == [True, False, True]
    assert scrubbed.values[0, column] == scrubbed.values[2, column]


def test_displacement_above_threshold_is_scrubbed_and_unknown_kept(tmp_path):
    path = make_table(tmp_path)
    chosen = select(path, "24p", n_volumes=N_ROWS, fd_threshold=0.5)
    assert np.isnan(chosen.framewise_displacement[0])
    assert chosen.kept[0]
    np.testing.assert_array_equal(~chosen.kept[1:], chosen.framewise_displacement[1:] > 0.5)
    assert 5 < chosen.kept.sum() < N_ROWS - 5
    edit(path, 7, "framewise_displacement", "0.5")
    assert select(path, "24p", n_volumes=N_ROWS, fd_threshold=0.5).kept[6]
    edit(path, 8, "framewise_displacement", "n/a")
    gap = select(path, "24p", n_volumes=N_ROWS, fd_threshold=0.5)
    assert gap.kept[7]
    assert any("in 1 later rows of framewise_displacement (first in row 8)" in note for note in gap.warnings)


@pytest.mark.parametrize("first", ["n/a", "0.1"])
def test_scrubbing_needs_displacement_of_a_kept_volume(tmp_path, first):
    path = make_table(tmp_path)
    for row in range(1, N_ROWS + 1):
        edit(path, row, "framewise_displacement", first if row == 1 else "n/a")
    assert select(path, n_volumes=N_ROWS).kept.all()
    with pytest.raises(RunFailed, match=r"no value of framewise_displacement in any of \d+ volumes") as error:
        select(path, n_volumes=N_ROWS, fd_threshold=0.5, dummy_scans="1")
    assert error.value.reason == "bad_confounds"


def test_dummies_auto_and_by_number():
    path = find_table("1.5.3")
    assert select(path).n_dummy == 1
    assert select(path).kept.tolist() == [False] + [True] * 39
    by_number = select(path, dummy_scans="4")
    assert (by_number.n_dummy, int(by_number.kept.sum())) == (4, 36)
    none = select(path, dummy_scans="0")
    assert none.kept.all()
    assert any("--dummy-scans 0 keeps volumes" in warning for warning in none.warnings)
    everything = select(path, dummy_scans="99")
    assert (everything.n_dummy, everything.kept.any()) == (40, False)


def test_only_leading_non_steady_volumes_are_dummies(tmp_path):
    path = make_table(tmp_path)
    lines = path.read_text().splitlines()
    marks = {1: "1 0 0", 2: "0 1 0", 9: "0 0 1"}
    header = " ".join(f"non_steady_state_outlier{number:02d}" for number in range(3))
    extra = [header] + [marks.get(row, "0 0 0") for row in range(1, N_ROWS + 1)]
    lines = ["\t".join([line, *more.split()]) for line, more in zip(lines, extra, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    chosen = select(path, n_volumes=N_ROWS)
    assert chosen.n_dummy == 2
    assert chosen.kept[2:].all()
    assert any("only leading ones are dropped" in warning for warning in chosen.warnings)


# --- cosines: nilearn drops the high-pass in silence ---


def test_missing_cosines_are_refused_for_a_long_run(tmp_path):
    path = make_table(tmp_path, rows=120)
    # 120 volumes of 3 s hold floor(2 * 360 / 128) = 5 functions, 4 of them cosines, as in the real table.
    with pytest.raises(RunFailed, match=r"cosine00, cosine01, cosine02, cosine03,.*--denoise"):
        select(path, n_volumes=120, repetition_time=3.0)


@pytest.mark.parametrize(("repetition_time", "fails"), [(3.1, False), (3.2, True)])
def test_a_run_under_128_seconds_has_no_cosines(tmp_path, repetition_time, fails):
    path = make_table(tmp_path)  # 41 volumes: 127.1 s and 131.2 s
    if fails:
        with pytest.raises(RunFailed, match="cosine00,"):
            select(path, n_volumes=N_ROWS, repetition_time=repetition_time)
    else:
        assert not select(path, n_volumes=N_ROWS, repetition_time=repetition_time).warnings


def test_a_gap_among_cosines_is_named_and_a_missing_last_one_warned_of(tmp_path):
    path = make_table(tmp_path, n_cosines=4, without=("cosine02",), rows=120)
    with pytest.raises(RunFailed, match="cosine02,"):
        select(path, n_volumes=120, repetition_time=3.0)
    path = make_table(tmp_path, n_cosines=3, rows=120)
    warnings = select(path, n_volumes=120, repetition_time=3.0).warnings
    assert any("has 3 cosines, expected 4 for 360 s" in warning for warning in warnings)


# --- bad tables ---


def test_a_missing_column_is_named_with_its_file(tmp_path):
    path = make_table(tmp_path, without=("csf",))
    with pytest.raises(RunFailed, match=r"confounds_timeseries\.tsv.*--denoise") as caught:
        select(path, n_volumes=N_ROWS)
    assert caught.value.reason == "bad_confounds"
    assert pickle.loads(pickle.dumps(caught.value)).reason == "bad_confounds"


def test_other_length_text_and_gaps_are_named(tmp_path):
    path = make_table(tmp_path)
    with pytest.raises(RunFailed, match="has 41 rows, but the BOLD image has 40 volumes"):
        select(path)
    edit(path, 12, "rot_y", "moved")
    with pytest.raises(RunFailed, match="'moved' in row 12 of column rot_y"):
        select(path, n_volumes=N_ROWS)
    edit(path, 12, "rot_y", "inf")
    with pytest.raises(RunFailed, match="has 'inf' in row 12 of column rot_y"):
        select(path, n_volumes=N_ROWS)
    edit(path, 12, "rot_y", "n/a")
    with pytest.raises(RunFailed, match="has n/a in row 12 of column rot_y"):
        select(path, n_volumes=N_ROWS)
    edit(path, 12, "framewise_displacement", "4")
    assert not select(path, n_volumes=N_ROWS, fd_threshold=2.0).kept[11]


def test_text_in_a_column_that_nothing_reads_does_no_harm(tmp_path):
    path = make_table(tmp_path)
    edit(path, 12, "global_signal", "who knows")
    assert select(path, n_volumes=N_ROWS).values.shape == (N_ROWS, 26)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("0.1\t0.2\n0.3\t0.4\n", "has no header"),
        ("csf\tcsf\n1\t2\n", "columns"),
        ("csf\trot_x\n1\t2\n3\n", "has 1 values in row 2 \\(line 3\\), but 2 columns"),
        ("csf\trot_x\n", "has 0 rows, but the BOLD image has 40 volumes"),
    ],
)
def test_broken_tables(tmp_path, text, message):
    path = tmp_path / "desc-confounds_timeseries.tsv"
    path.write_text(text)
    with pytest.raises(RunFailed, match=message):
        select(path)


def test_a_table_that_is_no_text(tmp_path):
    path = tmp_path / "desc-confounds_timeseries.tsv"
    path.write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(RunFailed, match="is not text"):
        select(path)


def test_no_table_fails_unless_nothing_needs_it(tmp_path):
    for missing in (None, tmp_path / "gone.tsv"):
        with pytest.raises(RunFailed, match="--denoise"):
            select(missing)
        with pytest.raises(RunFailed, match="--fd-threshold") as caught:
            select(missing, "none", fd_threshold=0.5)
        assert caught.value.reason == "no_confounds"
        chosen = select(missing, "none", dummy_scans="2")
        assert (chosen.n_dummy, chosen.values.shape) == (2, (40, 0))
        assert np.isnan(chosen.framewise_displacement).all()
        assert chosen.warnings


def test_no_displacement_is_a_warning_unless_scrubbing(tmp_path):
    path = make_table(tmp_path, without=("framewise_displacement",))
    assert any("framewise_displacement" in warning for warning in select(path, n_volumes=N_ROWS).warnings)
    with pytest.raises(RunFailed, match=r"framewise_displacement,.*--fd-threshold"):
        select(path, n_volumes=N_ROWS, fd_threshold=0.5)


def test_datalad_files_without_content_are_skipped(tmp_path):
    link = tmp_path / "desc-confounds_timeseries.tsv"
    link.symlink_to(".git/annex/objects/xx/yy/key")
    with pytest.raises(RunSkipped, match=r"desc-confounds_timeseries\.tsv") as caught:
        select(link)
    assert caught.value.reason == "no_content"
    pointer = tmp_path / "pointer.tsv"
    pointer.write_text("/annex/objects/MD5E-s100--abc.tsv\n")
    with pytest.raises(RunSkipped, match=r"pointer\.tsv"):
        select(pointer)


def test_only_compcor_needs_the_json(tmp_path):
    for version, presets in (("1.5.3", ("simple", "36p", "ica_aroma_aggr")), ("24.1.1", ("simple", "36p"))):
        copy = tmp_path / find_table(version).name
        copy.write_bytes(find_table(version).read_bytes())
        for preset in presets:
            assert select(copy, preset).names
        with pytest.raises(RunFailed, match=r"has no sidecar sub-.*\.json"):
            select(copy, "compcor")
        copy.with_suffix(".json").write_text("{")
        assert select(copy, "simple").names
        with pytest.raises(RunFailed, match=r"\.json is not a readable JSON"):
            select(copy, "compcor")
        copy.with_suffix(".json").write_text('{"a_comp_cor_00": {"Method": "aCompCor"}}')
        with pytest.raises(RunFailed, match=r"has no a_comp_cor_\* of anat_combined listed"):
            select(copy, "compcor")


def test_a_listed_component_that_the_table_lacks_is_named(tmp_path):
    path = make_table(tmp_path)
    entries = {f"a_comp_cor_{number:02d}": {"Mask": "combined"} for number in range(2)}
    path.with_suffix(".json").write_text(json.dumps(entries))
    with pytest.raises(RunFailed, match=r"a_comp_cor_00, a_comp_cor_01,.*--denoise"):
        select(path, "compcor", n_volumes=N_ROWS)


def test_siblings_are_not_mixed_up(tmp_path):
    data = tmp_path / "func"
    data.mkdir()
    for direction in ("AP", "PA"):
        (data / f"sub-1_dir-{direction}_desc-confounds_timeseries.tsv").write_bytes(find_table("24.1.1").read_bytes())
    (data / "sub-1_desc-confounds_timeseries.tsv").write_text("csf\n")
    before = sorted(data.iterdir())
    assert len(select(data / "sub-1_dir-PA_desc-confounds_timeseries.tsv").names) == 30
    assert sorted(data.iterdir()) == before


# --- nilearn as the oracle ---


OTHERS = (
    *(
        {"strategy": ["motion", "wm_csf", "global_signal"], "motion": model, "wm_csf": model, "global_signal": model}
        for model in ("basic", "derivatives", "power2", "full")
    ),
    *(
        {"strategy": ["high_pass", "compcor"], "compcor": kind, "n_compcor": n}
        for kind in COMPCOR
        for n in (1, 4, "all")
    ),
)


def ask_nilearn(table: Path, denoising: Denoising, folder: Path) -> pd.DataFrame:
    """Call nilearn on a copy that bears the names it searches for."""
    copy = folder / "sub-1_desc-confounds_timeseries.tsv"
    copy.write_bytes(table.read_bytes())
    copy.with_suffix(".json").write_bytes(table.with_suffix(".json").read_bytes())
    image = str(folder / "sub-1_desc-preproc_bold.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_confounds(image, strategy=denoising.strategy, demean=False, **dict(denoising.options))[0]


def check_as_nilearn(path: Path, content: object, folder: Path, repetition_time: float) -> None:
    own = folder / "own.json"
    own.write_text(json.dumps(content))
    denoising = load_denoising(content if isinstance(content, str) else str(own))
    arguments = {"config": SignalsConfig(dummy_scans="0"), "n_volumes": len(path.read_text().splitlines()) - 1}
    try:
        frame = ask_nilearn(path, denoising, folder)
        # nilearn goes on without a kind of components that the table lacks.
        groups = COMPCOR[str(dict(denoising.options).get("compcor", "anat_combined"))]
        starts = [tuple(f"{prefix}_comp" for prefix, _ in group) for group in groups]
        is_whole = "compcor" not in denoising.strategy or all(
            any(name.startswith(start) for name in frame.columns) for start in starts
        )
    except (ValueError, KeyError):
        is_whole = False
    if not is_whole:
        with pytest.raises(RunFailed, match="--denoise"):
            select_regressors(path, denoising, repetition_time=repetition_time, **arguments)
        return
    chosen = select_regressors(path, denoising, repetition_time=repetition_time, **arguments)
    assert set(chosen.names) == set(frame.columns)
    np.testing.assert_array_equal(chosen.values, frame[list(chosen.names)].to_numpy())


@pytest.mark.parametrize("version", VERSIONS)
def test_columns_and_values_are_those_of_nilearn(tmp_path, version):
    for content in (*PRESETS[1:], *OTHERS):
        check_as_nilearn(find_table(version), content, tmp_path, REPETITION_TIMES[version])
    for path in sorted((SHARED / version).glob("*confounds*.tsv")):
        for content in PRESETS[1:]:
            check_as_nilearn(path, content, tmp_path, REPETITION_TIMES[version])


def test_components_are_counted_in_the_order_of_their_numbers(tmp_path):
    path = make_table(tmp_path, n_cosines=3, rows=101)
    header, *rows = path.read_text().splitlines()
    names = [f"a_comp_cor_{number:02d}" for number in range(102)]
    lines = ["\t".join([header, *names]), *("\t".join([row, *["0.5"] * 102]) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    # As fMRIPrep writes it: in the order of letters, where 100 comes before 11.
    entries = {name: {"Mask": "combined"} for name in sorted(names)}
    path.with_suffix(".json").write_text(json.dumps(entries))
    own = tmp_path / "mine.json"
    own.write_text(json.dumps({"strategy": ["compcor", "high_pass"], "n_compcor": 12}))
    chosen = select(path, str(own), n_volumes=101)
    assert [name for name in chosen.names if name.startswith("a_")] == names[:12]
    assert set(ask_nilearn(path, load_denoising(str(own)), tmp_path).columns) == set(chosen.names)
