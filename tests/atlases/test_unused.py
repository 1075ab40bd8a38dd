"""Files that lie in the user's directory and are not used are named, with the reason."""

from __future__ import annotations

import json
import logging

import pytest
from helpers import surface_files as made
from helpers.bold_files import SPACE, write_atlas

from bids_semantoks.atlases.load import load_atlas, load_surface_atlas
from bids_semantoks.atlases.registry import find_places, find_registry, load_entry
from bids_semantoks.atlases.unused import describe_unused
from bids_semantoks.errors import AtlasError


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))


def write_entry(folder):
    """A registry entry of one image, which lies in a folder of its own."""
    write_atlas(folder / "given", name="own")
    next((folder / "given").glob("*_dseg.nii.gz")).rename(folder / "given" / "own.nii.gz")
    (folder / "parcels.tsv").write_text("index\tlabel\tnetwork_label\n1\ta\tVis\n2\tb\tVis\n3\tc\tVis\n")
    part = {"files": ["own.nii"], "values": [[1, 3]], "parcels": [[1, 3]], "licence": "free", "source": "made here"}
    content = {"name": "Own", "table": "parcels.tsv", "spaces": [{"space": SPACE, "alternatives": [[part]]}]}
    (folder / "Own.json").write_text(json.dumps(content))
    return folder / "Own.json"


def test_each_reason_is_told(tmp_path):
    names = {
        "Tian_Subcortex_S3_3T.nii": "x",
        "below/atl-Buckner7_space-MNI_dseg.nii": "",
        "Tian_Subcortex_S3_3T_1mm.nii.gz": "x",
        "Tian_Subcortex_S3_3T_2009cAsym.nii": "x",
        "lh.Schaefer2018_400Parcels_7Networks_order.annot": "x",
        "tpl-MNIInfant_from-SomewhereElse_mode-image_xfm.h5": "x",
        "brain.nii.gz": "x",
        "notes.txt": "x",
        "used.nii": "x",
    }
    for name, content in names.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    entry, places = load_entry(find_registry() / "Schaefer400Tian3Buckner7.json"), find_places(tmp_path)
    text = describe_unused(entry, SPACE, places, [tmp_path / "used.nii"])
    for line in (
        "Tian_Subcortex_S3_3T.nii (another file was preferred)",
        "below/atl-Buckner7_space-MNI_dseg.nii",
        "Tian_Subcortex_S3_3T_1mm.nii.gz",
        "Tian_Subcortex_S3_3T_2009cAsym.nii (for data in MNI152NLin2009cAsym)",
        "lh.Schaefer2018_400Parcels_7Networks_order.annot (for data on surfaces and Schaefer400Tian3Buckner7)",
        "_xfm.h5 (a transform to another space)",
        "brain.nii.gz (not a file of Schaefer400Tian3Buckner7)",
    ):
        assert line in text
    assert "notes" not in text
    assert "used.nii" not in text
    with pytest.raises(AtlasError, match=r"1mm.nii.gz.*below/atl-Buckner7") as caught:
        load_atlas("Schaefer400Tian3Buckner7", space=SPACE, directory=tmp_path)
    assert "brain.nii.gz" not in str(caught.value)


def test_what_is_left_is_named_in_the_log(tmp_path, caplog):
    entry = write_entry(tmp_path)
    folder = tmp_path / "given"
    (folder / "third.nii.gz").touch()
    with caplog.at_level(logging.INFO, "bids_semantoks"):
        load_atlas(entry, space=SPACE, directory=folder)
    assert all(part in caplog.text for part in (f"{folder}:", "third.nii.gz"))


def test_parcels_without_a_file_on_surfaces_are_counted(tmp_path, caplog):
    entry = write_entry(tmp_path)
    made.write_dlabel(tmp_path / "own.dlabel.nii")
    common = {"licence": "free", "source": "made here"}
    part = {"files": ["own.dlabel.nii"], "values": [[1, 2]], "parcels": [[1, 2]]} | common
    rest = {"files": ["rest.nii"], "values": [[1, 1]], "parcels": [[3, 3]], "space": SPACE} | common
    surfaces = [{"space": "fsLR", "alternatives": [[part, rest], [part]]}]
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"surfaces": surfaces}))
    (tmp_path / "given" / "rest.nii.gz").touch()
    load_surface_atlas(entry, space="fsLR", directory=tmp_path / "given")
    assert all(part in caplog.text for part in ("1 parcels", "rest.nii"))
