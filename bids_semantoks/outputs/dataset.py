"""Files that make the output directory a BIDS derivative dataset."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_semantoks.errors import AtlasError, ConfigurationError
from bids_semantoks.files import (
    hash_file,
    open_atomic,
    read_object,
    read_records,
    write_json,
    write_records,
    write_text,
)
from bids_semantoks.outputs.credits import find_atlas_keys, read_bibliography
from bids_semantoks.records import Atlas, AtlasVolume
from bids_semantoks.version import __version__

BIDS_VERSION = "1.11.0"
_REWRITE = "Remove it, and rerun the participant level to recreate it."

# BIDS has no names yet for derivatives without images, connectivity and embeddings: docs/reference/outputs.md.
_IGNORED = (
    "*.html",
    "figures",
    "*_timeseries.*",
    "*_relmat.*",
    "*_embedding.*",
    "phenotype/*.npy",
    # Rows of a table by session are not unique for releases of the validator without BEP036.
    "phenotype/*Sessions.*",
    "*_tokens.*",
    "*_stat-coverage_*",
    # A validator that ignores the files with this atlas would report their data as missing.
    "atlas-*_description.json",
    "group_*",
    "encoders",
    "predictors",
    "*.tmp",
)

_README = """# Brain-Semantoks embeddings

Derivatives written by the BIDS App bids_semantoks.

For each run (`sub-*/[ses-*/]func/`):

- `*_stat-mean_timeseries.tsv`: the cleaned signal of each parcel, one row for every volume of the source, in its units.
  Rows of dummy and scrubbed volumes and columns of absent parcels are n/a.
- `*_stat-coverage_bold.tsv`: the share of each parcel that has data (in the brain mask).
- `*_stat-pearsoncorrelation_relmat.tsv`: correlations between parcels over kept volumes.
- `*_embedding.tsv`: one row per window with its onset, duration, share of kept time, and the embedding; for the wide
  readout `networks`, the embedding is in `*_embedding.npy`, one row per window.

