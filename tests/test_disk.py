"""A full disk is recognised whatever wraps it, and only what dead processes left behind is removed."""

import errno
import gzip
import os
import resource
import sqlite3
import struct
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from bids_semantoks import disk, files
from bids_semantoks.atlases.label_images import read_label_image
from bids_semantoks.disk import check_size, read_array
from bids_semantoks.errors import AtlasError, ConfigurationError, ResourceError, RunFailed
from bids_semantoks.images.fsl_warps import load_fsl_warp
from bids_semantoks.images.volumes import load_mask, load_volumes, read_blocks
from bids_semantoks.signals.read_series import read_columns


def wrap(error, kind=RuntimeError, *, is_linked=True):
    try:
        try:
            raise error
        except Exception as inner:  # noqa: BLE001 - any
            raise kind("wrapped") from (inner if is_linked else None)
    except kind as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EFBIG, "File too large"), True),
        (wrap(OSError(errno.ENOSPC, "full")), True),
        (wrap(wrap(OSError(errno.EDQUOT, "full")), ConfigurationError), True),
        (RuntimeError("IO error: No space left on device (os error 28)"), True),
        (sqlite3.OperationalError("database or disk is full"), True),
        (wrap(OSError(errno.ENOSPC, "full"), is_linked=False), False),
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError("no number"), False),
        (ValueError("28"), False),
    ],
)
def test_a_full_disk_is_recognised(error, expected):
    assert disk.is_full(error) == expected


OTHERS = ("sub-01.html", ".hidden", ".tmp", ".0123456789ab.tmp.json", "0123456789ab.tmp", ".making-mine", "x.tmp")


def test_only_what_dead_processes_left_is_removed(tmp_path):
    """Files of living processes, of other machines not long ago, and of others stay."""
    code = "from bids_semantoks.disk import tag_owner; print(tag_owner(), flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path.cwd())}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", code], text=True, env=environment, **pipes)
    owner = other.stdout.readline().strip()
    mine, theirs, away = disk.name_temporary(), f".{owner}{'a' * 12}.tmp", f".00000000-1-1-{'b' * 12}.tmp"
    away_old, nameless, nameless_old = f".00000000-1-1-{'c' * 12}.tmp", f".{'d' * 12}.tmp", f".{'e' * 12}.tmp"
    for name in (mine, theirs, away, away_old, nameless, nameless_old, *OTHERS):
        (tmp_path / name).write_text("x")
    for name in (f".making-{owner}x", f"bids_semantoks-fetched-{owner}y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
    for name in (away_old, nameless_old, *OTHERS):
        os.utime(tmp_path / name, (0, time.time() - 2 * 86400))
    everything = {path.name for path in tmp_path.iterdir()}
    disk.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == everything - {away_old, nameless_old}
    other.communicate("\n")
    files.write_text(tmp_path / "new", "x")
    assert {path.name for path in tmp_path.iterdir()} == {mine, away, nameless, "new", *OTHERS}
    disk.remove_leftovers(tmp_path / "absent")


def test_files_of_other_users_are_judged_by_their_age(tmp_path, monkeypatch):
    """Processes of others may be hidden from this user, and would pass for dead."""
    path = tmp_path / f".{disk._identify_place()}-4194305-1-{'a' * 12}.tmp"
    path.write_text("x")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    disk.remove_leftovers(tmp_path)
    assert path.exists()
    monkeypatch.undo()
    disk.remove_leftovers(tmp_path)
    assert not path.exists()


def test_place_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match=r"Cannot write to .*file/out"):
        disk.check_writable(tmp_path / "file" / "out")


def test_a_file_size_limit_is_a_full_disk_before_anything_is_written(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ResourceError, match="No space left"):
            disk.check_writable(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []


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
