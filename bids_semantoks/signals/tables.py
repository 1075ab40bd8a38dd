"""A confounds table read as text, so that every damage can be named by row and column."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed, RunSkipped

_MISSING: Final = frozenset({"n/a", "", "nan", "NaN"})


class ConfoundsTable:
    """A confounds table as text, each column checked when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = read_text(path).splitlines()
        if not lines:
            self.refuse("is empty")
        self.names = lines[0].split("\t")
        if all(_is_number(name) for name in self.names):
            self.refuse("has no header: its first line holds numbers only", hint="Is it from fMRIPrep before 1.2?")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            self.refuse(f"has columns twice: {', '.join(twice[:5])}")
        self._rows = [line.split("\t") for line in lines[1:]]
        for number, row in enumerate(self._rows, start=1):
            if len(row) != len(self.names):
                self.refuse(f"has {len(row)} values in row {number}, but {len(self.names)} columns")
        self._index = {name: position for position, name in enumerate(self.names)}

    def refuse(self, problem: str, *, hint: str = "") -> NoReturn:
        raise RunFailed("bad_confounds", f"{self.path} {problem}.", hint=hint)

    def check_rows(self, n_volumes: int) -> None:
        if len(self._rows) != n_volumes:
            self.refuse(f"has {len(self._rows)} rows, but the BOLD image has {n_volumes} volumes")

    def check_columns(self, names: list[str], why: str) -> None:
        missing = [name for name in names if name not in self._index]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            self.refuse(
                f"lacks {', '.join(missing[:5])}{more}, needed for {why}",
                hint="Choose another --denoise preset, or let fMRIPrep write these columns.",
            )

    def column(self, name: str) -> NDArray[np.float64]:
        """One column (T,), NaN where it is n/a."""
        position = self._index[name]
        values = np.empty(len(self._rows))
        for number, row in enumerate(self._rows):
            cell = row[position]
            if cell in _MISSING:
                values[number] = np.nan
            elif _is_number(cell):
                values[number] = float(cell)
            else:
                self.refuse(f"has {cell!r} in row {number + 1} of column {name}, expected a number or n/a")
        return values

    def regressor(self, name: str, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """One column (T,), finite in every kept volume."""
        values = self.column(name)
        known = np.flatnonzero(kept & ~np.isnan(values))
        if known.size == 0:
            if kept.any():
                self.refuse(f"has n/a in all kept rows of column {name}")
            return values
        values[: known[0]] = np.where(np.isnan(values[: known[0]]), values[known[0]], values[: known[0]])
        gaps = np.flatnonzero(kept & np.isnan(values))
        if gaps.size:
            self.refuse(f"has n/a in row {gaps[0] + 1} of column {name}, expected a number after the first volume")
        return values


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def read_text(path: Path) -> str:
    """Text of a file, telling files whose content datalad has not fetched."""
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
