"""Read dataset_description.json: the pipeline that wrote a dataset, in every form BIDS and fMRIPrep have used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_semantoks.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Relevant fields of dataset_description.json."""

    name: str
    dataset_type: str  # raw, derivative, or empty if unstated (before BIDS 1.4)
    generators: tuple[tuple[str, str], ...]  # (name, version), the last pipeline to touch the dataset first

    @property
    def is_fmriprep(self) -> bool:
        """Whether the first generator listed, or without any the dataset name, is fMRIPrep."""
        first = self.generators[0][0] if self.generators else self.name
        return first.lower().startswith("fmriprep")

    @property
    def names_fmriprep(self) -> bool:
        """Whether fMRIPrep is among the generators."""
        return any(name.lower().startswith("fmriprep") for name, _ in self.generators)

    def pipeline(self, folder: Path) -> str:
        """Name the pipeline, with its version if known; falls back on the dataset name, then the folder name."""
        if self.generators:
            return " ".join(part for part in self.generators[0] if part)
        return "fMRIPrep" if self.is_fmriprep else self.name or folder.resolve().name


def read_description(folder: Path) -> Description | None:
    """Read dataset_description.json; None if missing or a dangling link, InputError unless it is a JSON object."""
    path = folder / "dataset_description.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.", hint="Repair or restore the file.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, found {type(content).__name__}.")
    return Description(
        name=_text(content.get("Name")),
        dataset_type=_text(content.get("DatasetType")).lower(),
        generators=tuple(_find_generators(content)),
    )


def _find_generators(content: dict[str, Any]) -> list[tuple[str, str]]:
    # fMRIPrep up to 20.1 wrote PipelineDescription, of the draft that became GeneratedBy.
    entries = content.get("GeneratedBy") or content.get("PipelineDescription") or []
    if not isinstance(entries, list):
        entries = [entries]
    return [
        (_text(entry.get("Name")), _text(entry.get("Version")))
        for entry in entries
        if isinstance(entry, dict) and entry.get("Name")
    ]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