`sub-<label>.html` is the visual report of each participant's runs, with errors and warnings; it works offline.
`logs/CITATION.md` (also .html, .tex, .bib) is the methods boilerplate for manuscripts.
`group_qc.html` shows which runs are usable and which need attention; `group_qc.tsv` has the values.
`phenotype/` has one row per participant: the mean embedding over windows and runs. `*Sessions.tsv` has one row per
session, with the names of atlas and encoder in its columns, so that several tables can be joined.
`group.html` shows how well phenotypes can be predicted from embeddings (with `--probe`); `group_probe.tsv` and related
tables have the values.
`logs/sub-*/` has the status of every run that was found, with the reason; `logs/descriptions/` has the rows of
`descriptions.tsv`, so that several processes can add to it.
Each sidecar (`.json`) has sources, settings, checksums and software versions.
"""

_DESCRIPTION_COLUMNS = {
    "Description": "Meaning of the desc entities in the file names of this dataset.",
    "desc_id": {"Description": "The entity, with desc-."},
    "description": {"Description": "Content of files with this entity."},
}

_ATLAS_COLUMNS = {
    "index": {
        "Description": "Value of the parcel in the image next to this table; its number, from 1, if there is no image."
    },
    "label": {"Description": "Name of the parcel: the column of time series and connectivity tables."},
    "network_label": {"Description": "Network of the parcel; n/a if it has none."},
}


def write_dataset(out_dir: Path, *, sources: Mapping[str, Path], upstream: tuple[str, ...]) -> None:
    """Write dataset_description.json, .bidsignore and README.md; jobs that share a dataset write the same bytes.
    `sources` are the datasets read, by their name in BIDS URIs; `upstream` are the pipelines for GeneratedBy."""
    path = out_dir / "dataset_description.json"
    # Sidecars of earlier calls refer to the datasets read by those calls.
    links = read_object(path).get("DatasetLinks")
    known = {name: url for name, url in links.items() if isinstance(url, str)} if isinstance(links, dict) else {}
    links = known | {name: source.resolve().as_uri() for name, source in sources.items()}
    generators = [_describe_generator()]
    for pipeline in dict.fromkeys(upstream):
        name, _, version = pipeline.rpartition(" ")
        is_versioned = bool(name) and version[:1].isdigit()
        generators.append({"Name": name, "Version": version} if is_versioned else {"Name": pipeline})
    description: dict[str, Any] = {
        "Name": "Brain-Semantoks embeddings",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": generators,
        "SourceDatasets": [{"URL": url} for url in sorted(set(links.values()))],
        "DatasetLinks": dict(sorted(links.items())),
        "HowToAcknowledge": "Cite bids_semantoks, the Brain-Semantoks paper (https://arxiv.org/abs/2512.11582), the "
        "atlas and the pipelines that generated the inputs. logs/CITATION.md has a methods boilerplate with all "
        "references for manuscripts.",
    }
    write_json(path, description, only_if_changed=True)
    write_text(out_dir / ".bidsignore", "\n".join(_IGNORED) + "\n", only_if_changed=True)
    write_text(out_dir / "README.md", _README, only_if_changed=True)


def _describe_generator() -> dict[str, Any]:
    """Name the program and its container as BIDS does; a digest makes the tag a complete reference."""
    generator: dict[str, Any] = {"Name": "bids_semantoks", "Version": __version__}
    # Apptainer and Singularity set the image that they run; our own images set type and tag when they are built.
    engines = {"apptainer": "APPTAINER_CONTAINER", "singularity": "SINGULARITY_CONTAINER"}
    engine, image = next(((kind, os.environ[name]) for kind, name in engines.items() if os.environ.get(name)), ("", ""))
    if kind := engine or os.environ.get("BIDS_SEMANTOKS_CONTAINER_TYPE"):
        tag = os.environ.get("BIDS_SEMANTOKS_CONTAINER_TAG") or Path(image).name or "unknown"
        # An engine prints a digest alone or after the name of the image and @.
        digest = os.environ.get("BIDS_SEMANTOKS_CONTAINER_DIGEST", "").rpartition("@")[2]
        generator["Container"] = {"Type": kind, "Tag": f"{tag}@{digest}" if digest else tag}
    return generator


def write_descriptions(out_dir: Path, rows: Mapping[str, str]) -> None:
    """Add the meaning of desc labels (without ``desc-``) to descriptions.tsv, keeping the rows of other calls."""
    parts = out_dir / "logs" / "descriptions"
    for label, text in rows.items():
        write_json(parts / f"{label}.json", {"desc_id": f"desc-{label}", "description": text}, only_if_changed=True)
    path, columns, written = out_dir / "descriptions.tsv", ("desc_id", "description"), None
    while True:
        # A damaged file is rewritten by the next call that needs it.
        found = [[part.get(name) for name in columns] for part in map(read_object, parts.glob("*.json"))]
        known = sorted(row for row in found if all(isinstance(cell, str) for cell in row))
        # The last writer checks the table again afterwards, so that no row of another process is lost.
        if known == written:
            break
        write_records(path, columns, known)
        written = known
    write_json(path.with_suffix(".json"), _DESCRIPTION_COLUMNS, only_if_changed=True)


def _build_atlas_path(out_dir: Path, name: str, space: str, ending: str) -> Path:
    """Return ``OUT_DIR/sourcedata/atlases/tpl-S/tpl-S_atlas-A_<ending>``, without tpl-S if the space is empty."""
    folder, stem = (f"tpl-{space}", f"tpl-{space}_") if space else ("", "")
    return out_dir / "sourcedata" / "atlases" / folder / f"{stem}atlas-{name}_{ending}"


def _read_stored(out_dir: Path, name: str, space: str) -> dict[str, Any]:
    """Read the identity of a stored atlas: from the sidecar of its table, or in outputs of earlier versions from a
    separate file."""
    stored = read_object(_build_atlas_path(out_dir, name, space, "dseg.json"))
    return stored if "SHA256" in stored else read_object(_build_atlas_path(out_dir, name, space, "description.json"))


def write_atlas(out_dir: Path, atlas: Atlas) -> None:
    """Write the atlas as used: its table, its label images unchanged, checksums and a licence per part.
    ``sourcedata/atlases`` is a BIDS dataset, laid out as XCP-D does. An image that merges parts whose licence forbids
    derivatives is not copied; only its checksum is recorded. Files of the same atlas from an earlier call are kept,
    even if they differ."""
    _describe_atlas(out_dir, atlas)
    if _is_written(out_dir, atlas):
        return
    table = _build_atlas_path(out_dir, atlas.name, atlas.space, "dseg.tsv")
    is_single = len(atlas.volumes) == 1
    index = {p: value for value, p in _list_values(atlas.volumes[0])} if is_single else {}
    # With a single image the table has that image's values, so that the two can be read together.
    rows = [(index.get(p, p + 1), atlas.parcels[p], atlas.networks[p]) for p in range(len(atlas.parcels))]
    write_records(table, ("index", "label", "network_label"), rows)
    images = []
    for part, volume in enumerate(atlas.volumes, start=1):
        last = "".join(volume.path.suffixes[-2:])
        suffix = last if last in (".nii.gz", ".dlabel.nii", ".label.gii") else volume.path.suffix
        # An image that was warped is stored unchanged, under its original space.
        ending = f"dseg{suffix}" if is_single else f"desc-part{part}_dseg{suffix}"
        target = _build_atlas_path(out_dir, atlas.name, volume.space or atlas.space, ending)
        is_shared = may_be_shared(volume.licence)
        if is_shared and not (target.is_file() and hash_file(target) == volume.sha256):
            with volume.path.open("rb") as source, open_atomic(target) as file:
                shutil.copyfileobj(source, file)
        images.append(
            {
                "File": Path(os.path.relpath(target, table.parent)).as_posix() if is_shared else None,
                "Source": volume.path.name,
                "SHA256": volume.sha256,
                **describe_warp(volume),
                "License": volume.licence or "unknown",
                "Licenses": _split_licence(volume),
                "ParcelOfValue": {str(value): atlas.parcels[p] for value, p in _list_values(volume)},
            }
        )
    identity = {"Name": atlas.name, "Space": atlas.space, "SHA256": atlas.sha256, "Images": images}
    # Last, since it marks the others as complete.
    write_json(table.with_suffix(".json"), {**_ATLAS_COLUMNS, **identity}, only_if_changed=True)
    if atlas.space:
        # Earlier versions stored this under a name that BIDS does not define.
        _build_atlas_path(out_dir, atlas.name, atlas.space, "description.json").unlink(missing_ok=True)


def _split_licence(volume: AtlasVolume) -> list[str]:
    return [part.strip() for part in volume.licence.split(";") if part.strip()]


def _list_values(volume: AtlasVolume) -> list[tuple[int, int]]:
    """List the values of an image with the positions of their parcels."""
    return list(zip(volume.values.tolist(), volume.parcels.tolist(), strict=True))


def _describe_atlas(out_dir: Path, atlas: Atlas) -> None:
    """Describe the atlas as BIDS requires, for the atlas dataset and for the outputs that use it, independent of the
    space."""
    licences = [part for volume in atlas.volumes for part in _split_licence(volume)]
    n_networks = len({network for network in atlas.networks if network})
    cited = [read_bibliography()[key] for key in find_atlas_keys(atlas.name)]
    description = {
        "Name": atlas.name,
        "Description": f"{len(atlas.parcels)} parcels in {n_networks} networks, as used by bids_semantoks.",
        "License": "; ".join(dict.fromkeys(licences)) or "unknown",
        "Authors": list(dict.fromkeys(name for one in cited for name in one.authors)) or ["unknown"],
        **({"ReferencesAndLinks": [f"{one.full} {one.url}" for one in cited]} if cited else {}),
    }
    root = out_dir / "sourcedata" / "atlases"
    dataset = {
        "Name": "Atlases of bids_semantoks",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [_describe_generator()],
    }
    write_json(root / "dataset_description.json", dataset, only_if_changed=True)
    for folder in (root, out_dir):
        write_json(folder / f"atlas-{atlas.name}_description.json", description, only_if_changed=True)


def _is_written(out_dir: Path, atlas: Atlas) -> bool:
    """Return whether an atlas is stored completely and undamaged."""
    path = _build_atlas_path(out_dir, atlas.name, atlas.space, "dseg.json")
    stored = read_object(path)
    try:
        copies = {path.parent / one["File"]: one["SHA256"] for one in stored["Images"] if one["File"]}
    except (KeyError, TypeError):
        return False
    is_current = stored.get("SHA256") == atlas.sha256 and path.with_suffix(".tsv").is_file()
    return is_current and all(copy.is_file() and hash_file(copy) == sha256 for copy, sha256 in copies.items())


def describe_warp(volume: AtlasVolume) -> dict[str, str]:
    """Build the sidecar entries on how an image was warped to the space of the data; empty if it was not."""
    if volume.transform is None:
        return {}
    return {
        "WarpedFrom": volume.space,
        "Transform": volume.transform.name,
        "TransformSHA256": volume.transform_sha256,
        "Interpolation": "nearest neighbour, once, on the grid of each run",
    }


def keep_identity(out_dir: Path, atlas: Atlas) -> Atlas:
    """Continue a study of an earlier version: if the outputs have this atlas under a former checksum, use that one."""
    stored = _read_stored(out_dir, atlas.name, atlas.space).get("SHA256", "")
    return dataclasses.replace(atlas, sha256=stored) if stored in atlas.former_sha256 else atlas


def check_same_atlas(out_dir: Path, atlas: Atlas) -> None:
    """Raise ConfigurationError if the label of an atlas is already used for another one in the output dataset."""
    # A damaged atlas is rewritten.
    stored = _read_stored(out_dir, atlas.name, atlas.space).get("SHA256")
    if isinstance(stored, str) and stored != atlas.sha256:
        raise ConfigurationError(
            f"{out_dir} has signals of a different atlas with the label {atlas.name}: its checksum is "
            f"{stored[:12]}, that of this atlas {atlas.sha256[:12]}.",
            hint="Rename the atlas file, use another output directory, or --overwrite.",
        )


def read_atlas_checksum(out_dir: Path, *, name: str, space: str) -> str:
    """Read the SHA-256 of a stored atlas, over names, networks and images; `space` may be empty."""
    sha256 = _read_stored(out_dir, name, space).get("SHA256")
    if not isinstance(sha256, str):
        path = _build_atlas_path(out_dir, name, space, "dseg.json")
        raise AtlasError(f"{path} is missing or damaged: it has no SHA256 of the atlas.", hint=_REWRITE)
    return sha256


def may_be_shared(licence: str) -> bool:
    """Return whether a label image may be copied into a dataset, by the licences of its parts, separated by semicolons:
    not if one of several parts forbids derivatives (CC BY-ND); alone and unchanged, such a part may be shared."""
    return not ("-ND" in licence and ";" in licence)


def read_atlas_table(out_dir: Path, *, name: str, space: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the parcel names and network labels (empty for none) of a stored atlas, (P,) each; `space` may be empty.
    Raises FileNotFoundError if there is no such table, AtlasError if it is damaged."""
    path = _build_atlas_path(out_dir, name, space, "dseg.tsv")
    try:
        columns, rows = read_records(path)
    except ValueError as error:
        raise AtlasError(f"The stored atlas table {path} {error}.", hint=_REWRITE) from error
    if columns != ["index", "label", "network_label"] or not rows:
        raise AtlasError(f"The stored atlas table {path} is damaged: it lists no parcels.", hint=_REWRITE)
    return tuple(row[1] for row in rows), tuple("" if row[2] == "n/a" else row[2] for row in rows)
