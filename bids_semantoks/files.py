"""Read and write TSV and JSON; an incomplete file never has its final name. Slow imports are deferred, since this
module is also needed for --help."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import math
import numbers
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from bids_semantoks.disk import name_temporary, remove_leftovers_once

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Codes for missing values in lower case: BIDS, R, pandas, spreadsheets, databases and statistics software; used for
#: every table.
_MISSING: Final = frozenset(
    {
        *("", "n/a", "na", "n.a.", "nan", "-nan", "+nan", "<na>", "null", "#n/a", "#na", "#n/a n/a", "nat", "."),
        *("1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "1.#nan", "-1.#nan"),
    }
)
# UTF-32 first: the mark of UTF-16 begins its own.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextlib.contextmanager
def open_atomic(path: Path, *, is_durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when complete; if the block raises, nothing is left behind.

    `is_durable` waits until the disk has the file: for checkpoints and tables that a sidecar vouches for, which a crash
    of the machine must not empty. Written under a hidden name in the same folder and renamed. Takes no lock, since
    locks fail on network file systems of clusters.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers_once(path.parent)
    temporary = path.parent / name_temporary()
    try:
        with temporary.open("xb") as file:
            yield file
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)  # the name that users know
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, only_if_changed: bool = False) -> None:
    """Write a UTF-8 file atomically; `only_if_changed` leaves an identical file alone, so that jobs can share it."""
    # Paths that are not valid UTF-8 arrive as surrogates and are written back as the original bytes; half a character,
    # which only JSON can contain, is not a byte.
    content = re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", text).encode(errors="surrogateescape")
    if only_if_changed and path.is_file() and path.read_bytes() == content:
        return
    with open_atomic(path) as file:
        file.write(content)


def write_json(path: Path, values: dict[str, Any], *, only_if_changed: bool = False) -> None:
    """Write plain values as JSON, atomically; NaN is refused with ValueError."""
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    # Bytes of paths that are not valid UTF-8 stay escaped, or nothing could read the file.
    text = re.sub("[\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", text)
    write_text(path, text, only_if_changed=only_if_changed)


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array without objects as ``.npy``, atomically."""
    # Given a file object, NumPy writes through a C buffer and misses a full disk at the end.
    import numpy as np

    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    with open_atomic(path, is_durable=True) as file:
        file.write(content.getbuffer())


def write_table(
    path: Path, columns: Sequence[str], rows: NDArray[np.floating[Any]], *, index: str = "", digits: int = 9
) -> None:
    """Write a numeric table (R, C) as TSV; 9 significant digits represent any float32 exactly, NaN becomes ``n/a``.
    `index` is the header of a first column that repeats `columns` as row names (square tables)."""
    import numpy as np

    if rows.ndim != 2 or rows.shape[1] != len(columns):
        raise ValueError(f"{len(columns)} columns but rows of shape {rows.shape}")
    line = "\t".join([f"%.{digits}g"] * len(columns))
    has_gaps = bool(np.isnan(rows).any())
    with open_atomic(path, is_durable=True) as file:
        file.write(("\t".join([index, *columns] if index else columns) + "\n").encode())
        for i, row in enumerate(rows.tolist()):
            text = line % tuple(row)
            if has_gaps:
                text = text.replace("nan", "n/a")
            file.write((f"{columns[i]}\t{text}\n" if index else f"{text}\n").encode())


