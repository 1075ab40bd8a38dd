"""What the page of the group colours the embedding by."""

from __future__ import annotations

from pathlib import Path

from bids_semantoks.reports.group_page import build_colouring, choose_colourings, describe_left_out


def choose(**columns: tuple[str, ...]) -> list[str]:
    return [one.name for one in choose_colourings([build_colouring(name, cells) for name, cells in columns.items()])]


def test_runs_without_an_embedding_are_counted(tmp_path: Path) -> None:
    lines = ("a_desc-Tiny\tok\tn/a", "b\tskipped\ttoo_short", "c\tfailed\tno_mask", "d\tskipped\ttoo_short")
    others = ("a_desc-Other\tfailed\tinternal", "a_desc-TinyTwo\tfailed\tinternal")
    (tmp_path / "group_status.tsv").write_text("\n".join(("run\tstatus\treason", *lines, *others)) + "\n")
    said = "1 failed (no mask), 2 skipped (too short); see the status of all runs"
    assert describe_left_out(tmp_path, "Tiny") == [("runs left out", said)]
    assert describe_left_out(tmp_path / "nowhere", "Tiny") == []


def test_colours_that_all_share_are_left_out() -> None:
    site, sex, seconds = ("A", "B", ""), ("F", "F", None), ("240", "240", "240")
    assert choose(site=site, sex=sex, kept_seconds=seconds) == ["site"]
    assert choose(sex=sex, kept_seconds=seconds) == ["sex", "kept data (s)"]
    assert choose(sex=("", "", "")) == []


def test_kept_data_stand_in_for_motion() -> None:
    motion, seconds = ("0.1", "0.2", "0.3"), ("240", "200", "180")
    assert choose(mean_fd=motion, kept_seconds=seconds) == ["motion: mean FD (mm)"]
    assert choose(mean_fd=("", "", ""), kept_seconds=seconds) == ["kept data (s)"]
