"""Damaged files of every kind end their run, or the call with one sentence, and never look like a bug."""

import gzip
import json
import random
import shutil
from pathlib import Path

import pytest

from bids_semantoks.cli import call

SEED = 14
#: Cases of each kind in the short form and in the long one.
FEW, MANY = 2, 500

OPTIONS = ("--atlas", "Demo457", "--model", "random:tiny", "--n-procs", "1", "-q")
SELECT = ("--participant-label", "001")

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
    "stored_status": "logs/runs/sub-001*_status.json",
    "stored_description": "dataset_description.json",
    "stored_desc": "logs/descriptions/*.json",
    "stored_atlas": "sourcedata/atlases/**/*_dseg.json",
    "stored_atlas_table": "sourcedata/atlases/**/*_dseg.tsv",
    "stored_table": "sub-001/**/*_stat-mean_timeseries.tsv",
}
PEOPLE = {"participants": "participants.tsv"}
#: An atlas that is given by its path, beside the study.
ATLAS = {"atlas_table": "*_dseg.tsv", "atlas_image": "*_dseg.nii.gz"}
KINDS = (*INPUTS, *STORED, *PEOPLE, *ATLAS)


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
    """A copy of the study and its outputs, each file whole again after each case."""
    folder = tmp_path_factory.mktemp("mutations")
    shutil.copytree(study, folder / "raw")
    shutil.copytree(outputs, folder / "out")
    (stored,) = (folder / "out" / "sourcedata" / "atlases").glob("tpl-*")
    shutil.copytree(stored, folder / "atlas")
    return folder


def try_one(place: Path, tmp_path: Path, kind: str, number: int) -> None:
    chance = random.Random(f"{SEED} {kind} {number}")
    pattern = (INPUTS | STORED | PEOPLE | ATLAS)[kind]
    files = sorted((place / ("out" if kind in STORED else "atlas" if kind in ATLAS else "raw")).glob(pattern))
    path = chance.choice(files)
    out_dir = tmp_path / "out"
    level, extra = "participant", ("--signals-only",)
    if kind in STORED:
        shutil.copytree(place / "out", out_dir)
        path = out_dir / path.relative_to(place / "out")
        level, extra = chance.choice((("participant", ()), ("participant", ("--reports-only",)), ("group", ())))
    elif kind in PEOPLE:
        out_dir, level, extra = place / "out", "group", ("--probe", "sex")
    elif kind in ATLAS:
        extra = ("--signals-only", "--atlas", str(next((place / "atlas").glob("*_dseg.nii.gz"))))
    whole = path.read_bytes()
    suffix = "".join(path.suffixes[-1:])
    damaged = damage(whole, suffix, chance)
    select = SELECT if level == "participant" else ()
    try:
        path.write_bytes(damaged)
        code = call([str(place / "raw"), str(out_dir), level, *OPTIONS, *select, *extra])
    finally:
        path.write_bytes(whole)
        if out_dir != place / "out":
            shutil.rmtree(out_dir, ignore_errors=True)
    assert code in (0, 2, 3, 4, 5, 6, 7), f"{kind} {number}: {damaged[:200]!r}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_no_bug(place, tmp_path, kind):
    for number in range(FEW):
        try_one(place, tmp_path, kind, number)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_are_no_bug(place, tmp_path, kind):
    for number in range(MANY):
        try_one(place, tmp_path, kind, number)
