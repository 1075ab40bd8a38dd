"""dataset_description.json: which pipeline wrote a dataset, in the ways that BIDS and fMRIPrep have said so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_semantoks.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """The part of a dataset's description that matters here.

    Parameters
    ----------
    name : str
        Name of the dataset.
    dataset_type : str
        ``raw``, ``derivative`` or empty where the file does not say (before BIDS 1.4).
    generators : tuple of (str, str)
        Name and version of each pipeline, the last one to touch the dataset first.
    """

    name: str
    dataset_type: str
    generators: tuple[tuple[str, str], ...]

    @property
    def is_fmriprep(self) -> bool:
        """Whether fMRIPrep wrote this dataset; a pipeline that names itself before fMRIPrep did."""
        first = self.generators[0][0] if self.generators else self.name
        return first.lower().startswith("fmriprep")

    @property
    def names_fmriprep(self) -> bool:
        """Whether fMRIPrep is named at all."""
        return any(name.lower().startswith("fmriprep") for name, _ in self.generators)

    def pipeline(self, folder: Path) -> str:
        """Name the pipeline.

        Parameters
        ----------
        folder : Path
            The dataset, whose own name is the last resort.

        Returns
        -------
        str
            Name and version, as far as known.
        """
        if self.generators:
            return " ".join(part for part in self.generators[0] if part)
        return "fMRIPrep" if self.is_fmriprep else self.name or folder.resolve().name


def read_description(folder: Path) -> Description | None:
    """Read a dataset's description.

    Parameters
    ----------
    folder : Path
        Root of the dataset.

    Returns
    -------
    Description or None
        None when there is no such file, or only a link without content.

    Raises
    ------
    InputError
        When the file cannot be read as a JSON object.
    """
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
