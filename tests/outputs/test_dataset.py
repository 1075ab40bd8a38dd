"""The files that describe the output dataset are whole, however many processes write them."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import write_records
from bids_semantoks.outputs import dataset
from bids_semantoks.outputs.dataset import (
    check_same_atlas,
    describe_warp,
    may_be_shared,
    read_atlas_checksum,
    read_atlas_table,
    write_atlas,
)
from bids_semantoks.records import Atlas, AtlasVolume


def read_rows(out_dir):
    lines = (out_dir / "descriptions.tsv").read_text().splitlines()
    assert lines[0] == "desc_id\tdescription"
    return [tuple(line.split("\t")) for line in lines[1:]]


def test_each_call_adds_its_descriptions(tmp_path):
    dataset.write_descriptions(tmp_path, {"Tiny": "A.", "raw": "Before."})
    dataset.write_descriptions(tmp_path, {"Paper": "B."})
    dataset.write_descriptions(tmp_path, {"Tiny": "C."})
    assert read_rows(tmp_path) == [("desc-Paper", "B."), ("desc-Tiny", "C."), ("desc-raw", "Before.")]
    assert json.loads((tmp_path / "descriptions.json").read_text()).keys() >= {"desc_id", "description"}


def test_no_call_makes_do_without_descriptions(tmp_path):
    dataset.write_descriptions(tmp_path, {})
    assert read_rows(tmp_path) == []


def test_a_row_that_another_process_adds_meanwhile_is_kept(tmp_path, monkeypatch):
    others = ["One", "Two"]

    def write_late(path, columns, rows):
        # Another call adds its row and writes the table between this one's reading and writing.
        if others:
            dataset.write_descriptions(tmp_path, {others.pop(): "Theirs."})
        write_records(path, columns, rows)

    monkeypatch.setattr(dataset, "write_records", write_late)
    dataset.write_descriptions(tmp_path, {"Ours": "Ours."})
    assert read_rows(tmp_path) == [("desc-One", "Theirs."), ("desc-Ours", "Ours."), ("desc-Two", "Theirs.")]


DIGEST = "sha256:" + "7" * 64


@pytest.mark.parametrize(
    ("variables", "container"),
    [
        ({}, None),
        ({"DIGEST": DIGEST}, None),
        ({"TYPE": "docker", "TAG": "own:1"}, {"Type": "docker", "Tag": "own:1"}),
        ({"TYPE": "docker"}, {"Type": "docker", "Tag": "unknown"}),
        ({"TYPE": "podman", "TAG": "own:1", "DIGEST": DIGEST}, {"Type": "podman", "Tag": f"own:1@{DIGEST}"}),
        ({"TYPE": "docker", "TAG": "own:1", "DIGEST": f"other@{DIGEST}"}, {"Type": "docker", "Tag": f"own:1@{DIGEST}"}),
        # Converted from an image of Docker, whose variables it keeps.
        ({"TYPE": "docker", "TAG": "own:1", "sif": "/x/own.sif"}, {"Type": "apptainer", "Tag": "own:1"}),
        ({"DIGEST": DIGEST, "sif": "/x/own.sif"}, {"Type": "apptainer", "Tag": f"own.sif@{DIGEST}"}),
    ],
)
def test_the_container_is_named_by_its_tag_and_digest(tmp_path, monkeypatch, variables, container):
    monkeypatch.delenv("SINGULARITY_CONTAINER", raising=False)
    monkeypatch.setenv("APPTAINER_CONTAINER", variables.get("sif", ""))
    for name in ("TYPE", "TAG", "DIGEST"):
        monkeypatch.setenv(f"BIDS_SEMANTOKS_CONTAINER_{name}", variables.get(name, ""))
    dataset.write_dataset(tmp_path, sources={}, upstream=("fMRIPrep 24.1.1",))
    own, upstream = json.loads((tmp_path / "dataset_description.json").read_text())["GeneratedBy"]
    assert own.get("Container") == container
    assert upstream == {"Name": "fMRIPrep", "Version": "24.1.1"}


def test_singularity_sets_its_own_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    monkeypatch.setenv("SINGULARITY_CONTAINER", "/x/own.sif")
    dataset.write_dataset(tmp_path, sources={}, upstream=())
    container = json.loads((tmp_path / "dataset_description.json").read_text())["GeneratedBy"][0]["Container"]
    assert container == {"Type": "singularity", "Tag": "own.sif"}


PARCELS, NETWORKS = ("a", "b", "c", "d", "e"), ("Vis", "", "Vis", "Cont", "Limbic")


def build_volume(path, content, values, parcels, **changes):
    path.write_bytes(content)
    return AtlasVolume(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        values=np.array(values),
        parcels=np.array(parcels),
        **changes,
    )


def build_atlas(*volumes, space="Own"):
    return Atlas(name="A", space=space, parcels=PARCELS, networks=NETWORKS, volumes=volumes, sha256="5" * 64)


def read_table(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("space", ["Own", ""])
def test_names_networks_and_checksum_come_back(tmp_path, space):
    atlas = build_atlas(space=space)
    write_atlas(tmp_path, atlas)
    assert read_atlas_table(tmp_path, name="A", space=space) == (PARCELS, NETWORKS)
    assert read_atlas_checksum(tmp_path, name="A", space=space) == "5" * 64
    check_same_atlas(tmp_path, atlas)
    check_same_atlas(tmp_path, dataclasses.replace(atlas, name="B", sha256="6" * 64))
    with pytest.raises(ConfigurationError, match=r"5{12},.*6{12}\."):
        check_same_atlas(tmp_path, dataclasses.replace(atlas, sha256="6" * 64))


def test_outputs_of_earlier_versions_are_known_and_moved_to_places_of_bids(tmp_path):
    """They kept the checksum in a file whose name BIDS does not have."""
    atlas = build_atlas()
    folder = tmp_path / "sourcedata" / "atlases" / "tpl-Own"
    write_atlas(tmp_path, atlas)
    (folder / "tpl-Own_atlas-A_dseg.json").write_text(json.dumps({"index": {"Description": "Value."}}))
    before = folder / "tpl-Own_atlas-A_description.json"
    before.write_text(json.dumps({"Name": "A", "SHA256": "5" * 64, "Images": []}))
    assert read_atlas_checksum(tmp_path, name="A", space="Own") == "5" * 64
    with pytest.raises(ConfigurationError, match="atlas with the label A"):
        check_same_atlas(tmp_path, dataclasses.replace(atlas, sha256="6" * 64))
    write_atlas(tmp_path, atlas)
    assert not before.exists()
    assert read_atlas_checksum(tmp_path, name="A", space="Own") == "5" * 64


@pytest.mark.parametrize("space", ["Own", ""])
def test_atlases_are_a_dataset_and_described_for_the_outputs_too(tmp_path, space):
    licences = ("MIT; free with citation", "MIT")
    volumes = [build_volume(tmp_path / f"{i}.nii.gz", b"x", [1], [i], licence=one) for i, one in enumerate(licences)]
    out = tmp_path / "out"
    atlas = dataclasses.replace(build_atlas(*volumes, space=space), name="Schaefer5Tian")
    write_atlas(out, atlas)
    described = json.loads((out / "atlas-Schaefer5Tian_description.json").read_text())
    assert described["Name"] == "Schaefer5Tian"
    assert described["License"] == "MIT; free with citation"
    assert described["Authors"][:2] == ["Schaefer, Alexander", "Kong, Ru"]
    assert "Margulies, Daniel S." in described["Authors"]
    assert any("10.1093/cercor/bhx179" in link for link in described["ReferencesAndLinks"])
    atlases = out / "sourcedata" / "atlases"
    assert json.loads((atlases / "atlas-Schaefer5Tian_description.json").read_text()) == described
    assert json.loads((atlases / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    dataset.write_dataset(out, sources={}, upstream=())
    assert "atlas-*_description.json" in (out / ".bidsignore").read_text().splitlines()
    assert json.loads((out / "dataset_description.json").read_text())["BIDSVersion"] == "1.11.0"
    (out / "atlas-Schaefer5Tian_description.json").write_text("{")
    (atlases / "dataset_description.json").write_text("")
    write_atlas(out, atlas)
    assert json.loads((out / "atlas-Schaefer5Tian_description.json").read_text()) == described
    assert json.loads((atlases / "dataset_description.json").read_text())["BIDSVersion"] == "1.11.0"
    write_atlas(out, build_atlas())
    other = json.loads((out / "atlas-A_description.json").read_text())
    assert (other["License"], other["Authors"], "ReferencesAndLinks" in other) == ("unknown", ["unknown"], False)


def test_the_table_beside_the_only_image_has_the_values_of_the_image(tmp_path):
    volume = build_volume(tmp_path / "own.nii.gz", b"labels", [9, 4, 7, 30, 2], [0, 1, 2, 3, 4], licence="free")
    write_atlas(tmp_path / "out", build_atlas(volume))
    folder = tmp_path / "out" / "sourcedata" / "atlases" / "tpl-Own"
    head, *rows = read_table(folder / "tpl-Own_atlas-A_dseg.tsv")
    assert head == ["index", "label", "network_label"]
    assert rows == [["9", "a", "Vis"], ["4", "b", "n/a"], ["7", "c", "Vis"], ["30", "d", "Cont"], ["2", "e", "Limbic"]]
    assert (folder / "tpl-Own_atlas-A_dseg.nii.gz").read_bytes() == b"labels"


def test_parts_are_kept_in_their_own_spaces_and_merged_ones_only_where_they_may(tmp_path):
    first = build_volume(tmp_path / "one.nii.gz", b"one", [3, 5], [1, 0], licence="MIT; free with citation")
    warped = build_volume(
        tmp_path / "two.nii",
        b"two",
        [1, 2],
        [2, 3],
        licence="CC BY-ND",
        space="Other",
        transform=tmp_path / "to-other_xfm.h5",
        transform_sha256="7" * 64,
    )
    merged = build_volume(tmp_path / "three.nii.gz", b"three", [8], [4], licence="MIT; CC BY-ND")
    out = tmp_path / "out"
    write_atlas(out, build_atlas(first, warped, merged))
    atlases = out / "sourcedata" / "atlases"
    images = json.loads((atlases / "tpl-Own" / "tpl-Own_atlas-A_dseg.json").read_text())["Images"]
    assert [image["File"] for image in images] == [
        "tpl-Own_atlas-A_desc-part1_dseg.nii.gz",
        "../tpl-Other/tpl-Other_atlas-A_desc-part2_dseg.nii",
        None,
    ]
    kept = [(atlases / "tpl-Own" / image["File"]).read_bytes() for image in images if image["File"]]
    assert kept == [b"one", b"two"]
    assert [image["ParcelOfValue"] for image in images] == [{"3": "b", "5": "a"}, {"1": "c", "2": "d"}, {"8": "e"}]
    assert images[0]["Licenses"] == ["MIT", "free with citation"]
    assert images[2]["SHA256"] == hashlib.sha256(b"three").hexdigest()
    assert not list(atlases.rglob("*part3*"))
    # Values of several images are not one numbering.
    assert [row[0] for row in read_table(atlases / "tpl-Own" / "tpl-Own_atlas-A_dseg.tsv")[1:]] == list("12345")
    assert images[1].items() >= describe_warp(warped).items()
    assert describe_warp(warped)["WarpedFrom"] == "Other"
    assert describe_warp(warped)["Transform"] == "to-other_xfm.h5"
    assert describe_warp(first) == {}


def test_an_image_that_is_no_longer_what_was_used_is_written_again(tmp_path):
    volume = build_volume(tmp_path / "own.nii.gz", b"labels", [1], [0])
    write_atlas(tmp_path / "out", build_atlas(volume))
    (copy,) = (tmp_path / "out").rglob("*_dseg.nii.gz")
    before = copy.stat().st_ino
    write_atlas(tmp_path / "out", build_atlas(volume))
    assert copy.stat().st_ino == before
    copy.write_bytes(b"half")
    write_atlas(tmp_path / "out", build_atlas(volume))
    assert copy.read_bytes() == b"labels"


@pytest.mark.parametrize(
    ("licence", "expected"), [("MIT; free", True), ("CC BY-ND 4.0", True), ("MIT; CC BY-ND 4.0", False), ("", True)]
)
def test_merging_is_what_no_derivatives_forbids(licence, expected):
    assert may_be_shared(licence) is expected
