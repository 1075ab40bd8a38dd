"""Arrays and tables as a dataset of parcellated series."""

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from bids_semantoks.atlases.series_atlas import load_order
from bids_semantoks.errors import AtlasError, ConfigurationError, InputError
from bids_semantoks.exchange.importing import find_series, import_series
from bids_semantoks.inputs.people_tables import read_phenotype_table

PARCELS = load_order("Schaefer400-7Networks")
SERIES = np.random.default_rng(0).standard_normal((3, 60, 400))


@pytest.fixture
def load(tmp_path):
    def run(*paths, pattern="", variable="", table=None, **options):
        people = read_phenotype_table(table, ("participant_id", "id")) if table else None
        asked = {"repetition_time": 2.0, "atlas": "Schaefer400-7Networks", "people": people, **options}
        n_people = len(people.keys) if people else 0
        found = find_series(paths, pattern=pattern, variable=variable, n_people=n_people)
        n_runs = import_series(found, tmp_path / "out", **asked)
        written = sorted((tmp_path / "out").glob("sub-*/**/*_timeseries.tsv"))
        assert len(written) == n_runs
        return {path.name.partition("_atlas")[0]: pd.read_csv(path, sep="\t") for path in written}

    return run


def check(tables, names, series=SERIES):
    assert list(tables) == names
    for table, values in zip(tables.values(), series, strict=True):
        assert tuple(table.columns) == PARCELS
        np.testing.assert_allclose(table, values, rtol=1e-8)


def test_files_are_named_by_a_pattern_and_turned_where_the_count_says_so(load, tmp_path):
    np.save(tmp_path / "A_s1_rois.npy", SERIES[0])
    np.save(tmp_path / "B_s2_rois.npy", SERIES[1].T)
    np.savetxt(tmp_path / "C_s3_rois.txt", SERIES[2])
    with pytest.raises(InputError, match=r"A_s1_rois\.npy.*sub-LABEL"):
        load(tmp_path / "A_s1_rois.npy")
    paths = sorted(tmp_path.glob("*_rois.*"))
    check(load(*paths, pattern="*_{sub}_rois.*"), ["sub-s1_task-rest", "sub-s2_task-rest", "sub-s3_task-rest"])


def test_a_pattern_may_be_a_regular_expression(load, tmp_path):
    np.save(tmp_path / "Site_00-1_rois.npy", SERIES[0])
    check(load(tmp_path / "Site_00-1_rois.npy", pattern=r"_(?P<sub>[\d-]+)_"), ["sub-001_task-rest"], SERIES[:1])


def test_names_in_bids_form_keep_their_labels(load, tmp_path):
    for run in (1, 2):
        np.save(tmp_path / f"sub-01_ses-a_task-nback_run-{run}_x.npy", SERIES[run])
    names = [f"sub-01_ses-a_task-nback_run-{run}" for run in (1, 2)]
    check(load(*sorted(tmp_path.glob("sub-*"))), names, SERIES[1:])
    assert (tmp_path / "out" / "sub-01" / "ses-a" / "func").is_dir()


