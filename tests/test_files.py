"""Files appear whole or not at all, and numbers survive the way to disk and back."""

import errno
import json
import math
import resource

import numpy as np
import pytest

from bids_semantoks import files


def test_table_keeps_every_float32_and_gaps(tmp_path):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((41, 13)) * 10.0 ** rng.integers(-30, 30, (41, 13))).astype(np.float32)
    values[3] = np.nan
    values[:, 5] = np.nan
    names = [f"p{i}" for i in range(13)]
    files.write_table(tmp_path / "t.tsv", names, values)
    columns, back = files.read_table(tmp_path / "t.tsv")
    assert columns == tuple(names)
    np.testing.assert_array_equal(back.astype(np.float32), values)
    assert "nan" not in (tmp_path / "t.tsv").read_text()


def test_square_table_has_row_names(tmp_path):
    files.write_table(tmp_path / "m.tsv", ["a", "b"], np.array([[1.0, np.nan], [0.25, 1.0]]), index="Node")
    assert (tmp_path / "m.tsv").read_text() == "Node\ta\tb\na\t1\tn/a\nb\t0.25\t1\n"


def test_read_table_refuses_text_and_ragged_rows(tmp_path):
    (tmp_path / "text.tsv").write_text("a\tb\n1\tfoo\n")
    with pytest.raises(ValueError, match="neither a number nor n/a"):
        files.read_table(tmp_path / "text.tsv")
    (tmp_path / "ragged.tsv").write_text("a\tb\n1\t2\n3\n")
    with pytest.raises(ValueError, match="columns changed from 2 to 1 at row 2"):
        files.read_table(tmp_path / "ragged.tsv")
    (tmp_path / "narrow.tsv").write_text("a\tb\n1\n3\n")
    with pytest.raises(ValueError, match="1 values per row, expected 2 columns"):
        files.read_table(tmp_path / "narrow.tsv")


def test_read_table_without_rows(tmp_path):
    (tmp_path / "empty.tsv").write_text("a\tb\n")
    columns, rows = files.read_table(tmp_path / "empty.tsv")
    assert columns == ("a", "b")
    assert rows.shape == (0, 2)


