"""Headers that promise more than their file holds are refused before memory is taken for it."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from bids_semantoks.atlases.label_images import read_label_image
from bids_semantoks.errors import AtlasError, RunFailed
from bids_semantoks.images.fsl_warps import load_fsl_warp
from bids_semantoks.images.sizes import check_size, read_array
from bids_semantoks.images.volumes import load_mask, load_volumes, read_blocks
from bids_semantoks.signals.series_tables import read_columns

#: As many voxels take 100 GB and more in any type.
HUGE = (30000, 30000, 3000)


def write_image(path, dims=None, shape=(4, 5, 6)):
    nib.save(nib.Nifti1Image(np.ones(shape, dtype=np.float32), np.eye(4)), path)
    if dims is not None:
        content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
        struct.pack_into(f"<{len(dims) + 1}h", content, 40, len(dims), *dims)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_images_with_a_damaged_size(tmp_path, suffix):
    path = write_image(tmp_path / f"image{suffix}", HUGE)
    with pytest.raises(AtlasError, match="30000, 30000, 3000"):
        read_label_image(path)
    with pytest.raises(RunFailed, match="30000, 30000, 3000") as found:
        load_volumes(write_image(tmp_path / f"bold{suffix}", (*HUGE, 5)))
    assert found.value.reason == "bad_image"
    with pytest.raises(RunFailed, match="warp"):
        load_fsl_warp(write_image(tmp_path / f"warp{suffix}", (*HUGE, 3)))


def test_a_header_that_nibabel_refuses(tmp_path):
    path = write_image(tmp_path / "image.nii")
    content = bytearray(path.read_bytes())
    content[108:112] = struct.pack("<f", 8)
    path.write_bytes(content)
    with pytest.raises(AtlasError, match="vox offset"):
        read_label_image(path)


def test_a_mask_of_another_size_than_the_volumes_takes_no_memory(tmp_path):
    volumes = load_volumes(write_image(tmp_path / "bold.nii.gz", shape=(4, 5, 6, 3)))
    with pytest.raises(RunFailed) as found:
        load_mask(write_image(tmp_path / "mask.nii.gz", HUGE), volumes)
    assert found.value.reason == "space_mismatch"


def test_a_truncated_image_still_says_how_many_volumes_are_there(tmp_path):
    path = write_image(tmp_path / "bold.nii", shape=(4, 5, 6, 30))
    path.write_bytes(path.read_bytes()[: 352 + 4 * 120 * 4])
    with pytest.raises(RunFailed, match="4 of 30 volumes"):
        list(read_blocks(load_volumes(path)))


def test_constant_values_pass(tmp_path):
    path = tmp_path / "zeros.nii.gz"
    path.write_bytes(gzip.compress(bytes(10**7), 9))
    check_size(path, (10**7,), np.dtype(np.uint8))
    with pytest.raises(ValueError, match="12000000 bytes"):
        check_size(path, (12 * 10**6,), np.dtype(np.uint8))


def test_arrays_of_numpy(tmp_path):
    path, values = tmp_path / "series.npy", np.arange(12.0).reshape(3, 4)
    np.save(path, values)
    np.testing.assert_array_equal(read_array(path), values)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(3, 4)", b"(3000000, 40000)").replace(b" " * 11, b" ", 1))
    with pytest.raises(ValueError, match=r"mmap|size"):
        read_array(path)
    with pytest.raises(RunFailed, match="cannot be read as an array"):
        read_columns(path)
    np.savez(tmp_path / "many.npz", values)
    with pytest.raises(ValueError, match="archive"):
        read_array(tmp_path / "many.npz")
