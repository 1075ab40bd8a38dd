"""Packing signals, and what is said about a store that cannot be trusted."""

import json

import numpy as np
import pytest

from bids_semantoks.disk import tag_owner
from bids_semantoks.errors import InputError
from bids_semantoks.training.packed import FORMAT, PackedRun, SignalStore

P = 13


def make_run(number: int, n_volumes: int = 41, *, participant: str | None = None) -> PackedRun:
    rng = np.random.default_rng(number)
    values = rng.standard_normal((n_volumes, P)).astype(np.float32)
    present = np.ones(P, dtype=bool)
    present[number % P] = False
    values[:, ~present] = 0
    return PackedRun(
        key=f"key{number}",
        participant=participant or f"{number:03d}",
        repetition_time=2.5,
        values=values,
        present=present,
    )


@pytest.fixture
def store(tmp_path):
    store = SignalStore(tmp_path / "signals", P)
    store.add(make_run(i, 20 + i) for i in range(7))
    return store


def test_what_is_packed_is_read_back(store):
    reopened = SignalStore(store.directory, P)
    view = reopened.select([f"key{i}" for i in (5, 0, 3)])
    assert view.participants == ("005", "000", "003")
    assert view.lengths.tolist() == [25, 20, 23]
    assert view.repetition_times == (2.5, 2.5, 2.5)
    for position, number in enumerate((5, 0, 3)):
        run = make_run(number, 20 + number)
        np.testing.assert_array_equal(view.read(position), run.values.astype(np.float16))
        np.testing.assert_array_equal(view.present[position], run.present)


def test_signals_that_are_not_for_training_are_kept_exactly(tmp_path):
    values = np.random.default_rng(0).standard_normal((9, P)).astype(np.float32)
    values[3], values[:, 2] = np.nan, np.nan
    run = PackedRun(key="a", participant="01", repetition_time=0.8, values=values, present=np.arange(P) != 2)
    store = SignalStore(tmp_path / "exact", P, "<f4")
    assert store.add([run, run]) == 2
    np.testing.assert_array_equal(SignalStore(store.directory, P, "<f4").select(["a"]).read(0), values)
    assert store.select(["a"]).n_bytes == 9 * P * 4
    with pytest.raises(InputError, match="format version"):
        SignalStore(store.directory, P)


def test_batches_are_padded_with_zeros(store):
    view = store.select([f"key{i}" for i in range(7)])
    signals = view.read_batch(np.array([6, 2]))
    assert signals.shape == (2, 26, P)
    assert view.lengths[[6, 2]].tolist() == [26, 22]
    np.testing.assert_array_equal(signals[1, :22], make_run(2, 22).values.astype(np.float16))
    assert not signals[1, 22:].any()


def test_adding_touches_nothing_that_is_there(store):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in store.directory.iterdir()}
    assert SignalStore(store.directory, P).add([make_run(9)]) == 1
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    assert len(SignalStore(store.directory, P)) == 8
    assert "key9" in SignalStore(store.directory, P)


def test_a_segment_ends_when_it_is_full(tmp_path):
    store = SignalStore(tmp_path, P)
    assert store.add((make_run(i) for i in range(6)), segment_bytes=2 * 41 * P * 2) == 6
    assert len(list(tmp_path.glob("*.f16"))) == 3


def test_a_run_that_fails_leaves_its_segment_out_and_the_earlier_ones_in(tmp_path):
    def runs():
        yield make_run(0)
        yield make_run(1)
        yield make_run(2)
        raise OSError("gone")

    store = SignalStore(tmp_path, P)
    with pytest.raises(OSError, match="gone"):
        store.add(runs(), segment_bytes=2 * 41 * P * 2)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".f16", ".json"]
    assert len(SignalStore(tmp_path, P)) == 2


def test_values_that_are_not_finite_are_refused(tmp_path):
    run = make_run(3)
    run.values[4, 5] = 1e6
    with pytest.raises(ValueError, match="participant 003 have non-finite values"):
        SignalStore(tmp_path, P).add([run])
    with pytest.raises(ValueError, match=r"must have shape \(T, 12\), found \(41, 13\)"):
        SignalStore(tmp_path, 12).add([make_run(0)])
    assert not list(tmp_path.iterdir())


