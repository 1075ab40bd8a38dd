"""Records of atlases on surfaces: what changes their checksums, and what does not."""

import hashlib
import re

import pytest

from bids_semantoks.atlases.label_surfaces import build_surface_atlas, build_surface_volume
from bids_semantoks.atlases.label_tables import LabelTable, load_label_table
from bids_semantoks.errors import AtlasError


@pytest.fixture
def table(tmp_path) -> LabelTable:
    path = tmp_path / "own.tsv"
    path.write_text("index\tlabel\tnetwork_label\n1\ta\tVis\n2\tb\tCont\n3\tc\tn/a\n")
    return load_label_table(path)


def build(path, table, *, name="Own", space="fsLR", values=(4, 7), parcels=(2, 0)):
    return build_surface_atlas(name, space, table, (build_surface_volume(path, values, parcels, ""),))


def test_a_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "lh.own.annot"
    path.write_bytes(b"labels")
    volume = build_surface_volume(path, [4, 7, 9], [2, 0, 1], "free")
    assert volume.sha256 == hashlib.sha256(b"labels").hexdigest()
    assert (volume.values.tolist(), volume.parcels.tolist()) == ([4, 7, 9], [2, 0, 1])
    assert volume.licence == "free"
    assert build_surface_volume(path, [4], [0], "").licence == "lh.own.annot: n/a"


def test_a_file_that_changed_since_it_was_fetched_is_refused(tmp_path):
    path = tmp_path / "lh.own.annot"
    path.write_bytes(b"damaged")
    was = hashlib.sha256(b"labels").hexdigest()
    path.with_name("lh.own.annot.sha256").write_text(f"{was}  lh.own.annot\n")
    now = hashlib.sha256(b"damaged").hexdigest()
    with pytest.raises(AtlasError, match=re.escape(f"has the SHA-256 {now}, but {was} when it was fetched")):
        build_surface_volume(path, [4], [0], "")


def test_the_checksum_of_an_atlas_is_of_what_it_means_and_not_of_where_it_lies(tmp_path, table):
    path, other = tmp_path / "own.annot", tmp_path / "moved.annot"
    for one in (path, other):
        one.write_bytes(b"labels")
    atlas = build(path, table)
    assert (atlas.name, atlas.space, atlas.parcels, atlas.networks) == ("Own", "fsLR", table.parcels, table.networks)
    assert build(other, table, name="Moved").sha256 == atlas.sha256
    other.write_bytes(b"other labels")
    changed = [build(other, table), build(path, table, values=(4, 8)), build(path, table, parcels=(2, 1))]
    assert len({atlas.sha256, *(one.sha256 for one in changed)}) == 4
