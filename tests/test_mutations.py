"""Damaged files of every kind end their run, or the call with one sentence, and never look like a bug."""

import contextlib
import gzip
import json
import random
import re
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import surface_files

from bids_semantoks.cli import call
from bids_semantoks.files import hash_file, read_table, write_table
from bids_semantoks.models.checkpoints import load_encoder, write_checkpoint

SEED = 14
#: What a call may take at most, besides what the process had before: processor seconds, and MiB of memory.
SECONDS, MEBIBYTES = 60, 1024
#: Cases of each kind in the short form and in the long one.
FEW, MANY = 2, 500

OPTIONS = ("--atlas", "Demo457", "--model", "random:tiny", "--n-procs", "1", "-q")
SELECT = ("--participant-label", "001")
PROBE = ("--probe", "sex", "--n-repeats", "1", "--n-permutations", "0", "--baselines", "none")
SURFACE = ("--space", "fsLR", "--denoise", "none", "--signals-only")
FMRIPREP = {"Name": "fMRIPrep", "Version": "24.1.1"}

#: What replaces a value of JSON or a cell of a table.
HOSTILE = (
    "9" * 400,
    "9" * 5000,
    "1e999",
    "1e-320",
    "-1",
    "NaN",
    "null",
    "[]",
    "{}",
    '"x"',
    "[" * 200_000,
    "x" * 200_000,
)

#: Where each kind lies: in the study or in the outputs of an earlier call.
INPUTS = {
    "sidecar": "derivatives/fmriprep/sub-001/**/*_desc-preproc_bold.json",
    "confounds": "derivatives/fmriprep/sub-001/**/*_timeseries.tsv",
    "bold": "derivatives/fmriprep/sub-001/**/*_desc-preproc_bold.nii.gz",
    "mask": "derivatives/fmriprep/sub-001/**/*_desc-brain_mask.nii.gz",
    "description": "derivatives/fmriprep/dataset_description.json",
}
STORED = {
    "stored_signals": "sub-001/**/*_stat-mean_timeseries.json",
    "stored_embedding": "sub-001/**/*_embedding.json",
    "stored_status": "logs/sub-001/*_status.json",
    "stored_description": "dataset_description.json",
    "stored_desc": "logs/descriptions/*.json",
    "stored_atlas": "sourcedata/atlases/**/*_dseg.json",
    "stored_atlas_table": "sourcedata/atlases/**/*_dseg.tsv",
    "stored_table": "sub-001/**/*_stat-mean_timeseries.tsv",
}
PEOPLE = {"participants": "participants.tsv"}
#: An atlas or an encoder that is given by its path, beside the study.
ATLAS = {"atlas_table": "*_dseg.tsv", "atlas_image": "*_dseg.nii.gz"}
ENCODERS = {
    "checkpoint": "encoder/model.safetensors",
    "checkpoint_config": "encoder/config.json",
    "checkpoint_authors": "checkpoint.pth",
}
SURFACES = {"dlabel": "Small.dlabel.nii", "dtseries": "fmriprep/sub-001/**/*.dtseries.nii"}
FOLDERS = {"raw": INPUTS, "out": STORED, "cohort": PEOPLE, "atlas": ATLAS, "models": ENCODERS, "surfaces": SURFACES}
PATTERNS = {kind: (folder, pattern) for folder, kinds in FOLDERS.items() for kind, pattern in kinds.items()}
#: Where the sizes of images stand: format, offset and number of dimensions of NIfTI-1 and NIfTI-2.
SIZES = {348: ("h", 42, 3), 540: ("q", 24, 6)}


