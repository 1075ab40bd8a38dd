"""Tables of people are read as they are written, and what is wrong with one is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.people_tables import find_suspects, read_levels, read_phenotype_table


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("a.csv", "participant_id,site,score\r\nsub-01,Köln,3\r\n", "utf-8-sig"),
        ("a.csv", "participant_id;site;score\nsub-01;Köln;3\n", "cp1252"),
        ("a.tsv", "participant_id,site,score\nsub-01,Köln,3\n", "utf-8"),
        ("a.tsv", "\tparticipant_id\tsite\tscore\n0\tsub-01\tKöln\t3\n", "utf-16"),
        ("a.tsv", '"participant_id"\t"site"\t"score"\n"1"\t"sub-01"\t"Köln"\t3\n', "utf-8"),
        ("a.tsv", "participant_id\tsite\tscore\t\rsub-01\tKöln\t3\t\r\t\t\t\r", "utf-8"),
    ],
)
def test_tables_of_other_programs(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    table = read_phenotype_table(write(tmp_path / name, text, encoding))
    assert table.columns == {"site": ("Köln",), "score": ("3",)}
    assert table.keys == (("01", ""),)
    assert table.lines == (2,)


def test_a_lone_quote_swallows_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'participant_id\tnote\nsub-01\t"tall\nsub-02\t5\'\nsub-03\t"x"\n')
    assert read_phenotype_table(path).columns == {"note": ('"tall', "5'", "x")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("participant_id\tx\nsub-01\t1\n01\t2\n", "1 participants.*sub-01"),
        ("participant_id\tx\tx\nsub-01\t1\t2\n", r"a\.tsv.*: x\."),
        ("name\tx\nsub-01\t1\n", r"participant_id: found 2 \(name,"),
        ("eid\tx\n1\t1\n", "--id-column eid"),
        ("x\tsubjectkey\tsrc_subject_id\n1\ta\tb\n", "--id-column src_subject_id"),
        ("Participant_ID\tx\n1\t1\n", "--id-column Participant_ID"),
        ("participant_id\tx\nsub-01\t1\n\nn/a\t2\n", "has no participant_id in row 4"),
        ("participant_id\tx\nsub-01\t1\t2\n", r"has 3 values in row 1 \(line 2\), but 2 columns"),
        ("PK\x03\x04\x00", "is not text"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_phenotype_table(write(tmp_path / "a.tsv", text))
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([*map(str, range(80, 130)), "-9999", "-9999"], {"-9999": 2}),
        ([*map(str, range(80, 130)), "-999", "-9", "999"], {"-999": 1, "-9": 1, "999": 1}),
        (["1", "2"] * 9 + ["-9999.0"] * 6, {"-9999.0": 6}),
        (["1", "2", "3", "4", "9"], {"9": 1}),
        (["0", "1", "99"], {"99": 1}),
        (["F", "M", "-9"], {"-9": 1}),
        (["F", "M", "unknown", "Unknown"], {"unknown": 1, "Unknown": 1}),
        (["1", "2", "3", "-1", "-3"], {"-1": 1, "-3": 1}),
        # Ordinary values.
        (list(map(str, range(18, 100))), {}),
        (["1", "-1"], {}),
        (["-5", "0.3", "-9", "4"], {}),
        (["8", "9", "10", "11"], {}),
        (["0.2", "1.7", "2.5", "-1"], {}),
        (["7", "8", "9"], {}),
        ([*map(str, range(900, 1100))], {}),
        (["none", "none"], {}),
        (["a", "b"], {}),
    ],
)
def test_suspects(labels: list[str], expected: dict[str, int]) -> None:
    assert find_suspects(labels, set()) == expected


def test_levels_of_the_sidecar_are_values() -> None:
    levels, missing = read_levels({"Levels": {"1": "left", "9": "other", "-9": "Missing / unknown", "none": "no drug"}})
    assert levels == {"1.0", "9.0", "none"}
    assert missing == {"-9.0"}
    assert find_suspects(["1", "2", "9", "none"], levels) == {}


@pytest.mark.parametrize("entry", [None, "text", {"Levels": ["a", "b"]}, {"Levels": 3, "MissingValues": None}])
def test_sidecars_of_another_form(entry: object) -> None:
    assert read_levels(entry)[1] == frozenset()
