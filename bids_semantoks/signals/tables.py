"""A confounds table read as text, so that errors can name row and column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed, RunSkipped

_MISSING: Final = frozenset({"n/a", "", "nan", "NaN"})


class ConfoundsTable:
    """A TSV of confounds with a header; columns are checked when read. `text` replaces the content of the file.
    Raises RunFailed bad_confounds without a header of unique names, RunSkipped no_content (datalad)."""

    def __init__(self, path: Path, *, text: str | None = None, hint: str = "") -> None:
        self.path = path
        self.text = text
        self._hint = hint or "Choose another --denoise preset, or let fMRIPrep write these columns."
        # Empty lines at the end, which editors leave, hold no volume.
        lines = (read_text(path) if text is None else text).rstrip("\r\n").splitlines()
        if not lines:
            self.refuse("is empty")
        self.names = tuple(lines[0].split("\t"))
        if all(_is_number(name) for name in self.names):
            self.refuse("has no header: its first line holds numbers only", hint="Is it from fMRIPrep before 1.2?")
        twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if twice:
            self.refuse(f"has columns twice: {', '.join(twice[:5])}")
        self._rows = [line.split("\t") for line in lines[1:]]
        for number, row in enumerate(self._rows, start=1):
            if len(row) != len(self.names):
                self.refuse(f"has {len(row)} values in row {number}, but {len(self.names)} columns")
        self._index = {name: position for position, name in enumerate(self.names)}
        self._columns: dict[str, NDArray[np.float64]] = {}

    @property
    def n_rows(self) -> int:
        """Rows below the header."""
        return len(self._rows)

    def refuse(self, problem: str, *, hint: str = "") -> NoReturn:
        """Raise RunFailed bad_confounds; `problem` continues the sentence after the path."""
        raise RunFailed("bad_confounds", f"{self.path} {problem}.", hint=hint)

    def check_columns(self, names: Sequence[str], why: str) -> None:
        """Raise RunFailed bad_confounds naming the missing columns and why they are needed."""
        missing = [name for name in names if name not in self._index]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            self.refuse(
                f"lacks {', '.join(missing[:5])}{more}, needed for {why}",
                hint=self._hint,
            )

    def read_cells(self, name: str) -> tuple[str, ...]:
        """Return the cells (T,) of an existing column as text."""
        position = self._index[name]
        return tuple(row[position] for row in self._rows)

    def with_columns(self, cells: Mapping[str, Sequence[str]]) -> ConfoundsTable:
        """Return a new table of the same path with columns appended, cells (T,) by name."""
        lines = ["\t".join((*self.names, *cells))]
        lines += [
            "\t".join((*row, *more)) for row, more in zip(self._rows, zip(*cells.values(), strict=True), strict=True)
        ]
        return ConfoundsTable(self.path, text="\n".join(lines), hint=self._hint)

    def read_column(self, name: str) -> NDArray[np.float64]:
        """Read an existing column (T,); NaN for n/a.
        Raises RunFailed bad_confounds with the row of a value that is neither finite nor n/a."""
        if name in self._columns:
            return self._columns[name].copy()
        position = self._index[name]
        values = np.full(self.n_rows, np.nan)
        for number, row in enumerate(self._rows):
            cell = row[position]
            if cell in _MISSING:
                continue
            if not _is_number(cell):
                self.refuse(f"has {cell!r} in row {number + 1} of column {name}, expected a number or n/a")
            values[number] = float(cell)
        self._columns[name] = values
        return values.copy()

    def read_regressor(self, name: str, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Read an existing column (T,), finite in every kept volume.

        n/a in the first volume (derivatives) becomes the value of the first kept volume that has one, or 0 if there is
        none. Raises RunFailed bad_confounds for n/a in a later kept volume.
        """
        values = self.read_column(name)
        known = np.flatnonzero(kept & ~np.isnan(values))
        if np.isnan(values[0]):
            values[0] = values[known[0]] if known.size else 0.0
        gaps = np.flatnonzero(kept & np.isnan(values))
        if gaps.size:
            self.refuse(f"has n/a in row {gaps[0] + 1} of column {name}, expected a number after the first row")
        return values


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def read_text(path: Path) -> str:
    """Read a UTF-8 text file of a run; RunFailed bad_confounds, RunSkipped no_content (datalad link or pointer)."""
    if path.is_symlink() and not path.exists():
        _refuse_content(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RunFailed("bad_confounds", f"{path} is not text in UTF-8 ({error}).") from error
    except OSError as error:
        raise RunFailed("bad_confounds", f"{path} cannot be read ({error.strerror}).") from error
    if text.startswith("/annex/objects/"):
        _refuse_content(path)
    return text


def _refuse_content(path: Path) -> NoReturn:
    raise RunSkipped(
        "no_content", f"{path} is a datalad file without content.", hint="Fetch it with `datalad get` first."
    )