def test_changed_bytes_are_noticed_when_the_run_is_read(store):
    (path,) = store.directory.glob("*.f16")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    view = SignalStore(store.directory, P).select(["key0", "key6"])
    view.read(0)
    with pytest.raises(InputError, match="the run of participant 006 has checksum"):
        view.read(1)


def test_a_store_that_was_cut_short_is_refused(store):
    (path,) = store.directory.glob("*.f16")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 6)
    with pytest.raises(InputError, match=f"{size - 6} bytes, expected {size}"):
        SignalStore(store.directory, P)


def test_a_damaged_index_is_refused(store):
    (index,) = store.directory.glob("*.json")
    index.write_text(index.read_text()[:-20])
    with pytest.raises(InputError, match=r"are damaged: .*Delete the directory"):
        SignalStore(store.directory, P)
    index.write_text(json.dumps({"format": FORMAT, "n_parcels": P, "runs": {}}))
    with pytest.raises(InputError, match="are damaged: 'crc32'"):
        SignalStore(store.directory, P)


@pytest.mark.parametrize(
    ("column", "value"), [("participant", "other"), ("repetition_time", 3.0), ("present", "!!"), ("key", ["key0"])]
)
def test_an_index_that_was_changed_is_refused(store, column, value):
    """Volumes have checksums of their own; whose they are and which parcels they hold is as decisive."""
    (index,) = store.directory.glob("*.json")
    values = json.loads(index.read_text())
    values["runs"][column][0] = value
    index.write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"are damaged: its checksum is \d+, expected {values['crc32']}"):
        SignalStore(store.directory, P)


def test_a_missing_segment_is_refused(store):
    (path,) = store.directory.glob("*.f16")
    path.unlink()
    with pytest.raises(InputError, match=r"are damaged: .*No such file"):
        SignalStore(store.directory, P)


def test_another_version_is_refused(store):
    (index,) = store.directory.glob("*.json")
    values = json.loads(index.read_text())
    index.write_text(json.dumps({**values, "format": "bids_semantoks signals 0"}))
    with pytest.raises(
        InputError, match=r"another format version: expected 'bids_semantoks signals 2', found .* signals 0'"
    ):
        SignalStore(store.directory, P)


def test_other_parcels_and_unknown_runs_are_refused(store):
    with pytest.raises(InputError, match="have 13 parcels, expected 12"):
        SignalStore(store.directory, 12)
    with pytest.raises(InputError, match=r"1 runs are not packed in .*, the first is nothing"):
        store.select(["key0", "nothing"])


def test_many_runs_are_opened_without_being_read(tmp_path):
    """The time that this takes is in the benchmark of packing."""
    n_runs = 40_000
    run = make_run(0, 3)
    store = SignalStore(tmp_path, P)
    store.add(
        PackedRun(key=f"k{i}", participant=f"p{i}", repetition_time=2.0, values=run.values, present=run.present)
        for i in range(n_runs)
    )
    (segment,) = tmp_path.glob("*.f16")
    segment.write_bytes(bytes(segment.stat().st_size))
    view = SignalStore(tmp_path, P).select([f"k{i}" for i in range(n_runs)])
    assert view.n_bytes == n_runs * 3 * P * 2
    with pytest.raises(InputError, match="the run of participant p7 has checksum"):
        view.read(7)


def test_segments_of_killed_calls_are_removed_and_of_living_ones_stay(store):
    """Killed between a segment and its index, a call leaves a gigabyte that nothing refers to."""
    there = set(store.directory.iterdir())
    place = tag_owner().partition("-")[0]
    dead = [
        store.directory / f"{place}-4194305-1-{'a' * 16}.f16",
        store.directory / f".{place}-4194305-1-{'a' * 12}.tmp",
    ]
    alive = store.directory / f"{tag_owner()}{'b' * 16}.f16"
    for path in (*dead, alive):
        path.touch()
    store.remove_orphans()
    assert set(store.directory.iterdir()) == there | {alive}
    assert len(SignalStore(store.directory, P)) == 7
