"""Small tables: what was written is read again, with n/a as nothing."""

import dataclasses
import json

from bids_semantoks.outputs.group_tables import read_text_rows, write_rows


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