def damage(content: bytes, suffix: str, chance: random.Random) -> bytes:
    """Damage a file in one of the ways in which disks, editors and programs do."""
    kinds = ["bytes", "cut", "empty", "doubled", *(["value"] * 4 if suffix in (".json", ".tsv") else ["start"] * 3)]
    kind = chance.choice(kinds)
    if kind == "cut":
        return content[: chance.randrange(len(content))]
    if kind == "empty":
        return b""
    if kind == "doubled":
        at = chance.randrange(len(content))
        return content[:at] + content[at // 2 :]
    if kind == "value" and suffix == ".tsv":
        lines = [line.split(b"\t") for line in content.splitlines()]
        line = chance.choice(lines)
        line[chance.randrange(len(line))] = chance.choice(HOSTILE).encode()
        return b"\n".join(b"\t".join(line) for line in lines) + b"\n"
    if kind == "value":
        values = json.loads(content)
        places = list(list_places(values))
        holder, key = chance.choice(places)
        holder[key] = "@"
        return json.dumps(values).replace('"@"', chance.choice(HOSTILE), 1).encode()
    is_packed = suffix == ".gz" and kind == "start" and chance.random() < 0.8
    damaged = bytearray(gzip.decompress(content) if is_packed else content)
    length = struct.unpack_from("<i", damaged)[0] if len(damaged) > 540 else 0
    if kind == "start" and length in SIZES and chance.random() < 0.2:
        form, offset, number = SIZES[length]
        at = offset + chance.randrange(number) * struct.calcsize(form)
        struct.pack_into(f"<{form}", damaged, at, chance.choice((0, -1, 32767, 30000)))
        return gzip.compress(damaged, 1) if is_packed else bytes(damaged)
    for _ in range(chance.choice((1, 4, 32))):
        damaged[chance.randrange(min(len(damaged), 348) if kind == "start" else len(damaged))] = chance.randrange(256)
    return gzip.compress(damaged, 1) if is_packed else bytes(damaged)


def list_places(values):
    """List every place of a value in JSON, as what holds it and its key."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield values, key
        if isinstance(value, dict | list):
            yield from list_places(value)


@pytest.fixture(scope="module")
def place(study, outputs, tmp_path_factory) -> Path:
    """A copy of the study, its outputs, and what else a call can read, each file whole again after each case."""
    folder = tmp_path_factory.mktemp("mutations")
    shutil.copytree(study, folder / "raw")
    shutil.copytree(outputs, folder / "out")
    write_others(folder)
    return folder


def write_others(folder: Path) -> None:
    """Write, beside ``raw`` and ``out``: an atlas, encoders, a study on surfaces, and outputs of enough people."""
    (stored,) = (folder / "out" / "sourcedata" / "atlases").glob("tpl-*")
    shutil.copytree(stored, folder / "atlas")
    own = load_encoder("random:tiny")
    write_checkpoint(folder / "models" / "encoder", own.encoder, head=own.head)
    shutil.copy(Path(__file__).parent / "data" / "parity" / "checkpoint.pth", folder / "models")
    write_surfaces(folder / "surfaces")
    write_cohort(folder / "cohort", folder / "out")


def write_surfaces(folder: Path, n_volumes: int = 60) -> None:
    func = folder / "fmriprep" / "sub-001" / "func"
    func.mkdir(parents=True)
    description = {"Name": "x", "BIDSVersion": "1.4.0", "DatasetType": "derivative", "GeneratedBy": [FMRIPREP]}
    (folder / "fmriprep" / "dataset_description.json").write_text(json.dumps(description))
    (func / "sub-001_task-rest_space-fsLR_den-91k_bold.json").write_text('{"RepetitionTime": 2.0}')
    series = surface_files.build_series(len(surface_files.build_axis()), 0, n_volumes)
    surface_files.write_dtseries(func / "sub-001_task-rest_space-fsLR_den-91k_bold.dtseries.nii", series)
    surface_files.write_dlabel(folder / "Small.dlabel.nii")


def write_cohort(folder: Path, out: Path) -> None:
    """Write a raw root of 24 people and the outputs of each, whose embeddings are those of the first plus noise."""
    shutil.copytree(out, folder / "out", ignore=shutil.ignore_patterns("sub-*", "figures"))
    numbers = np.random.default_rng(SEED)
    people = [f"sub-{1 + i:03d}" for i in range(24)]
    for person in people:
        for path in sorted(out.glob("sub-001/func/*.*")):
            copy = folder / "out" / person / "func" / path.name.replace("sub-001", person)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes().replace(b"sub-001", person.encode()))
        (table,) = (folder / "out" / person / "func").glob("*_embedding.tsv")
        columns, rows = read_table(table)
        rows[:, 4:] += numbers.normal(size=(1, rows.shape[1] - 4))
        write_table(table, columns, rows)
        sidecar = json.loads(table.with_suffix(".json").read_bytes())
        table.with_suffix(".json").write_text(json.dumps(sidecar | {"TableSHA256": hash_file(table)}))
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.4.0"}))
    lines = ["participant_id\tsex\tage", *(f"{one}\t{'FM'[i % 2]}\t{20 + i}" for i, one in enumerate(people))]
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")


def build_call(place: Path, kind: str, out_dir: Path, chance: random.Random) -> list[str]:
    """Build the command line that reads a file of this kind."""
    folder = PATTERNS[kind][0]
    if folder == "cohort":
        return [str(place / folder), str(out_dir), "group", *OPTIONS, *PROBE]
    if folder == "surfaces":
        atlas = ("--atlas", str(place / folder / "Small.dlabel.nii"))
        return [str(place / folder / "fmriprep"), str(out_dir), "participant", *OPTIONS, *SURFACE, *atlas]
    level, extra = "participant", ["--signals-only"]
    if folder == "out":
        level, extra = chance.choice((("participant", []), ("participant", ["--reports-only"]), ("group", [])))
    elif folder == "atlas":
        extra += ["--atlas", str(next((place / "atlas").glob("*_dseg.nii.gz")))]
    elif folder == "models":
        extra = ["--model", str(place / folder / ("checkpoint.pth" if kind == "checkpoint_authors" else "encoder"))]
    select = SELECT if level == "participant" else ()
    return [str(place / "raw"), str(out_dir), level, *OPTIONS, *select, *extra]


def try_one(place: Path, tmp_path: Path, kind: str, number: int) -> None:
    chance = random.Random(f"{SEED} {kind} {number}")
    folder, pattern = PATTERNS[kind]
    path = chance.choice(sorted((place / folder).glob(pattern)))
    out_dir = tmp_path / "out"
    if folder == "out":
        shutil.copytree(place / "out", out_dir)
        path = out_dir / path.relative_to(place / "out")
    elif folder == "cohort":
        out_dir = place / "cohort" / "out"
    whole = path.read_bytes()
    damaged = damage(whole, path.suffix, chance)
    before, start = reset_peak(), time.process_time()
    try:
        path.write_bytes(damaged)
        code = call(build_call(place, kind, out_dir, chance))
    finally:
        path.write_bytes(whole)
        if folder != "cohort":
            shutil.rmtree(out_dir, ignore_errors=True)
    case = f"{kind} {number}: {damaged[:200]!r}"
    assert code in (0, 2, 3, 4, 5, 6, 7), case
    assert time.process_time() - start < SECONDS, case
    assert read_peak() - before < MEBIBYTES, case


def reset_peak() -> int:
    """Let Linux measure the most memory of this process anew; return what it has now, in MiB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return read_peak()


def read_peak() -> int:
    """Read the most memory (MiB) that this process had; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        return int(found[1]) // 1024 if found else 0
    return 0


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_damaged_file_is_no_bug(place, tmp_path, kind):
    for number in range(FEW):
        try_one(place, tmp_path, kind, number)


@pytest.mark.long
@pytest.mark.parametrize("kind", PATTERNS)
def test_many_damaged_files_are_no_bug(place, tmp_path, kind):
    for number in range(MANY):
        try_one(place, tmp_path, kind, number)
