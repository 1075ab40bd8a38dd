"""Signals in the HDF5 layout of the model's authors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.hdf5 import iterate_runs, open_signals

N, T = 5, 31


LENGTHS = (31, 12, 25, 7, 19)


SIZES = {"schaefer400": 400, "tian3": 50, "buckner7": 7}


IDS = [b"site-a_1", b"site-a_2", b"site-b_1", b"site-b_1", b"site-c_9"]


def make_values() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    values = {name: rng.standard_normal((N, n, T)).astype(np.float32) for name, n in SIZES.items()}
    for table in values.values():
        for i, length in enumerate(LENGTHS):
            table[i, :, length:] = np.nan
    return values


def write(path: Path, values: dict[str, np.ndarray[Any, Any]], ids: Any = IDS, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, table in values.items():
            file.create_dataset(f"timeseries/{name}", data=table, **options)
        if ids is not None:
            file["long_subject_id"] = ids
    return path


@pytest.fixture
def values() -> dict[str, np.ndarray[Any, Any]]:
    return make_values()


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": (2, 7, 31)}])
def test_blocks_hold_every_run_without_padding(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]], options: dict[str, Any]
) -> None:
    source = open_signals(write(tmp_path / "a.h5", values, **options))
    assert source.ids == ("site-a_1", "site-a_2", "site-b_1", "site-b_1", "site-c_9")
    assert (len(source.parcels), len(source.networks), source.n_volumes) == (457, 457, T)
    assert (source.parcels[0], source.parcels[400], source.parcels[-1]) == (
        "7Networks_LH_Vis_1",
        "HIP-head-m-rh",
        "Cerebellum_Default",
    )
    whole = np.concatenate([values[name] for name in SIZES], axis=1)
    # One run takes 457 * 31 * 4 bytes: two fit.
    runs = list(iterate_runs(source, max_bytes=2 * 457 * T * 4))
    assert [row for row, _, _ in runs] == list(range(N)) == list(range(len(source.ids)))
    for i, run, problem in runs:
        np.testing.assert_array_equal(run, whole[i, :, : LENGTHS[i]].T)
        assert run.dtype == np.float32
        assert not problem
    some = list(iterate_runs(source, rows={1, 4}, max_bytes=2 * 457 * T * 4))
    # Rows 2 and 3 are a block of their own.
    assert [row for row, _, _ in some] == [0, 1, 4]
    np.testing.assert_array_equal(some[2][1], runs[4][1])


def test_absent_parcels_atlases_and_runs_stay_absent(tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["schaefer400"][1, 0] = np.nan
    values["buckner7"][2] = np.nan
    for table in values.values():
        table[3] = np.nan
    source = open_signals(write(tmp_path / "a.h5", values))
    runs = [run for _, run, _ in iterate_runs(source)]
    assert [len(run) for run in runs] == [31, 12, 25, 0, 19]
    assert np.isnan(runs[1][:, 0]).all()
    assert not np.isnan(runs[1][:, 1:]).any()
    assert np.isnan(runs[2][:, 450:]).all()
    assert not np.isnan(runs[2][:, :450]).any()


def test_a_shorter_table_of_one_atlas_is_no_shorter_run(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]
) -> None:
    padded = np.full((N, 7, T + 6), np.nan, dtype=np.float32)
    padded[:, :, :T] = values["buckner7"]
    source = open_signals(write(tmp_path / "a.h5", {**values, "buckner7": padded}))
    assert source.n_volumes == T + 6
    assert [len(run) for _, run, _ in iterate_runs(source)] == list(LENGTHS)


def test_ids_may_be_text_or_numbers(tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]) -> None:
    text = open_signals(write(tmp_path / "a.h5", values, ids=["x", "y", "z", "u", "v"]))
    assert text.ids == ("x", "y", "z", "u", "v")
    numbers = open_signals(write(tmp_path / "b.h5", values, ids=np.arange(101, 106)))
    assert numbers.ids == ("101", "102", "103", "104", "105")
    latin = open_signals(write(tmp_path / "c.h5", values, ids=np.array([b"\xe91", b"\xe92", b"x", b"y", b"\xc3\xa9"])))
    assert latin.ids == ("\\xe91", "\\xe92", "x", "y", "é")


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.pop(name)


def flatten(values: dict[str, Any]) -> None:
    values["tian3"] = values["tian3"][0]


def shrink(values: dict[str, Any]) -> None:
    values["tian3"] = values["tian3"][:, :49]


def lose(values: dict[str, Any]) -> None:
    values["buckner7"] = values["buckner7"][:4]


def spell(values: dict[str, Any]) -> None:
    values["tian3"] = np.full((N, 50, T), b"0.1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("tian3"), r"a\.h5 has no dataset timeseries/tian3: found timeseries with buckner7, schaefer400"),
        (flatten, r"has timeseries/tian3 of shape \(50, 31\), expected \(participants, 50, volumes\)"),
        (shrink, r"has timeseries/tian3 of shape \(5, 49, 31\), expected \(participants, 50, volumes\)"),
        (lose, r"has 5 participants in long_subject_id, but schaefer400 5, tian3 5, buckner7 4 in timeseries"),
        (spell, r"has timeseries/tian3 of type \|S3, expected numbers"),
    ],
)
def test_another_layout_is_refused(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]], damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    damage(values)
    with pytest.raises(InputError, match=message):
        open_signals(write(tmp_path / "a.h5", values))


def test_ids_are_needed(tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]) -> None:
    with pytest.raises(InputError, match="has no dataset long_subject_id: found timeseries"):
        open_signals(write(tmp_path / "a.h5", values, ids=None))
    with pytest.raises(InputError, match=r"has long_subject_id of shape \(5, 1\), expected \(participants,\)"):
        open_signals(write(tmp_path / "b.h5", values, ids=np.arange(5)[:, None]))


@pytest.mark.parametrize(
    ("atlas", "place", "value", "row", "problem"),
    [
        ("tian3", (2, 41, 3), np.nan, 2, "NaN before the end of the run: timeseries/tian3, parcel 41, volume 3 of 25"),
        ("schaefer400", (4, 399, 18), np.nan, 4, "timeseries/schaefer400, parcel 399, volume 18 of 19"),
        (
            "buckner7",
            (1, slice(None), 11),
            np.nan,
            1,
            "unequal numbers of volumes: schaefer400 12, tian3 12, buckner7 11",
        ),
        ("schaefer400", (0, 17, 5), np.inf, 0, "an infinite value: timeseries/schaefer400, parcel 17, volume 5"),
    ],
)
@pytest.mark.parametrize("max_bytes", [1, 2**20])
def test_a_run_with_a_problem_spoils_no_other(
    tmp_path: Path, atlas: str, place: Any, value: float, row: int, problem: str, max_bytes: int
) -> None:
    values = make_values()
    values[atlas][place] = value
    source = open_signals(write(tmp_path / "a.h5", values))
    runs = list(iterate_runs(source, max_bytes=max_bytes))
    problems = [one for _, _, one in runs]
    assert problem in problems[row]
    assert [bool(one) for one in problems] == [i == row for i in range(N)]
    expected = [0 if i == row else length for i, length in enumerate(LENGTHS)]
    assert [len(run) for _, run, _ in runs] == expected


def test_files_that_are_no_hdf5(tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]) -> None:
    with pytest.raises(InputError, match=r"HDF5 file .*none\.h5 does not exist"):
        open_signals(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("participant_id\n")
    with pytest.raises(InputError, match=r"text\.h5 cannot be read as HDF5"):
        open_signals(tmp_path / "text.h5")
    whole = write(tmp_path / "whole.h5", values).read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.h5 cannot be read as HDF5"):
        open_signals(tmp_path / "half.h5")


@pytest.mark.parametrize("what", ["volumes", "participants", "labels"])
def test_sizes_without_content_take_no_memory(tmp_path: Path, what: str) -> None:
    path = tmp_path / "declared.h5"
    n, n_volumes = (10**10 if what == "participants" else N), (10**9 if what == "volumes" else T)
    with h5py.File(path, "w") as file:
        for name, size in SIZES.items():
            file.create_dataset(f"timeseries/{name}", shape=(n, size, n_volumes), chunks=(1, size, T), dtype="f4")
        file.create_dataset("long_subject_id", shape=(10**10 if what == "labels" else N,), chunks=(N,), dtype="i8")
    with pytest.raises(InputError, match=r"10000000000|1000000000"):
        open_signals(path)
