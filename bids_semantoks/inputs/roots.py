"""Tell raw from derivative datasets, and locate the raw dataset of a derivative."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.derivatives import describe_nothing
from bids_semantoks.inputs.descriptions import Description, read_description
from bids_semantoks.inputs.folders import find_folders, find_kind, find_participant_labels
from bids_semantoks.inputs.pipelines import AROMA, recognise_pipeline


def check_is_bids(folder: Path) -> Description | None:
    """Refuse a path that is missing, a file or not BIDS, with InputError; else return its description, None if only
    ``sub-*`` folders suggest BIDS."""
    if not folder.exists():
        raise InputError(f"BIDS_DIR {folder} does not exist.", hint="Check the path (in a container: the mounts).")
    if not folder.is_dir():
        raise InputError(f"BIDS_DIR {folder} is a file, expected the folder of a BIDS dataset.")
    description = read_description(folder)
    if description is None and not find_participant_labels(folder):
        inside = sorted(path.name for path in folder.iterdir())
        found = f"found {len(inside)} other entries ({', '.join(inside[:5])})" if inside else "it is empty"
        below = [name for name in find_folders(folder) if (folder / name / "dataset_description.json").exists()]
        raise InputError(
            f"BIDS_DIR {folder} is no BIDS dataset: expected dataset_description.json and sub-* folders, {found}.",
            hint=f"Did you mean {folder / below[0]}?" if below else "Data that are no BIDS are read with --layout.",
        )
    return description


def find_root_kind(folder: Path, description: Description | None, input_type: str) -> str:
    """Classify BIDS_DIR as ``raw`` or the kind of a derivative dataset; InputError if that is undecidable or a
    derivative dataset holds nothing readable."""
    if description is None:
        if (folder / "derivatives").is_dir():
            return "raw"
        raise InputError(
            f"BIDS_DIR {folder} has sub-* folders but no dataset_description.json (or a link without content), so "
            "nothing says whether it is raw or preprocessed.",
            hint="Restore the file from the dataset's source (for example: datalad get dataset_description.json).",
        )
    if description.is_fmriprep and input_type != "series":
        return "fmriprep"
    source = recognise_pipeline(description)
    if description.dataset_type == "derivative" or description.is_fmriprep:
        kind = find_kind(folder, source, wanted=input_type)
        if kind is None and source == AROMA:
            raise InputError(
                f"BIDS_DIR {folder} ({description.pipeline(folder)}) holds no denoised images, at most components.",
                hint="Give the fMRIPrep dataset as well: -d fmriprep=PATH -d aroma=PATH.",
            )
        if kind is None:
            raise InputError(
                f"BIDS_DIR {folder} is a derivative dataset of {description.pipeline(folder)} with "
                f"{describe_nothing(source, input_type)} in its sub-*/func folders.",
                hint="Give the folder of an fMRIPrep derivative dataset.",
            )
        return kind
    # Before BIDS 1.4 nothing but the pipeline's name marks a derivative dataset.
    is_open = not description.dataset_type and bool(description.generators)
    return (find_kind(folder, source, wanted=input_type) if is_open else None) or "raw"


def find_raw_root(folder: Path) -> Path | None:
    """Find the raw root of ``<raw>/derivatives/<pipeline>``, else the one linked in the description, else None."""
    for parent in folder.resolve().parents:
        if parent.name == "derivatives":
            return parent.parent if _is_raw(parent.parent) else find_linked_raw(folder)
    return find_linked_raw(folder)


def _is_raw(folder: Path) -> bool:
    return (folder / "dataset_description.json").is_file() or (folder / "participants.tsv").is_file()


def find_linked_raw(folder: Path) -> Path | None:
    """Find the first raw dataset on this machine among ``DatasetLinks`` (``raw`` first) and ``SourceDatasets``."""
    try:
        content = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    links = content.get("DatasetLinks") if isinstance(content, dict) else None
    links = links if isinstance(links, dict) else {}
    sources = content.get("SourceDatasets") if isinstance(content, dict) else None
    places = [links.get("raw"), *(value for key, value in links.items() if key != "raw")]
    places += [one.get("URL") for one in sources if isinstance(one, dict)] if isinstance(sources, list) else []
    for place in places:
        if not isinstance(place, str) or ("://" in place and not place.startswith("file://")):
            continue
        path = folder / unquote(place.removeprefix("file://"))
        if path.resolve() != folder.resolve() and _is_raw(path) and not _is_derivative(path):
            return path
    return None


def _is_derivative(folder: Path) -> bool:
    description = read_description(folder)
    return description is not None and (description.dataset_type == "derivative" or description.is_fmriprep)