def test_a_stack_is_named_by_the_rows_of_a_table(load, tmp_path):
    padded = np.concatenate([SERIES, np.full((3, 5, 400), np.nan)], axis=1)
    padded[1, 60:] = 0
    np.save(tmp_path / "stack.npy", padded)
    pd.DataFrame({"id": ["x_1", "x_2", "x_3"], "age": ["07", "8", "n/a"]}).to_csv(tmp_path / "p.csv", index=False)
    check(load(tmp_path / "stack.npy", table=tmp_path / "p.csv"), [f"sub-x{i}_task-rest" for i in (1, 2, 3)])
    people = pd.read_csv(tmp_path / "out" / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert people.to_dict("list") == {"participant_id": ["sub-x1", "sub-x2", "sub-x3"], "age": ["07", "8", "n/a"]}
    pd.DataFrame({"id": ["x1", "x2"]}).to_csv(tmp_path / "p.csv", index=False)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(InputError, match=r"\(3, 65, 400\).* 2 participants"):
        load(tmp_path / "stack.npy", table=tmp_path / "p.csv")
    assert not (tmp_path / "out").exists()


def test_archives_name_people_and_variables(load, tmp_path):
    np.savez(tmp_path / "s.npz", values=SERIES.transpose(0, 2, 1), participant_id=["sub-a", "b", "c"], age=[1, 2, 3])
    check(load(tmp_path / "s.npz"), ["sub-a_task-rest", "sub-b_task-rest", "sub-c_task-rest"])


@pytest.mark.parametrize("ids", [[50003.0, 50004, 50005], [b"sub-50003", b"50004", b"50005"]])
def test_participants_of_matlab_are_the_last_axis_if_their_number_says_so(load, tmp_path, ids):
    stack = SERIES.transpose(1, 2, 0)
    np.savez(tmp_path / "s.npz", ts=stack, subjects=ids)
    check(load(tmp_path / "s.npz"), [f"sub-5000{i}_task-rest" for i in (3, 4, 5)])
    shutil.rmtree(tmp_path / "out")
    savemat(tmp_path / "s.mat", {"ts": stack})
    with pytest.raises(InputError, match=r"\(60, 400, 3\).*axis"):
        load(tmp_path / "s.mat")
    pd.DataFrame({"id": ["a", "b", "c"]}).to_csv(tmp_path / "p.csv", index=False)
    check(load(tmp_path / "s.mat", table=tmp_path / "p.csv"), [f"sub-{i}_task-rest" for i in "abc"])


def test_labels_in_cells_of_matlab_are_read(load, tmp_path):
    cells, labels = np.empty((1, 3), dtype=object), np.empty((1, 3), dtype=object)
    cells[0], labels[0] = list(SERIES), ["sub-x1", "x2", "x_3"]
    savemat(tmp_path / "a.mat", {"ts": cells, "subjects": labels})
    names = ["sub-x1_task-rest", "sub-x2_task-rest", "sub-x3_task-rest"]
    check(load(tmp_path / "a.mat"), names)
    shutil.rmtree(tmp_path / "out")
    with h5py.File(tmp_path / "b.mat", "w") as file:
        for name, values in (("ts", [one.T for one in SERIES]), ("subjects", ["sub-x1", "x2", "x_3"])):
            held = file.create_dataset(name, (3, 1), dtype=h5py.ref_dtype)
            for i, one in enumerate(values):
                content = np.array([[ord(c)] for c in one], dtype=np.uint16) if isinstance(one, str) else one
                file[f"#refs#/{name}{i}"] = content
                held[i, 0] = file[f"#refs#/{name}{i}"].ref
    check(load(tmp_path / "b.mat"), names)


@pytest.mark.parametrize("is_new", [False, True])
def test_cells_of_matlab_hold_runs_of_different_lengths(load, tmp_path, is_new):
    lengths = (60, 50, 40)
    runs = [values[:n] for values, n in zip(SERIES, lengths, strict=True)]
    if is_new:
        with h5py.File(tmp_path / "x.mat", "w") as file:
            cells = file.create_dataset("ts", (3, 1), dtype=h5py.ref_dtype)
            for i, values in enumerate(runs):
                file[f"#refs#/{i}"] = values.T
                cells[i, 0] = file[f"#refs#/{i}"].ref
            file["TR"] = [[2.0]]
    else:
        cells = np.empty((1, 3), dtype=object)
        cells[0] = runs
        savemat(tmp_path / "x.mat", {"ts": cells, "TR": 2.0})
    check(load(tmp_path / "x.mat"), [f"sub-{i:02d}_task-rest" for i in (1, 2, 3)], runs)


def test_what_could_be_meant_in_two_ways_is_refused(load, tmp_path):
    square = np.random.default_rng(1).standard_normal((400, 400))
    np.save(tmp_path / "sub-1.npy", square)
    with pytest.raises(InputError, match=r"400 rows and 400 columns.*--volumes"):
        load(tmp_path / "sub-1.npy")
    np.save(tmp_path / "sub-2.npy", SERIES[0, :, :399])
    with pytest.raises(InputError, match=r"60 rows and 399 columns.*400 parcels"):
        load(tmp_path / "sub-2.npy")
    savemat(tmp_path / "sub-3.mat", {"one": SERIES[0], "two": SERIES[1]})
    with pytest.raises(InputError, match=r"2 variables.*one.*two.*--variable"):
        load(tmp_path / "sub-3.mat")
    with pytest.raises(InputError, match="no variable three"):
        load(tmp_path / "sub-3.mat", variable="three")
    np.save(tmp_path / "sub-4_a.npy", SERIES[0])
    np.save(tmp_path / "sub-4_b.npy", SERIES[1])
    with pytest.raises(InputError, match=r"sub-4_b\.npy.*sub-4_a\.npy.*sub-4_task-rest"):
        load(tmp_path / "sub-4_a.npy", tmp_path / "sub-4_b.npy")
    np.save(tmp_path / "sub-5 (2).npy", SERIES[0])
    with pytest.raises(InputError, match=r"label sub-5 \(2\)"):
        load(tmp_path / "sub-5 (2).npy")
    assert not list(tmp_path.glob(".out*"))
    assert not (tmp_path / "out").exists()
    check(load(tmp_path / "sub-1.npy", volumes="columns"), ["sub-1_task-rest"], [square.T])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"repetition_time": 0.0}, ConfigurationError),
        ({"repetition_time": 2000.0}, ConfigurationError),
        ({"task": "re st"}, ConfigurationError),
        ({"atlas": "Schaefer401"}, AtlasError),
        ({"atlas": "none.tsv"}, AtlasError),
        ({"pattern": "{ses}.npy"}, InputError),
        ({"pattern": "x_{sub}.npy"}, InputError),
        ({"pattern": "(?P<sub>"}, InputError),
        ({"pattern": r"(?P<who>\d+)"}, InputError),
        ({"table": "none.csv"}, InputError),
    ],
)
def test_wrong_options_are_refused(load, tmp_path, change, error):
    np.save(tmp_path / "sub-1.npy", SERIES[0])
    if "table" in change:
        change = {"table": tmp_path / change["table"]}
    with pytest.raises(error):
        load(tmp_path / "sub-1.npy", **change)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("values", [SERIES[0] * 1j, SERIES[0, 0], SERIES[0] * np.inf, np.zeros((60, 400))])
def test_what_are_no_series_is_refused(load, tmp_path, values):
    np.save(tmp_path / "sub-1.npy", values)
    with pytest.raises(InputError, match=r"sub-1\.npy"):
        load(tmp_path / "sub-1.npy")


def test_an_atlas_of_ones_own_travels_with_the_dataset(load, tmp_path):
    np.save(tmp_path / "sub-1.npy", SERIES[0, :, :3])
    rows = "index\tlabel\tnetwork_label\n1\ta\tVis\n2\tb\tDefault\n3\tc\tn/a\n"
    (tmp_path / "atlas-Mine_dseg.tsv").write_text(rows)
    table = load(tmp_path / "sub-1.npy", atlas=str(tmp_path / "atlas-Mine_dseg.tsv"))["sub-1_task-rest"]
    assert list(table) == ["a", "b", "c"]
    assert (tmp_path / "out/sourcedata/atlases/atlas-Mine_dseg.tsv").read_text() == rows
