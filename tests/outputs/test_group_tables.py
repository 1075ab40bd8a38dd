"""Tables of an earlier call are not lost when another phenotype is probed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bids_semantoks.outputs.group_tables import keep_earlier_tables, read_text_rows, write_rows


def write_facts(out: Path, facts: dict[str, Any]) -> None:
    (out / "group_probe.json").write_text(json.dumps({"Facts": facts}))


def test_tables_are_copied_when_something_else_is_asked(tmp_path: Path) -> None:
    facts = {"Encoder": {"Name": "a"}, "Settings": {"probe": ["age"]}, "RandomSeed": 0}
    assert keep_earlier_tables(tmp_path, facts) is None
    write_facts(tmp_path, facts)
    for name in ("group_probe.tsv", "group_splits.tsv", "group.html"):
        (tmp_path / name).write_text(f"age in {name}")
    assert keep_earlier_tables(tmp_path, facts) is None
    assert not (tmp_path / "logs").exists()
    folder = keep_earlier_tables(tmp_path, {**facts, "Settings": {"probe": ["sex"]}})
    assert folder is not None
    assert folder.parent == tmp_path / "logs" / "probes"
    assert {path.name for path in folder.iterdir()} == {
        "group_probe.tsv", "group_probe.json", "group_splits.tsv", "group.html"
    }  # fmt: skip
    assert (folder / "group_splits.tsv").read_text() == "age in group_splits.tsv"


def test_a_broken_record_keeps_nobody_from_probing(tmp_path: Path) -> None:
    facts = {"Encoder": {}, "Settings": {}, "RandomSeed": 0}
    for text in ("{", "{}"):
        (tmp_path / "group_probe.json").write_text(text)
        assert keep_earlier_tables(tmp_path, facts) is None


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    value: float
    n: int | None


def test_rows_round_trip(tmp_path):
    rows = [Row("a,b", 0.125, 3), Row("c", float("nan"), None)]
    path = write_rows(tmp_path / "few.tsv", Row, rows, meanings={"name": {"Description": "Who."}}, facts={"Seed": 7})
    assert path.read_text().splitlines()[0] == "name\tvalue\tn"
    assert read_text_rows(path) == [{"name": "a,b", "value": "0.125", "n": "3"}, {"name": "c", "value": "", "n": ""}]
    assert json.loads((tmp_path / "few.json").read_text()) == {"name": {"Description": "Who."}, "Facts": {"Seed": 7}}


def test_a_table_that_is_not_there_has_no_rows(tmp_path):
    assert read_text_rows(tmp_path / "none.tsv") == []
