"""FSL's warps: places by hand, and fields that cannot be used."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.fsl_files import NATIVE_SIZE, STANDARD_SIZE, build_affine, map_voxels, write_native_run, write_warp

from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.images.fsl_warps import check_warp, describe_applywarp, load_fsl_warp
from bids_semantoks.images.volumes import load_volumes


def write_field(path, field, affine, code=1):
    image = nib.Nifti1Image(np.asarray(field, dtype=np.float32), affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.to_filename(path)
    return path


@pytest.mark.parametrize(
    ("standard_sign", "native_sign", "expected"),
    [
        # Voxel (1, 2, 3) of 6 voxels of 2 mm: x is 2 mm, or 8 mm from the other end; 1.5 mm are added to it.
        # Native voxels are 2.5 mm wide, 5 of them: 3.5 mm are voxel 1.4, or 4 - 1.4; 9.5 mm voxel 3.8, or 4 - 3.8.
        (False, False, 1.4),
        (False, True, 2.6),
        (True, False, 3.8),
        (True, True, 0.2),
    ],
)
def test_a_place_by_hand(tmp_path, standard_sign, native_sign, expected):
    field = np.zeros((6, 5, 7, 3))
    field[..., 0] = 1.5
    warp = load_fsl_warp(
        write_field(tmp_path / "w.nii.gz", field, build_affine((2.0, 2, 2), is_positive=standard_sign))
    )
    native = build_affine((2.5, 4, 5), is_positive=native_sign, origin=(100, 200, 300))
    bold, _ = write_native_run(tmp_path, np.ones((5, 6, 7, 4), "i2"), affine=native, zooms=(2.5, 4, 5))
    place = warp.locate(np.array([[1, 2, 3]]), load_volumes(bold))
    np.testing.assert_allclose(place, [[expected, 1.0, 1.2]])
    assert not warp.is_absolute


def test_rotated_headers_do_not_matter(tmp_path):
    # FSL reads the sign of the determinant and the voxel size from a header, nothing else.
    angle = 0.3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    native = turn @ build_affine(NATIVE_SIZE, is_positive=True)
    standard = build_affine(STANDARD_SIZE, is_positive=False)
    places = map_voxels()
    path = write_warp(tmp_path / "w.nii.gz", places, native_affine=native, standard_affine=standard, is_absolute=False)
    bold, _ = write_native_run(tmp_path, np.ones((10, 8, 7, 4), "i2"), affine=native)
    voxels = np.argwhere(np.ones(places.shape[:3]))
    found = load_fsl_warp(path).locate(voxels, load_volumes(bold))
    np.testing.assert_allclose(found, places.reshape(-1, 3), atol=1e-5)


@pytest.mark.parametrize("shift", [0, 500])
@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize("intent", [0, 1006, 2006])
def test_the_convention_is_seen_in_the_field_and_not_in_its_code(tmp_path, is_absolute, intent, shift):
    path = write_warp(
        tmp_path / "w.nii.gz",
        map_voxels() + shift,
        native_affine=build_affine(NATIVE_SIZE, is_positive=True),
        standard_affine=build_affine(STANDARD_SIZE, is_positive=True),
        is_absolute=is_absolute,
        intent=intent,
    )
    warp = load_fsl_warp(path)
    assert warp.is_absolute == is_absolute
    assert warp.describe().startswith("Each voxel of the standard grid (11 x 13 x 9) was interpolated")


@pytest.mark.parametrize("intent", [2007, 2008, 2009, 2016])
def test_coefficients_are_refused(tmp_path, intent):
    affine = build_affine(STANDARD_SIZE, is_positive=False)
    path = write_warp(
        tmp_path / "c.nii.gz", map_voxels(), native_affine=affine, standard_affine=affine, is_absolute=False,
        intent=intent,
    )  # fmt: skip
    with pytest.raises(RunFailed, match=rf"c\.nii\.gz.*{intent}"):
        load_fsl_warp(path)


def test_other_files_are_refused(tmp_path):
    affine = np.eye(4)
    with pytest.raises(RunFailed, match=r"\(4, 4, 4\);.*z, 3\)"):
        load_fsl_warp(write_field(tmp_path / "a.nii.gz", np.zeros((4, 4, 4)), affine))
    with pytest.raises(RunFailed, match="neither sform nor qform"):
        load_fsl_warp(write_field(tmp_path / "b.nii.gz", np.zeros((4, 4, 4, 3)), affine, code=0))
    (tmp_path / "d.nii.gz").write_bytes(b"no image")
    with pytest.raises(RunFailed, match=r"The warp .*d\.nii\.gz cannot be read"):
        load_fsl_warp(tmp_path / "d.nii.gz")


def test_a_missing_warp_or_mask_names_the_way_out(tmp_path):
    folder = tmp_path / "1000011_20227_2_0/fMRI/rfMRI.ica"
    bold, mask, warp = folder / "filtered_func_data_clean.nii.gz", folder / "mask.nii.gz", folder / "reg/w.nii.gz"
    line = (
        f"cd {folder} && applywarp --in=filtered_func_data_clean --ref=$FSLDIR/data/standard/MNI152_T1_2mm "
        f"--warp=reg/w --out=filtered_func_data_clean_stand"
    )
    with pytest.raises(RunFailed, match="native space and its warp") as refused:
        check_warp(bold, mask, warp)
    assert refused.value.reason == "space_mismatch"
    assert "clean.nii.gz is in native space and its warp to standard space, reg/w.nii.gz, is" in refused.value.message
    assert line in str(refused.value)
    warp.parent.mkdir(parents=True)
    warp.touch()
    with pytest.raises(RunFailed, match="its brain mask is missing") as refused:
        check_warp(bold, None, warp)
    assert refused.value.reason == "no_mask"
    assert line in str(refused.value)
    check_warp(bold, mask, warp)
    assert describe_applywarp(Path("/a b/x.nii"), Path("/a b/w.nii.gz")).startswith("cd '/a b' && applywarp --in=x ")
    (folder / "gone.nii.gz").symlink_to(tmp_path / ".git/annex/objects/x")
    with pytest.raises(RunSkipped, match="datalad get"):
        check_warp(bold, mask, folder / "gone.nii.gz")
