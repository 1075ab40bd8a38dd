"""Atlases as used: copied into the output dataset with checksums and licences, and read back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from bids_semantoks.errors import ConfigurationError
from bids_semantoks.outputs.files import open_atomic, write_json, write_records
from bids_semantoks.records import Atlas, AtlasVolume

_ATLAS_COLUMNS = {
    "index": {
        "Description": "Value of the parcel in the image beside this table; its number, from 1, where there is none."
    },
    "label": {"Description": "Name of the parcel: the column of time series and connectivity tables."},
    "network_label": {"Description": "Network of the parcel; n/a for none."},
}


def build_atlas_directory(out_dir: Path, space: str) -> Path:
    """Build the directory of the atlases of a space.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    space : str
        Template space; empty for none.

    Returns
    -------
    Path
        ``OUT_DIR/sourcedata/atlases/tpl-S``, without the last where there is no space.
    """
    directory = out_dir / "sourcedata" / "atlases"
    return directory / f"tpl-{space}" if space else directory


def _build_atlas_stem(name: str, space: str) -> str:
    return f"tpl-{space}_atlas-{name}" if space else f"atlas-{name}"


def write_atlas(out_dir: Path, atlas: Atlas) -> None:
    """Copy the atlas as used: its table, each label image unchanged, checksums and licences.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    atlas : Atlas
        What was used. Its images, if any, are copied one by one, unchanged, with a licence line for each part; one that
        merges parts whose licence forbids that is not copied at all, its checksum stands for it.
    """
    directory = build_atlas_directory(out_dir, atlas.space)
    stem = _build_atlas_stem(atlas.name, atlas.space)
    is_single = len(atlas.volumes) == 1
    index = (
        dict(zip(atlas.volumes[0].parcels.tolist(), atlas.volumes[0].values.tolist(), strict=True)) if is_single else {}
    )
    # Beside its only image the table gives that image's values, so that the two can be read together.
    rows = [(index.get(p, p + 1), atlas.parcels[p], atlas.networks[p]) for p in range(len(atlas.parcels))]
    write_records(directory / f"{stem}_dseg.tsv", ("index", "label", "network_label"), rows)
    images = []
    for part, volume in enumerate(atlas.volumes, start=1):
        suffix = _find_suffix(volume.path)
        # An image that was warped is kept as it was, under the space that it is in.
        folder = build_atlas_directory(out_dir, volume.space or atlas.space)
        own = _build_atlas_stem(atlas.name, volume.space or atlas.space)
        target = folder / (f"{own}_dseg{suffix}" if is_single else f"{own}_desc-part{part}_dseg{suffix}")
        if may_be_shared(volume.licence) and not _has_checksum(target, volume.sha256):
            with volume.path.open("rb") as source, open_atomic(target) as file:
                shutil.copyfileobj(source, file)
        images.append(
            {
                "File": Path(os.path.relpath(target, directory)).as_posix() if may_be_shared(volume.licence) else None,
                "Source": volume.path.name,
                "SHA256": volume.sha256,
                **describe_warp(volume),
                "License": volume.licence or "unknown",
                "Licenses": [part.strip() for part in volume.licence.split(";") if part.strip()],
                "ParcelOfValue": {
                    str(v): atlas.parcels[p]
                    for v, p in zip(volume.values.tolist(), volume.parcels.tolist(), strict=True)
                },
            }
        )
    write_json(directory / f"{stem}_dseg.json", _ATLAS_COLUMNS, only_if_changed=True)
    description = {"Name": atlas.name, "Space": atlas.space, "SHA256": atlas.sha256, "Images": images}
    write_json(directory / f"{stem}_description.json", description, only_if_changed=True)


def _find_suffix(path: Path) -> str:
    """Find the extension, of which some have two parts."""
    last = "".join(path.suffixes[-2:])
    return last if last in (".nii.gz", ".dlabel.nii", ".label.gii") else path.suffix


def describe_warp(volume: AtlasVolume) -> dict[str, str]:
    """Say how an image came from its space to that of the data.

    Parameters
    ----------
    volume : AtlasVolume
        One of an atlas.

    Returns
    -------
    dict
        Entries of a sidecar; none for an image that was not warped.
    """
    if volume.transform is None:
        return {}
    return {
        "WarpedFrom": volume.space,
        "Transform": volume.transform.name,
        "TransformSHA256": volume.transform_sha256,
        "Interpolation": "nearest neighbour, once, on the grid of each run",
    }


def _has_checksum(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def check_same_atlas(out_dir: Path, atlas: Atlas) -> None:
    """Refuse an atlas whose label already stands for another one in the output dataset.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    atlas : Atlas
        What is to be used.

    Raises
    ------
    ConfigurationError
        When signals of another atlas have the same label.
    """
    path = (
        build_atlas_directory(out_dir, atlas.space) / f"{_build_atlas_stem(atlas.name, atlas.space)}_description.json"
    )
    stored = json.loads(path.read_bytes()) if path.is_file() else {"SHA256": atlas.sha256}
    if stored["SHA256"] != atlas.sha256:
        raise ConfigurationError(
            f"{out_dir} holds signals of another atlas with the label {atlas.name}: its checksum is "
            f"{stored['SHA256'][:12]}, that of this one {atlas.sha256[:12]}.",
            hint="Give the atlas another file name, use another output directory, or --overwrite.",
        )


def read_atlas_checksum(out_dir: Path, *, name: str, space: str) -> str:
    """Read the checksum of an atlas that signals of this dataset were made with.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    name, space : str
        Atlas label and template space (empty for none).

    Returns
    -------
    str
        SHA-256 of names, networks and images together.
    """
    path = build_atlas_directory(out_dir, space) / f"{_build_atlas_stem(name, space)}_description.json"
    return str(json.loads(path.read_bytes())["SHA256"])


def may_be_shared(licence: str) -> bool:
    """Tell whether a label image may be copied into a dataset that others will see.

    Parameters
    ----------
    licence : str
        Licences of its parts, one a part, separated by semicolons.

    Returns
    -------
    bool
        False for an image merged of several parts of which one forbids derived works (CC BY-ND); such a part alone
        and unchanged may be shared.
    """
    return not ("-ND" in licence and ";" in licence)


def read_atlas_table(out_dir: Path, *, name: str, space: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the parcels of an atlas that signals of this dataset were made with.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    name, space : str
        Atlas label and template space (empty for none).

    Returns
    -------
    parcels, networks : tuple of str, length P
        Parcel names and network labels (empty for none).

    Raises
    ------
    FileNotFoundError
        When the table is not there.
    """
    path = build_atlas_directory(out_dir, space) / f"{_build_atlas_stem(name, space)}_dseg.tsv"
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return tuple(row[1] for row in rows), tuple("" if row[2] == "n/a" else row[2] for row in rows)
