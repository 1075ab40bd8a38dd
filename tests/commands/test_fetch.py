"""Fetching beforehand, and running afterwards without network, home or a place of TemplateFlow."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made
from helpers.pins import forget
from helpers.transforms import Composite
from huggingface_hub.errors import EntryNotFoundError

from bids_semantoks import errors
from bids_semantoks.atlases import supply
from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.atlases.load import load_atlas, load_surface_atlas
from bids_semantoks.atlases.registry import load_entry
from bids_semantoks.commands.fetch import FETCH
from bids_semantoks.demo.study import write_study
from bids_semantoks.errors import AtlasError

SPACE, OTHER = "MNI152NLin6Asym", "MNI152NLin2009cAsym"


XFM = f"tpl-{OTHER}/tpl-{OTHER}_from-{SPACE}_mode-image_xfm.h5"


@pytest.fixture
def server(tmp_path):
    """A server of files on this machine: its folder, its address and the paths that were asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


@pytest.fixture
def online(monkeypatch, tmp_path):
    """No variable forbids to fetch, no cache of the user's counts, and the hub has only what is put on a shelf."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SLURM_ARRAY_TASK_ID", "BIDS_SEMANTOKS_ATLAS_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))
    shelf = tmp_path / "shelf"
    shelf.mkdir()

    def give(repository, name, *, cache_dir=None, revision=None):
        if not (shelf / name).is_file():
            raise EntryNotFoundError(f"404 for {name}")
        root = Path(cache_dir) / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / (revision or "main")).write_text("abc")
        (root / "snapshots" / "abc" / name).parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(shelf / name, root / "snapshots" / "abc" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    from bids_semantoks.runtime import downloads  # noqa: PLC0415

    reachable = downloads.find_obstacle
    monkeypatch.setattr(downloads, "find_obstacle", lambda at: "" if "huggingface" in at else reachable(at))
    monkeypatch.setattr(supply, "find_obstacle", downloads.find_obstacle)
    downloads._can_connect_once.cache_clear()
    return shelf


def write_registry(tmp_path, address, monkeypatch, **changes):
    """An atlas of two images on the server, one of them in another space than the data."""
    registry = tmp_path / "registry"
    registry.mkdir()
    labels = np.zeros((9, 10, 11), np.int16)
    labels[:3], labels[3:6] = 1, 2
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -18
    served = tmp_path / "served"
    nib.Nifti1Image(labels, affine).to_filename(served / "cortex.nii.gz")
    nib.Nifti1Image((labels == 0).astype(np.int16), affine).to_filename(served / "rest.nii.gz")
    rows = "index\tlabel\tnetwork_label\n1\ta\tVis\n2\tb\tVis\n3\tc\tCerebellum\n"
    (registry / "Pair_dseg.tsv").write_text(rows)
    sha256 = hashlib.sha256((served / "cortex.nii.gz").read_bytes()).hexdigest()
    common = {"licence": "free", "source": "made here"}
    parts = [
        {"files": ["cortex.nii.gz"], "values": [[1, 2]], "parcels": [[1, 2]], "n_labels": 2, "sha256": sha256},
        {"files": ["rest.nii.gz"], "values": [[1, 1]], "parcels": [[3, 3]], "n_labels": 1, "space": SPACE},
    ]
    parts = [part | common | {"url": f"{address}/{part['files'][0]}"} for part in parts]
    parts[0] |= changes
    content = {"name": "Pair", "table": "Pair_dseg.tsv", "spaces": [{"space": OTHER, "alternatives": [parts]}]}
    (registry / "Pair.json").write_text(json.dumps(content))
    monkeypatch.setattr("bids_semantoks.atlases.registry.find_registry", lambda: registry)
    monkeypatch.setattr(supply, "TEMPLATEFLOW_SERVER", address)
    Composite(shape=(21, 21, 21), size=2.0).write(served / XFM)
    monkeypatch.setattr(supply, "TEMPLATEFLOW_SERVER", address)
    forget(monkeypatch)
    return registry


def list_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_everything_lands_in_one_directory_once(tmp_path, server, online, monkeypatch, capsys):
    _, address, asked = server
    write_registry(tmp_path, address, monkeypatch)
    (online / "config.json").write_text("{}")
    (online / "model.safetensors").write_text("weights")
    target = tmp_path / "fetched"
    arguments = [str(target), "--atlas", "Pair", "--space", OTHER, "--model", "lab/encoder"]
    assert FETCH.call(arguments) == 0
    hub = "huggingface/hub/models--lab--encoder"
    expected = ["atlases/cortex.nii.gz", "atlases/rest.nii.gz", f"templateflow/{XFM}"]
    assert list_files(target) == sorted(
        [
            *(name for file in expected for name in (file, f"{file}.sha256")),
            f"{hub}/refs/main",
            f"{hub}/snapshots/abc/config.json",
            f"{hub}/snapshots/abc/model.safetensors",
        ]
    )
    printed = capsys.readouterr().out
    assert f"export BIDS_SEMANTOKS_CACHE_DIR={target}" in printed
    assert hashlib.sha256((target / "atlases" / "rest.nii.gz").read_bytes()).hexdigest() in printed
    assert len(asked) == 3
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.gz")}
    assert FETCH.call(arguments) == 0
    assert len(asked) == 3
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*.gz")} == before
    # Either variable is enough for the atlas afterwards.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whole = load_atlas("Pair", space=OTHER, directory=target)
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(target))
    assert load_atlas("Pair", space=OTHER, directory=None).sha256 == whole.sha256
    assert set(np.unique(build_label_grid(whole, (9, 9, 9), np.diag([3.0, 3.0, 3.0, 1.0])))) >= {2, 3}


def test_files_that_are_here_are_copied_with_their_record(tmp_path, server, online, monkeypatch):
    _, address, asked = server
    write_registry(tmp_path, address, monkeypatch)
    first, second = tmp_path / "first", tmp_path / "second"
    assert FETCH.call([str(first), "--atlas", "Pair", "--space", OTHER, "--model", "none"]) == 0
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(first))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert FETCH.call([str(second), "--atlas", "Pair", "--space", OTHER, "--model", "none"]) == 0
    assert list_files(first) == list_files(second)
    assert len(asked) == 3


def test_another_file_than_expected_is_refused_and_not_kept(tmp_path, server, online, monkeypatch, capsys):
    _, address, _ = server
    write_registry(tmp_path, address, monkeypatch, sha256="0" * 64)
    code = FETCH.call([str(tmp_path / "to"), "--atlas", "Pair", "--space", OTHER, "--model", "none"])
    assert code == 6
    error = capsys.readouterr().err
    assert f"expected {'0' * 64}" in error
    assert "manually" in error
    assert not list_files(tmp_path / "to")


def test_a_damaged_file_is_recognised_by_its_record(tmp_path, server, online, monkeypatch, capsys):
    _, address, _ = server
    write_registry(tmp_path, address, monkeypatch)
    target = tmp_path / "to"
    arguments = [str(target), "--atlas", "Pair", "--space", OTHER, "--model", "none"]
    assert FETCH.call(arguments) == 0
    image = nib.load(target / "atlases" / "rest.nii.gz")
    nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine).to_filename(target / "atlases" / "rest.nii.gz")
    assert FETCH.call(arguments) == 6
    assert "(rest.nii.gz.sha256)" in capsys.readouterr().err


def test_a_server_without_the_file_and_a_short_answer(tmp_path, server, online, monkeypatch, capsys):
    folder, address, _ = server
    write_registry(tmp_path, address, monkeypatch)
    (folder / "rest.nii.gz").unlink()
    arguments = [str(tmp_path / "to"), "--atlas", "Pair", "--space", OTHER, "--model", "none"]
    assert FETCH.call(arguments) == 6
    assert "rest.nii.gz cannot be downloaded: the server responded with 404" in capsys.readouterr().err
    assert not [name for name in list_files(tmp_path / "to") if "rest" in name]


def test_a_run_fetches_into_the_cache_but_not_in_an_array(tmp_path, server, online, monkeypatch, caplog):
    _, address, asked = server
    write_registry(tmp_path, address, monkeypatch)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(errors.AtlasError, match=r"\(SLURM_ARRAY_TASK_ID=3\)"):
        load_atlas("Pair", space=OTHER, directory=None)
    assert not asked
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    first = load_atlas("Pair", space=OTHER, directory=None)
    cache = tmp_path / "no" / "BIDS_SEMANTOKS_CACHE_DIR"
    assert first.volumes[0].path == cache / "atlases" / "cortex.nii.gz"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert load_atlas("Pair", space=OTHER, directory=None).sha256 == first.sha256
    assert len(asked) == 3


def test_without_a_writable_cache_the_work_directory_serves(tmp_path, server, online, monkeypatch, caplog):
    _, address, _ = server
    write_registry(tmp_path, address, monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "file" / "cache"))
    atlas = load_atlas("Pair", space=OTHER, directory=None, work_dir=tmp_path / "work")
    assert tmp_path / "work" in atlas.volumes[0].path.parents
    assert "kept for this call only" in caplog.text


def test_bad_calls(tmp_path, online, capsys):
    assert FETCH.call([str(tmp_path), "--atlas", "Nothing", "--model", "none"]) == 6
    assert "Unknown atlas Nothing; expected one of Demo457" in capsys.readouterr().err
    assert FETCH.call([str(tmp_path), "--atlas", "Demo457", "--space", OTHER, "--model", "a.pth"]) == 6
    assert "a.pth cannot be downloaded: expected ORG/NAME" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert FETCH.call([str(tmp_path / "file" / "x"), "--atlas", "Demo457", "--model", "none"]) in (5, 6)


def test_the_place_that_cannot_be_written_is_named(tmp_path, server, online, monkeypatch, capsys):
    _, address, _ = server
    write_registry(tmp_path, address, monkeypatch)
    call = ["--atlas", "Pair", "--space", OTHER, "--model", "none"]
    assert FETCH.call([str(tmp_path / "first"), *call]) == 0
    monkeypatch.setenv("BIDS_SEMANTOKS_ATLAS_DIR", str(tmp_path / "first"))
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "cache"
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(below))
    capsys.readouterr()
    for given in ([], [str(below)]):
        assert FETCH.call([*given, *call]) == 5
        assert re.search(rf"error: {re.escape(str(below))}\S*: Not a directory", capsys.readouterr().err)


def test_every_alternative_is_tried_and_each_failure_named(tmp_path, server, online, monkeypatch, capsys):
    served, address, _ = server
    registry = write_registry(tmp_path, address, monkeypatch)
    made.write_dlabel(served / "less.dlabel.nii")
    content = json.loads((registry / "Pair.json").read_text())
    parts = content["spaces"][0]["alternatives"][0]
    common = {"licence": "free", "source": "made here"}
    gone = [{**parts[0], "files": [f"gone{n}.nii"], "url": f"{address}/gone{n}.nii"} for n in (1, 2)]
    content["spaces"][0]["alternatives"] = [[gone[0], parts[1]], [gone[1], parts[1]]]
    surface = {"values": [[1, 1]], "parcels": [[1, 1]]} | common
    whole = surface | {"files": ["gone.dlabel.nii"], "url": f"{address}/gone.dlabel.nii", "parcels": [[2, 2]]}
    less = surface | {"files": ["less.dlabel.nii"], "url": f"{address}/less.dlabel.nii"}
    content["surfaces"] = [{"space": "fsLR", "alternatives": [[less, whole], [less]]}]
    (registry / "Pair.json").write_text(json.dumps(content))
    call = [str(tmp_path / "to"), "--atlas", "Pair", "--model", "none", "--space"]
    assert FETCH.call([*call, OTHER]) == 6
    error = capsys.readouterr().err
    assert "gone1.nii cannot be downloaded: the server responded with 404" in error
    assert "gone2.nii cannot be downloaded: the server responded with 404" in error
    # The rest of the atlas, where not all of it can be had, is said to be that.
    assert FETCH.call([*call, "fsLR"]) == 0
    error = capsys.readouterr().err
    assert "gone.dlabel.nii cannot be downloaded: the server responded with 404" in error
    assert all(part in error for part in ("gone.dlabel.nii", "1 parcels"))
    content["surfaces"][0]["alternatives"] = [[whole], [whole | {"files": ["x.dlabel.nii"]}]]
    (registry / "Pair.json").write_text(json.dumps(content))
    assert FETCH.call([*call, "fsLR"]) == 6
    assert "atlas Pair for fsLR cannot be downloaded: gone.dlabel" in capsys.readouterr().err
    content["spaces"][0]["alternatives"].append(parts)
    (registry / "Pair.json").write_text(json.dumps(content))
    assert FETCH.call([*call, OTHER]) == 0


def can_unshare():
    return shutil.which("unshare") and subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs a network namespace of its own")
def test_a_run_needs_neither_network_nor_home_nor_templateflow(shared, tmp_path, monkeypatch):
    """The default atlas of the real files, warped in part, without network, and with no place of the user's own."""
    study, fetched = tmp_path / "raw", tmp_path / "fetched"
    write_study(study, n_participants=1, short=True)
    (fetched / "atlases").mkdir(parents=True)
    for part in load_entry(Path(supply.__file__).parents[1] / "data/atlases/Schaefer400Tian3Buckner7.json").recipes[
        OTHER
    ][1]:
        shutil.copy(shared / "atlas" / part.files[0], fetched / "atlases")
    Composite(shape=(21, 25, 21), spacing=(10.0, 10.0, 10.0)).write(fetched / "templateflow" / XFM)
    (tmp_path / "file").write_text("")
    environment = {
        "PATH": os.environ["PATH"],
        "TEMPLATEFLOW_HOME": str(tmp_path / "file" / "templateflow"),
        "BIDS_SEMANTOKS_ATLAS_DIR": str(fetched),
        "XDG_CACHE_HOME": str(tmp_path / "file" / "cache"),
        "SLURM_ARRAY_TASK_ID": "1",
    }
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bids_semantoks", str(study), str(out), "participant", "--model", "random:tiny"]
    done = subprocess.run(
        ["unshare", "-n", *command, "--n-procs", "1"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Fetching" not in done.stderr
    assert f"from {SPACE} to {OTHER} with" in done.stderr
    sidecar = json.loads(next(out.rglob("*_stat-mean_timeseries.json")).read_text())
    (warped,) = sidecar["Atlas"]["Warped"]
    assert warped["WarpedFrom"] == SPACE
    assert warped["TransformSHA256"] == hashlib.sha256((fetched / "templateflow" / XFM).read_bytes()).hexdigest()
    assert sidecar["Settings"]["atlas_warped"] == XFM.split("/")[1]
    page = next(out.glob("sub-*.html")).read_text()
    assert f"atl-Buckner7_space-MNI_dseg.nii from {SPACE}" in page
    assert XFM.split("/")[1] in (out / "logs" / "CITATION.md").read_text()
    atlases = out / "sourcedata" / "atlases"
    kept = json.loads(next((atlases / f"tpl-{OTHER}").glob("*_dseg.json")).read_text())["Images"][1]
    assert kept["File"].startswith(f"../tpl-{SPACE}/tpl-{SPACE}_")
    assert hashlib.sha256((atlases / f"tpl-{OTHER}" / kept["File"]).read_bytes()).hexdigest() == kept["SHA256"]


def test_label_files_of_surfaces_are_brought_as_well(tmp_path, server, online, monkeypatch, capsys):
    served, address, asked = server
    registry = write_registry(tmp_path, address, monkeypatch)
    made.write_dlabel(served / "cortex.dlabel.nii", names=dict(enumerate(("a", "b", "c", "d", "e"), 1)))
    for side in "lr":
        made.write_annot(served / "small" / f"{side}h.own.annot", np.arange(50) % 2, ["unknown", f"{side}a"])
    common = {"licence": "free", "source": "made here"}
    whole = {"files": ["cortex.dlabel.nii"], "values": [[1, 3]], "parcels": [[1, 3]]}
    whole |= common | {"url": f"{address}/cortex.dlabel.nii", "sha256": "0" * 64}
    pair = [
        common
        | {"files": [f"small/{side}h.own.annot", f"{side}h.own.annot"], "n_vertices": 50}
        | {"values": [[1, 1]], "parcels": [[n, n]], "url": f"{address}/small/{side}h.own.annot"}
        for n, side in ((1, "l"), (2, "r"))
    ]
    content = json.loads((registry / "Pair.json").read_text())
    content["surfaces"] = [
        {"space": "fsLR", "alternatives": [[whole]]},
        {"space": "fsaverage5", "alternatives": [pair]},
    ]
    (registry / "Pair.json").write_text(json.dumps(content))
    target, call = tmp_path / "assets", ["--atlas", "Pair", "--model", "none", "--space"]
    assert FETCH.call([str(target), *call, "fsLR"]) == 6
    assert "has SHA-256" in (error := capsys.readouterr().err)
    assert "expected 000" in error
    assert not list(target.rglob("*.dlabel.nii"))
    whole["sha256"] = hashlib.sha256((served / "cortex.dlabel.nii").read_bytes()).hexdigest()
    (registry / "Pair.json").write_text(json.dumps(content))
    # One of the pair is here already, elsewhere.
    own = tmp_path / "own"
    shutil.copytree(served / "small", own)
    (own / "rh.own.annot").unlink()
    monkeypatch.setenv("BIDS_SEMANTOKS_ATLAS_DIR", str(own))
    for _ in range(2):
        assert FETCH.call([str(target), *call, "fsLR", "fsaverage5"]) == 0
    assert capsys.readouterr().out.count("small/lh.own.annot") == 2
    assert [path for path in asked if "own.annot" in path] == ["/small/rh.own.annot"]
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(target))
    assert len(load_surface_atlas("Pair", space="fsLR", directory=None).volumes) == 1
    assert [one.path.parent.name for one in load_surface_atlas("Pair", space="fsaverage5", directory=None).volumes] == [
        "small",
        "small",
    ]
    assert load_surface_atlas("Pair", space="fsLR", directory=target).volumes[0].path.parent == target / "atlases"
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "nothing"))
    with pytest.raises(AtlasError, match="fetch DIR --atlas Pair --space fsaverage5` on a machine with network"):
        load_surface_atlas("Pair", space="fsaverage5", directory=None)
    capsys.readouterr()
    assert FETCH.call([str(target), *call, "fsaverage6"]) == 6
    assert "fsLR, fsaverage5, not on surfaces in fsaverage6." in capsys.readouterr().err


