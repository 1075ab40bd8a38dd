"""Files that make the output directory a BIDS derivative dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_semantoks.files import write_json, write_records, write_text
from bids_semantoks.version import __version__

BIDS_VERSION = "1.10.0"

_IGNORED = (
    "*.html",
    "figures",
    "*_timeseries.*",
    "*_relmat.*",
    "*_embedding.*",
    "*_tokens.*",
    "*_stat-coverage_*",
    "group_*",
    "encoders",
    "*.tmp",
)

_README = """# Brain-Semantoks embeddings

Derivatives written by the BIDS App bids_semantoks.

For each run (`sub-*/[ses-*/]func/`):

- `*_stat-mean_timeseries.tsv`: the cleaned signal of each parcel, one row for every volume of the source, in its units.
  Rows of dummy and scrubbed volumes and columns of absent parcels are n/a.
- `*_stat-coverage_bold.tsv`: the share of each parcel that has data (in the brain mask).
- `*_stat-pearsoncorrelation_relmat.tsv`: correlations between parcels over kept volumes.
- `*_embedding.tsv`: one row a window with its onset, duration, share of kept time, and the embedding.

`sub-<label>.html` shows each participant's runs in pictures, with what went wrong; it needs no network.
`logs/CITATION.md` (also .html, .tex, .bib) is a methods text made from what was done, to be copied into manuscripts.
`phenotype/` holds one row for each participant: the mean embedding over windows and runs.
`group.html` shows what embeddings know of phenotypes (when asked for); `group_probe.tsv` and its neighbours have the
numbers.
`logs/runs/` says what became of every run that was found, and why; `logs/descriptions/` holds the rows of
`descriptions.tsv`, so that several processes can add to it.
Each sidecar (`.json`) gives sources, settings, checksums and software versions.
"""


def write_dataset(out_dir: Path, *, sources: Mapping[str, Path], upstream: tuple[str, ...]) -> None:
    """Write dataset_description.json, .bidsignore and README.md; jobs that share a dataset write the same bytes.

    `sources` are the datasets read, by their name in BIDS URIs; `upstream` are the pipelines for GeneratedBy.
    """
    path = out_dir / "dataset_description.json"
    # Sidecars of earlier calls refer to the datasets that those calls read.
    links = json.loads(path.read_bytes()).get("DatasetLinks", {}) if path.is_file() else {}
    links |= {name: source.resolve().as_uri() for name, source in sources.items()}
    description: dict[str, Any] = {
        "Name": "Brain-Semantoks embeddings",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [_describe_generator(), *(_describe_upstream(name) for name in dict.fromkeys(upstream))],
        "SourceDatasets": [{"URL": url} for url in sorted(set(links.values()))],
        "DatasetLinks": dict(sorted(links.items())),
        "HowToAcknowledge": "Cite bids_semantoks, the paper of Brain-Semantoks (https://arxiv.org/abs/2512.11582), the "
        "atlas and the pipelines that made the inputs. logs/CITATION.md holds a methods text with all references, "
        "which may be copied into manuscripts.",
    }
    write_json(path, description, only_if_changed=True)
    write_text(out_dir / ".bidsignore", "\n".join(_IGNORED) + "\n", only_if_changed=True)
    write_text(out_dir / "README.md", _README, only_if_changed=True)


def _describe_generator() -> dict[str, Any]:
    generator: dict[str, Any] = {"Name": "bids_semantoks", "Version": __version__}
    # Apptainer says itself which image it runs; an image of ours says so when it is built.
    image = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER") or ""
    kind = os.environ.get("BIDS_SEMANTOKS_CONTAINER_TYPE") or ("apptainer" if image else "")
    if kind:
        tag = os.environ.get("BIDS_SEMANTOKS_CONTAINER_TAG") or Path(image).name or "unknown"
        generator["Container"] = {"Type": kind, "Tag": tag}
    return generator


def _describe_upstream(pipeline: str) -> dict[str, str]:
    """Split a pipeline into name and version, if it ends in one."""
    name, _, version = pipeline.rpartition(" ")
    has_version = bool(name) and version[:1].isdigit()
    return {"Name": name, "Version": version} if has_version else {"Name": pipeline}


_DESCRIPTION_COLUMNS = {
    "Description": "What the desc entities in names of files of this dataset mean.",
    "desc_id": {"Description": "The entity, with desc-."},
    "description": {"Description": "What files of that name hold."},
}


def write_descriptions(out_dir: Path, rows: Mapping[str, str]) -> None:
    """Add the meaning of desc labels (without ``desc-``) to descriptions.tsv, keeping the rows of other calls."""
    parts = out_dir / "logs" / "descriptions"
    for label, text in rows.items():
        write_json(parts / f"{label}.json", {"desc_id": f"desc-{label}", "description": text}, only_if_changed=True)
    path = out_dir / "descriptions.tsv"
    written = None
    # Whoever writes the table last looks again afterwards, so that no row of another process is lost.
    while (known := _read_parts(parts)) != written:
        write_records(path, ("desc_id", "description"), known)
        written = known
    write_json(path.with_suffix(".json"), _DESCRIPTION_COLUMNS, only_if_changed=True)


def _read_parts(directory: Path) -> list[tuple[str, str]]:
    found = [json.loads(path.read_bytes()) for path in directory.glob("*.json")]
    return sorted((part["desc_id"], part["description"]) for part in found)
