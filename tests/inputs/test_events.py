"""Events of a run are found at the nearest place, and read."""

from __future__ import annotations

import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.events import find_event_roots, find_events, read_events


def test_the_nearest_events_are_found_and_read(tmp_path):
    raw, derivative = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "prep"
    for folder in (raw / "sub-01" / "ses-1" / "func", derivative):
        folder.mkdir(parents=True)
    roots = find_event_roots(derivative, ())
    assert roots == (derivative.resolve(), raw.resolve())
    entities = {"sub": "01", "ses": "1", "task": "nback", "run": "2", "space": "X", "atlas": "A"}
    assert find_events(entities, roots) is None
    common = raw / "task-nback_events.tsv"
    common.write_text("onset\tduration\ttrial_type\n1\t2\ta\n")
    (raw / "task-rest_events.tsv").write_text("x")
    assert find_events(entities, roots) == common.resolve()
    own = raw / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-nback_run-2_events.tsv"
    lines = [
        "onset\tduration\ttrial_type",
        '30\t5.5\t"go left"\t',
        "8\t1\tNaN",
        "2.5\t20\tlook",
        "n/a\t1\tlook",
        "7\t1\tn/a",
    ]
    own.write_bytes("\r\n".join(lines).encode("utf-16"))
    (own.parent / "sub-01_ses-1_task-nback_run-3_events.tsv").write_text("x")
    assert find_events(entities, roots) == own.resolve()
    events, n_timeless = read_events(own, "trial_type")
    assert n_timeless == 1
    assert [(one.onset, one.duration, one.label) for one in events] == [(2.5, 20.0, "look"), (30.0, 5.5, "go left")]
    own.write_text("duration\ttrial_type\n5\ta\n")
    with pytest.raises(InputError, match="no column onset: found duration, trial_type") as error:
        read_events(own, "trial_type")
    assert "onset and duration" in str(error.value.hint)
    own.write_text("onset\tduration\ttrial_type\n1\t5\ta\n")
    with pytest.raises(InputError, match="no column stim: found onset, duration, trial_type"):
        read_events(own, "stim")
    own.write_text("onset\tduration\ttrial_type\nsoon\t5\ta\n")
    with pytest.raises(InputError, match=r"Line 2 .* onset 'soon'"):
        read_events(own, "trial_type")


def test_a_path_may_hold_an_equals_sign(tmp_path):
    (tmp_path / "a=b").mkdir()
    (tmp_path / "c").mkdir()
    roots = find_event_roots(tmp_path, (str(tmp_path / "a=b"), f"more={tmp_path / 'c'}"))
    assert roots[-2:] == (tmp_path / "a=b", tmp_path / "c")