def test_seeds_are_fetched_beside_the_published_encoder(tmp_path, online, monkeypatch, capsys):
    name, seeds = "brainsemantoks_ckpt_epoch_100.pth", ("second_random_seed", "third_random_seed")
    (online / name).write_text("weights")
    for seed in seeds:
        (online / seed).mkdir()
        (online / seed / name).write_text(f"weights of {seed}")
    target, no_atlas = tmp_path / "fetched", ("--atlas", "none")
    assert FETCH.call([str(target), "--seeds", *no_atlas]) == 0
    root = Path("huggingface/hub/models--SamGijsen--Brain-Semantoks")
    wanted = sorted(["refs/main", *(f"snapshots/abc/{one}" for one in (name, *(f"{seed}/{name}" for seed in seeds)))])
    assert list_files(target / root) == wanted
    # From here to another machine's cache, with a tag: nothing is asked of the hub.
    monkeypatch.setenv("HF_HUB_CACHE", str((target / root).parent))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (target / root / "refs" / "v1").write_text("abc")
    copy = tmp_path / "copy"
    arguments = [str(copy), "--seeds", "--model", "SamGijsen/Brain-Semantoks@v1", *no_atlas]
    assert FETCH.call(arguments) == 0
    assert list_files(copy / root) == sorted(["refs/v1", *wanted[1:]])
    assert FETCH.call([str(copy), "--seeds", "--model", "lab/encoder"]) == errors.ModelError.exit_code
    assert "no other seeds of lab/encoder" in capsys.readouterr().err


def test_addresses_are_printed_with_what_is_known_of_the_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = ["--print-urls", "--atlas", "Schaefer400Tian3", "--model", "none", "--space"]
    assert FETCH.call([*call, "fsLR", "MNI152NLin6Asym"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    surface = next(line for line in lines if line[0].endswith("Tian_Subcortex_S3.dlabel.nii"))
    assert surface[2] == "SHA-256 3ee6ea48cfcf0c800894a442a539bd4cea0f0f29de2efc363e24b1e448ffcafb"
    assert FETCH.call(["--print-urls", "--model", "lab/Own@v1", "--seeds"]) == 6
    assert FETCH.call(["--print-urls", "--model", "lab/Own/sub@v1", "--space", OTHER]) == 0
    said = capsys.readouterr().out
    assert "/lab/Own/resolve/v1/sub/model.safetensors\t" in said
    transform = next(line for line in said.splitlines() if line.split("\t")[0].endswith("_xfm.h5"))
    assert transform.split("\t")[1:] == ["204.7 MB", "MD5 1f9b29f2d5cb898cc97243fe92ee9304"]
    assert not list(tmp_path.iterdir())
