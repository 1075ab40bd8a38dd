"""The files that describe the output dataset are whole, however many processes write them."""

import json

from bids_semantoks.files import write_records
from bids_semantoks.outputs import dataset


def read_rows(out_dir):
    lines = (out_dir / "descriptions.tsv").read_text().splitlines()
    assert lines[0] == "desc_id\tdescription"
    return [tuple(line.split("\t")) for line in lines[1:]]


def test_each_call_adds_its_descriptions(tmp_path):
    dataset.write_descriptions(tmp_path, {"Tiny": "A.", "raw": "Before."})
    dataset.write_descriptions(tmp_path, {"Paper": "B."})
    dataset.write_descriptions(tmp_path, {"Tiny": "C."})
    assert read_rows(tmp_path) == [("desc-Paper", "B."), ("desc-Tiny", "C."), ("desc-raw", "Before.")]
    assert json.loads((tmp_path / "descriptions.json").read_text()).keys() >= {"desc_id", "description"}


def test_no_call_makes_do_without_descriptions(tmp_path):
    dataset.write_descriptions(tmp_path, {})
    assert read_rows(tmp_path) == []


def test_a_row_that_another_process_adds_meanwhile_is_kept(tmp_path, monkeypatch):
    others = ["One", "Two"]

    def write_late(path, columns, rows):
        # Another call adds its row and writes the table between this one's reading and writing.
        if others:
            dataset.write_descriptions(tmp_path, {others.pop(): "Theirs."})
        write_records(path, columns, rows)

    monkeypatch.setattr(dataset, "write_records", write_late)
    dataset.write_descriptions(tmp_path, {"Ours": "Ours."})
    assert read_rows(tmp_path) == [("desc-One", "Theirs."), ("desc-Ours", "Ours."), ("desc-Two", "Theirs.")]
