"""Tables of a cohort for other programs."""

import builtins
import json

import numpy as np
import pandas as pd
import pytest

from bids_semantoks.errors import ConfigurationError, ResourceError
from bids_semantoks.exchange.cohort_tables import check_format, write_cohort_table

VECTORS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


@pytest.fixture
def frame():
    labels = {
        "participant_id": ["sub-01", "sub-02", "sub-03"],
        "note": ["=HYPERLINK(1)", "-5", None],
        "flags": [["a", "b"], [], []],
        "age": [1.5, np.nan, -3.0],
        "@site": ["+A", "B", "-B"],
    }
    dims = pd.DataFrame(VECTORS.astype(np.float64), columns=[f"dim{i:04d}" for i in range(1, 5)])
    made = pd.concat([pd.DataFrame(labels), dims], axis=1)
    made.attrs["bids_semantoks"] = {"model": "M"}
    return made


@pytest.mark.parametrize("as_list", [False, True])
def test_parquet_keeps_numbers_and_provenance(frame, tmp_path, as_list):
    write_cohort_table(frame, path := tmp_path / "t.parquet", as_list=as_list)
    read = pd.read_parquet(path)
    found = np.stack(read["embedding"]) if as_list else read.filter(like="dim").to_numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VECTORS)
    assert read.attrs == frame.attrs
    assert read["note"].tolist()[:2] == ["=HYPERLINK(1)", "-5"]
    assert read["age"].tolist()[0] == 1.5


def test_arrays_load_without_pickle(frame, tmp_path):
    write_cohort_table(frame, path := tmp_path / "t.npz")
    with np.load(path, allow_pickle=False) as read:
        np.testing.assert_array_equal(read["embedding"], VECTORS)
        assert read["note"].tolist() == ["=HYPERLINK(1)", "-5", "n/a"]
        assert read["flags"].tolist() == ["a; b", "n/a", "n/a"]
        assert json.loads(str(read["provenance"])) == frame.attrs


def test_text_in_csv_is_no_formula_unless_raw(frame, tmp_path):
    write_cohort_table(frame, path := tmp_path / "t.csv")
    read = pd.read_csv(path, keep_default_na=False)
    assert read["note"].tolist() == ["'=HYPERLINK(1)", "-5", "n/a"]
    assert read["'@site"].tolist() == ["'+A", "B", "'-B"]
    assert read["age"].tolist() == ["1.5", "n/a", "-3"]
    np.testing.assert_array_equal(read.filter(like="dim").to_numpy(np.float32), VECTORS)
    assert json.loads(path.with_suffix(".json").read_text()) == frame.attrs
    write_cohort_table(frame, path, is_raw=True)
    assert pd.read_csv(path)["@site"].tolist() == ["+A", "B", "-B"]


def test_other_endings_and_a_missing_library_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"\.xlsx.*\.parquet, \.npz, \.csv"):
        check_format(tmp_path / "t.xlsx", as_list=False)
    with pytest.raises(ConfigurationError, match="list column"):
        check_format(tmp_path / "t.csv", as_list=True)
    load = builtins.__import__

    def refuse(name, *given, **options):
        if name == "pyarrow":
            raise ImportError(name)
        return load(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ResourceError, match=r"bids_semantoks\[parquet\]"):
        check_format(tmp_path / "t.parquet", as_list=False)
    check_format(tmp_path / "t.npz", as_list=False)
