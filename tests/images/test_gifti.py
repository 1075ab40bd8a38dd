"""GIFTI series against nibabel, and what is said of damaged ones."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made

from bids_semantoks.images.gifti import GiftiError, find_hemisphere, load_gifti_header, read_volumes

ENCODINGS = ("GIFTI_ENCODING_ASCII", "GIFTI_ENCODING_B64BIN", "GIFTI_ENCODING_B64GZ")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("whole", [False, True])
def test_volumes_are_those_that_nibabel_reads(tmp_path, encoding, whole, monkeypatch):
    monkeypatch.setattr("bids_semantoks.images.gifti._CHUNK", 1000)
    path = made.write_func(
        tmp_path / "a_hemi-L_bold.func.gii", made.build_series(made.N_LEFT), encoding=encoding, whole=whole
    )
    header = load_gifti_header(path)
    assert (header.n_vertices, header.n_volumes) == (made.N_LEFT, made.T)
    volumes = np.stack([volume.copy() for volume in read_volumes(path)])
    expected = nib.load(path).agg_data()
    np.testing.assert_array_equal(volumes, np.asarray(expected).T)


def test_the_header_of_a_long_file_is_read_from_its_beginning(tmp_path):
    path = made.write_func(tmp_path / "a_hemi-L_bold.func.gii", made.build_series(9000, n_volumes=23))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert load_gifti_header(path).n_volumes == 23
    with pytest.raises(GiftiError, match="GIFTI file: no element found"):
        list(read_volumes(path))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("sub-01_task-rest_hemi-L_space-fsaverage5_bold.func.gii", "CORTEX_LEFT"),
        ("sub-01_space-fsLR_hemi-R_bold.func.gii", "CORTEX_RIGHT"),
        ("lh.aparc.annot", "CORTEX_LEFT"),
        ("S1.R.aparc.32k_fs_LR.label.gii", "CORTEX_RIGHT"),
        ("tpl-fsLR_bold.func.gii", ""),
        ("lh.to.rh.annot", ""),
    ],
)
def test_names_tell_hemispheres(name, side):
    assert find_hemisphere(name) == side


def test_what_is_no_series_is_refused(tmp_path):
    text = tmp_path / "a.func.gii"
    text.write_text("vertex 1\n")
    with pytest.raises(GiftiError, match="GIFTI file"):
        load_gifti_header(text)
    empty = tmp_path / "b.func.gii"
    empty.write_text('<?xml version="1.0"?><GIFTI Version="1.0" NumberOfDataArrays="0"></GIFTI>')
    with pytest.raises(GiftiError, match="GIFTI file with data arrays"):
        load_gifti_header(empty)
    surface = tmp_path / "c.surf.gii"
    points = nib.gifti.GiftiDataArray(np.zeros((5, 3), np.float32), intent="NIFTI_INTENT_POINTSET")
    nib.save(nib.GiftiImage(darrays=[points]), surface)
    with pytest.raises(GiftiError, match="the geometry of a surface"):
        load_gifti_header(surface)


def test_damage_within_the_data_is_found(tmp_path):
    path = made.write_func(tmp_path / "a_hemi-L_bold.func.gii", made.build_series(made.N_LEFT, n_volumes=5))
    content = path.read_text()
    parts = content.split("<Data>")
    path.write_text("<Data>".join([*parts[:3], "AAAA" + parts[3], *parts[4:]]))
    with pytest.raises(GiftiError, match="a data array cannot be decoded"):
        list(read_volumes(path))
    path.write_text(content.replace('NumberOfDataArrays="5"', 'NumberOfDataArrays="6"'))
    with pytest.raises(GiftiError, match="5 of 6 volumes"):
        list(read_volumes(path))
    path.write_text(content.replace('Dim0="37"', 'Dim0="36"'))
    with pytest.raises(GiftiError, match="144 bytes"):
        list(read_volumes(path))
    path.write_text(content.replace("NIFTI_TYPE_FLOAT32", "NIFTI_TYPE_COMPLEX64"))
    with pytest.raises(GiftiError, match="NIFTI_TYPE_COMPLEX64"):
        list(read_volumes(path))


def test_numbers_in_a_file_beside_are_read(tmp_path):
    values = made.build_series(made.N_LEFT, n_volumes=3)
    (tmp_path / "values.bin").write_bytes(b"head" + values.astype(">f4").tobytes())
    arrays = "".join(
        '<DataArray Intent="NIFTI_INTENT_TIME_SERIES" DataType="NIFTI_TYPE_FLOAT32" '
        f'Dimensionality="1" Dim0="{made.N_LEFT}" '
        'ArrayIndexingOrder="RowMajorOrder" Encoding="ExternalFileBinary" Endian="BigEndian" '
        f'ExternalFileName="values.bin" ExternalFileOffset="{4 + 4 * made.N_LEFT * t}"><Data></Data></DataArray>'
        for t in range(3)
    )
    path = tmp_path / "a_hemi-L_bold.func.gii"
    path.write_text(f'<?xml version="1.0"?><GIFTI Version="1.0" NumberOfDataArrays="3">{arrays}</GIFTI>')
    np.testing.assert_array_equal(np.stack(list(read_volumes(path))), values)


@pytest.mark.parametrize("n", [5, 36, 38, 10**15])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_more_or_fewer_values_than_the_header_says(tmp_path, n, encoding):
    path = made.write_func(
        tmp_path / "a_hemi-L_bold.func.gii", made.build_series(made.N_LEFT, n_volumes=2), encoding=encoding
    )
    path.write_bytes(path.read_bytes().replace(f'Dim0="{made.N_LEFT}"'.encode(), f'Dim0="{n}"'.encode()))
    with pytest.raises(GiftiError, match="is damaged"):
        list(read_volumes(path))