def test_table_shape_is_checked(tmp_path):
    with pytest.raises(ValueError, match="3 columns but rows of shape"):
        files.write_table(tmp_path / "t.tsv", ["a", "b", "c"], np.zeros((4, 2)))
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})

    def write_half():
        with files.open_atomic(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "x.tsv"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
            files.write_table(path, ["a", "b"], np.ones((100_000, 2)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_of_an_array_is_noticed(tmp_path):
    values = np.ones((13, 41), dtype=np.float32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Less than NumPy's own buffer is missing.
    resource.setrlimit(resource.RLIMIT_FSIZE, (values.nbytes - 100, hard))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
            files.write_array(tmp_path / "x.npy", values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
    files.write_array(tmp_path / "x.npy", values)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), values)


def test_unchanged_shared_file_is_left_alone(tmp_path):
    path = tmp_path / "shared.json"
    files.write_json(path, {"a": 1})
    before = path.stat().st_ino
    files.write_json(path, {"a": 1}, only_if_changed=True)
    assert path.stat().st_ino == before
    files.write_json(path, {"a": 2}, only_if_changed=True)
    assert json.loads(path.read_text()) == {"a": 2}


def test_records_write_missing_as_na(tmp_path):
    files.write_records(tmp_path / "r.tsv", ("a", "b", "c"), [(None, float("nan"), "x\ty"), ("", 0.5, 3)])
    assert (tmp_path / "r.tsv").read_text() == "a\tb\tc\nn/a\tn/a\tx y\nn/a\t0.5\t3\n"


def test_what_is_written_of_a_hostile_cell_is_read_back(tmp_path):
    # A table in UTF-16 can hold any of these, but they would make a table of ours a binary file.
    files.write_records(tmp_path / "r.tsv", ("a\0", "b"), [("x\x07y", "".join(map(chr, range(32))) + "z")])
    assert files.read_records(tmp_path / "r.tsv") == (["a", "b"], [["x y", "\x1b z"]])


def test_records_of_many_numbers_are_written_as_single_cells_are(tmp_path):
    rng = np.random.default_rng(5)
    numbers = [*rng.normal(size=7).tolist(), 1e-300, 123456789012.0, 2.0, float("nan"), -0.0]
    rows = [("nan", 3, *numbers), ("b", None, *numbers[::-1]), (float("nan"),) * 14, ("c", *["x"] * 13)]
    files.write_records(tmp_path / "r.tsv", [f"c{number}" for number in range(14)], rows)
    expected = [
        "\t".join(
            "n/a"
            if cell is None or cell != cell  # noqa: PLR0124 - not-a-number is what differs from itself
            else f"{cell:.9g}"
            if isinstance(cell, float)
            else str(cell)
            for cell in row
        )
        for row in rows
    ]
    assert (tmp_path / "r.tsv").read_text().splitlines()[1:] == expected


def test_records_are_read_as_text(tmp_path):
    path = tmp_path / "any.tsv"
    path.write_bytes('\ufeffid\tnote\tage\r\n01\t"a\t7\r\n\r\n02\r\n'.encode())
    assert files.read_records(path) == (["id", "note", "age"], [["01", '"a', "7"], ["02", "", ""]])
    assert files.read_rows(path)[0] == {"id": "01", "note": '"a', "age": "7"}
    path.write_bytes(b"")
    assert files.read_records(path) == ([], [])
    path.write_bytes(b"id\n\x00\xff\n")
    with pytest.raises(ValueError, match="is not text"):
        files.read_records(path)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a\tb\n1\t2\n3\t4\n", [["1", "2"], ["3", "4"]]),
        ("\ta\tb\n0\t1\t2\n1\t3\t4\n", [["1", "2"], ["3", "4"]]),  # pandas with its index
        ('"a"\t"b"\n"1"\t1\t2\n"2"\t3\t4\n', [["1", "2"], ["3", "4"]]),  # R with row names
        ("a\tb\t\n1\t2\t\n3\t4\t\n", [["1", "2"], ["3", "4"]]),
        ("a\tb\n0\t2\t\n1\t4\t\n", [["0", "2"], ["1", "4"]]),  # tabs below the header alone
        ("a\tb\r1\t2\r3\t4", [["1", "2"], ["3", "4"]]),
        ("\n a \tb\r\n\r\n1\t2\r\n\r\n", [["1", "2"]]),
        ('a\tb\n"x\t5" y\n1\t"2\n3\t""\n', [['"x', '5" y'], ["1", '"2'], ["3", ""]]),
        ('a\tb\n"x\ty"\t"say ""no"""\n', [["x\ty", 'say "no"']]),
        ("a\tb\nx\u2028y\t\x0b1\n", [["x\u2028y", "\x0b1"]]),
    ],
)
def test_a_row_is_a_line_however_a_program_writes_it(text, rows):
    table = files.parse_table(text)
    assert (table.names, table.rows) == (["a", "b"], rows)


def test_rows_of_another_length_are_named_and_lines_are_counted():
    with pytest.raises(ValueError, match=r"has 1 values in row 2 \(line 4\), but 2 columns"):
        files.parse_table("a\tb\n1\t2\n\n3\n")
    with pytest.raises(ValueError, match=r"has 3 values in row 1 \(line 2\), but 2 columns"):
        files.parse_table("a\tb\n1\t2\t3\n", is_padded=True)
    assert files.parse_table("a\tb\n\t\n3\n", is_padded=True) == (["a", "b"], [["3", ""]], [3])
    # An empty line is a row of a table of one column, but not at its end.
    assert files.parse_table("a\n1\n\n2\n\n") == (["a"], [["1"], [""], ["2"]], [2, 3, 4])
    assert files.parse_table(" \n") == ([], [], [])


def test_quoted_cells_of_a_csv_hold_ends_of_lines_unless_a_quote_is_left_open():
    assert files.parse_table('a,b\n"x\ny",2\n', delimiter=",").rows == [["x\ny", "2"]]
    assert files.parse_table('a,b\n"x,2\n3,"y\n', delimiter=",").rows == [['"x', "2"], ["3", '"y']]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_of_other_programs_are_read(encoding):
    assert files.decode_text("größe\t5 µm\n".encode(encoding)) == "größe\t5 µm\n"


@pytest.mark.parametrize("content", [b"PK\x03\x04\x14\x00", b"\x1f\x8b\x08", "größe".encode("utf-16-le")])
def test_what_is_not_text_is_refused(content):
    with pytest.raises(ValueError, match="is not text"):
        files.decode_text(content)


def test_the_last_character_of_dos_is_passed_over():
    assert files.decode_text(b"a\n1\n\x1a") == "a\n1\n"


def test_words_for_missing_are_one_list():
    assert all(map(files.is_missing, ["n/a", "N/A", "NA", "NaN", "nan", "", " ", "None", "null", "NULL", "#N/A", "."]))
    assert not any(map(files.is_missing, ["none", "unknown", "0", "-9999", "North", "nana"]))


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "any").write_text("abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.hash_file(tmp_path / "any") == files.hash_text("abc") == expected
    assert files.hash_values({"b": 1, "a": [2]}) == files.hash_text('{"a": [2], "b": 1}')


def test_json_is_read_with_and_without_a_mark(tmp_path):
    path = tmp_path / "any.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert files.read_json(path) == {"a": 1}
    path.write_bytes(b'{"a": \xff}')
    with pytest.raises(ValueError, match="UTF-8"):
        files.read_json(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_json_in_another_encoding_is_said_to_be(tmp_path, encoding):
    path = tmp_path / "any.json"
    path.write_bytes("\ufeff{}".encode(encoding) if encoding.endswith("be") else "{}".encode(encoding))
    with pytest.raises(ValueError, match="UTF-16; expected UTF-8"):
        files.read_json(path)


@pytest.mark.parametrize("text", ["[" * 200_000, "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500, "[1,", "\x00"])
def test_json_that_cannot_be_used_is_a_value_error(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"nested|Expecting|control"):
        files.read_json(tmp_path / "x.json")
    assert files.read_object(tmp_path / "x.json") == {}


def test_integers_beyond_floats_are_infinite_and_others_exact():
    assert files.parse_json(f"[{'9' * 5000}, -{'9' * 400}, {'9' * 200}, 1e999]") == [
        math.inf,
        -math.inf,
        int("9" * 200),
        math.inf,
    ]


def test_what_is_no_object_reads_as_an_empty_one(tmp_path):
    assert files.read_object(tmp_path / "absent.json") == {}
    (tmp_path / "x.json").write_text("[1]")
    assert files.read_object(tmp_path / "x.json") == {}
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert files.read_object(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize("cell", ['"A"', '"A" or "B"', '""', '"', 'say "x"', '"x" said', '"a""b"', "'x'", '"""'])
def test_quotes_of_a_cell_are_its_own(tmp_path, cell):
    path = tmp_path / "table.tsv"
    files.write_records(path, ["index", "label"], [[1, cell], [2, "plain"]])
    assert files.read_rows(path) == [{"index": "1", "label": cell}, {"index": "2", "label": "plain"}]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [('"A" or "B"', '"A" or "B"'), ('"A"', "A"), ('"a ""b"" c"', 'a "b" c'), ('"a "b""', '"a "b""')],
)
def test_only_quotes_that_enclose_a_cell_are_taken_off(cell, expected):
    assert files.parse_table(f"index\tlabel\n1\t{cell}\n").rows == [["1", expected]]
