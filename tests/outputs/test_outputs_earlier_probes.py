"""Tables of an earlier call are not lost when another phenotype is probed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bids_semantoks.outputs.group_tables import keep_earlier_tables


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