def read_table(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Read header (C,) and values (R, C) of a table written by `write_table` without an index; ``n/a`` becomes NaN.
    Raises ValueError if the file is not such a table."""
    import numpy as np

    header, _, body = path.read_bytes().partition(b"\n")
    columns = tuple(header.decode().rstrip("\r").split("\t"))
    if not columns[0]:
        raise ValueError(f"{path} has no header")
    if not body.strip():
        return columns, np.empty((0, len(columns)))
    try:
        # np.loadtxt takes two thirds of the time of splitting and converting.
        values = np.loadtxt(io.BytesIO(body.replace(b"n/a", b"nan")), delimiter="\t", comments=None, ndmin=2)
    except ValueError as error:
        problem = "something that is neither a number nor n/a, or rows of different lengths"
        raise ValueError(f"{path} holds {problem}: {error}") from error
    if values.shape[1] != len(columns):
        raise ValueError(f"{path} has {values.shape[1]} values per row, expected {len(columns)} columns")
    return columns, values


def read_cells(lines: Sequence[str]) -> list[list[str]]:
    """Split lines, none of them empty, into cells, which may be quoted, at the separator of the first line: semicolons,
    else commas, else white space."""
    import csv

    first = lines[0] if lines else ""
    separator = next((one for one in ";," if one in first), "")
    if separator:
        try:
            return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
        except csv.Error as error:
            raise ValueError(f"has a line that cannot be split: {error}") from error
    return [[cell.strip("\"'") for cell in line.split()] for line in lines]


class TextTable(NamedTuple):
    """A table of mixed values as text."""

    names: list[str]  # (C,) columns that have a name
    rows: list[list[str]]  # (R, C) cells
    lines: list[int]  # (R,) line of each row in the file, from 1


def decode_text(content: bytes) -> str:
    """Decode UTF-8, UTF-16 and UTF-32 with their marks, or else Windows-1252; ValueError if it is not text."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    # Files of DOS end with this character.
    content = content.removesuffix(b"\x1a")
    is_binary = re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", content) is not None
    if not is_binary:
        # Five bytes mean nothing in Windows-1252; Latin-1 has them all.
        for encoding in ("utf-8", "cp1252", "latin-1"):
            with contextlib.suppress(UnicodeDecodeError):
                return content.decode(encoding)
    raise ValueError("is not text: it looks like a spreadsheet, an archive or UTF-16 without a byte order mark")


def read_text(path: Path) -> str:
    """Read a text file written by users or other programs; OSError, and ValueError as `decode_text`."""
    return decode_text(path.read_bytes())


def is_missing(text: str) -> bool:
    """Return whether a cell marks a missing value: ``n/a``, empty, or a code of other programs."""
    # R and Python write None and NA; "none" may be an answer.
    return text.strip() == "None" or text.strip().casefold() in _MISSING


def parse_table(text: str, *, delimiter: str = "\t", is_padded: bool = False) -> TextTable:
    """Parse a table with a header as written by users and other programs.

    A row is a line, so a lone quote is text, while quotes around a cell are taken off. Columns without a name are
    skipped (row numbers of pandas and R, tabs at the ends of lines), and so are empty lines. `is_padded` also fills
    short rows and skips rows of empty cells. ValueError, whose message continues after the path, for a row of another
    length.
    """
    lines = split_lines(text, delimiter)
    while lines and not any(map(str.strip, lines[0][1])):
        lines.pop(0)
    if not lines:
        return TextTable([], [], [])
    (_, header), *body = lines
    while body and not "".join(body[-1][1]).strip() and len(body[-1][1]) < 2:
        body.pop()
    # In a table of one column, an empty line is a row.
    if len(header) > 1:
        body = [(number, cells) for number, cells in body if len(cells) > 1 or "".join(cells).strip()]
    # R writes row names, in quotes, without a name for their column.
    is_from_r = re.search(r'^"1"', text, re.MULTILINE) and all(len(cells) == len(header) + 1 for _, cells in body)
    shift = int(bool(is_from_r) and [cells[0] for _, cells in body] == [str(i + 1) for i in range(len(body))])
    names = {i + shift: name.strip() for i, name in enumerate(header) if name.strip()}
    table = TextTable(list(names.values()), [], [])
    for row, (number, cells) in enumerate(body, start=1):
        if is_padded and not any(map(str.strip, cells)):
            continue
        n_lacking = max(names) + 1 - len(cells)
        if any(map(str.strip, cells[len(header) + shift :])) or (n_lacking > 0 and not is_padded):
            raise ValueError(f"has {len(cells)} values in row {row} (line {number}), but {len(header)} columns")
        whole = [*cells, *[""] * n_lacking] if n_lacking > 0 else cells
        table.rows.append([whole[i] for i in names])
        table.lines.append(number)
    return table


def find_delimiter(text: str) -> str:
    """Find the separator of a table written by other programs: a tab, else the more frequent of comma and
    semicolon in its first line; a tab for a single column."""
    first = next(filter(None, io.StringIO(text.lstrip("\r\n"), newline=None)), "")
    return "\t" if "\t" in first else max("\t,;", key=first.count)


def split_lines(text: str, delimiter: str = "\t") -> list[tuple[int, list[str]]]:
    """Split a table into the cells of each line, with the number of the line; quotes around a cell are taken off."""
    import csv

    if delimiter != "\t" and '"' in text:
        # Quoted CSV cells may contain line breaks, unless a quote is never closed.
        with contextlib.suppress(csv.Error):
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            found = [(reader.line_num, cells) for cells in reader]
            if len({len(cells) for _, cells in found if cells}) == 1:
                return found
    # Other Unicode line breaks may be part of a cell.
    lines = [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
    width = lines[0].count(delimiter) + 1 if lines else 0
    return [(number, _split_line(line, delimiter, width)) for number, line in enumerate(lines, start=1)]


def _split_line(line: str, delimiter: str, width: int) -> list[str]:
    import csv

    cells = line.split(delimiter)
    if '"' not in line:
        return cells
    with contextlib.suppress(csv.Error):
        (parsed,) = csv.reader([line], delimiter=delimiter, strict=True)
        if len(parsed) == len(cells) or len(cells) != width:
            return parsed
    return [cell[1:-1].replace('""', '"') if re.fullmatch('"(?:[^"]|"")*"', cell) else cell for cell in cells]


def read_records(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read header (C,) and cells (R, C) of a table of mixed values as text; rows shorter than the header are filled
    with empty cells, and a file without a line has an empty header. Raises OSError, and ValueError as `parse_table`."""
    names, rows, _ = parse_table(read_text(path), is_padded=True)
    return names, rows


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table of mixed values as one dictionary of text cells per row; errors as `read_records`."""
    header, rows = read_records(path)
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises OSError, and ValueError if it is not UTF-8 or as `parse_json`."""
    try:
        return parse_json((content := path.read_bytes()).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # Windows programs write UTF-16 and call it Unicode.
        is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        found = "UTF-16" if is_utf16 else f"damaged or unknown at byte {error.start}"
        raise ValueError(f"its encoding is {found}; expected UTF-8") from error


def parse_json(text: str) -> Any:
    """Parse JSON; ValueError if it is not JSON or nested more than a hundred levels, too deeply for recursive
    functions. Integers too large for a float become infinite, as 1e999 does."""
    try:
        values = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 300 else float(digits))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [values]
    for _ in range(100):
        inside = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        if not (level := [item for items in inside for item in items]):
            return values
    raise ValueError("it is nested too deeply")


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in an optional file; empty if it is absent or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return dict(values) if isinstance(values := read_json(path), dict) else {}
    return {}


def hash_file(path: Path, kind: str = "sha256") -> str:
    """Compute the SHA-256 (or MD5) of a file."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def hash_content(path: Path) -> str:
    """Compute the SHA-256 of the uncompressed bytes of a file; empty if it is compressed and damaged."""
    import gzip
    import hashlib
    import zlib

    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return hash_file(path)
    try:
        with gzip.open(path) as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, EOFError, zlib.error):
        return ""


def hash_text(text: str) -> str:
    """Compute the SHA-256 of a text in UTF-8."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def hash_values(values: Any) -> str:
    """Compute the SHA-256 of plain values in their JSON form with sorted keys."""
    return hash_text(json.dumps(values, sort_keys=True))


def write_records(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a small table of mixed values as TSV; None, empty text and NaN become
    ``n/a``, floats get 9 significant digits."""
    lines = ["\t".join(map(format_cell, columns)), *map(format_row, rows)]
    write_text(path, "\n".join(lines) + "\n", only_if_changed=True)


def format_row(row: Sequence[object]) -> str:
    """Format a row, its trailing floats in one go: four times faster than cell by cell."""
    n_head = len(row)
    while n_head and type(row[n_head - 1]) is float:
        n_head -= 1
    numbers = "\t".join(["%.9g"] * (len(row) - n_head)) % tuple(row[n_head:])
    head = [format_cell(cell) for cell in row[:n_head]]
    return "\t".join([*head, numbers.replace("nan", "n/a")] if numbers else head)


def format_cell(value: object) -> str:
    """Format a cell as `write_records` does."""
    if value is None or value == "":
        return "n/a"
    # NumPy's scalars are registered with numbers.
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return "n/a" if math.isnan(value) else f"{value:.9g}"
    # Replace characters that end a cell or line or cannot be read back; names are looked up as written. Readers
    # unquote.
    cell = re.sub(r"\s*[\x00-\x1a\x1c-\x1f]\s*", " ", str(value)).strip()
    return '"{}"'.format(cell.replace('"', '""')) if cell[:1] == cell[-1:] == '"' else cell
