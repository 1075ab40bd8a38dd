"""Generate the descriptors with which other systems launch the program, from its command-line definition.

Usage: python cluster/generate.py [--check]

Boutiques descriptor, nipoppy bundle and BABS configuration name options, their types, choices and exit codes;
generating them from the command line keeps them in sync. With ``--check`` nothing is written, and outdated files
are listed with exit code 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

from bids_semantoks import errors as errors_module
from bids_semantoks.config.command import build_options, find_stages
from bids_semantoks.errors import RunError, SemantoksError
from bids_semantoks.version import __version__

HERE = Path(__file__).resolve().parent
NAME = "bids_semantoks"
IMAGE = f"{NAME}/{NAME}"
PROGRAM = f"/opt/{NAME}/bin/{NAME}"
#: Paths that the program creates; a descriptor's File must exist beforehand.
MADE = ("work_dir", "bids_database_dir")
#: Resources of a cluster job; the memory is that of one process with the published encoder plus a margin.
RESOURCES = {"cpus": 2, "memory_gb": 8, "hours": 2}


def find_options() -> list[click.Option]:
    """Find all options, in the order of ``--help``."""
    own = click.Option(
        ["--config-file"], type=click.Path(path_type=Path), help="Configuration file of an earlier call."
    )
    return [*(option for _, options in build_options() for option in options), own]


def flag(name: str) -> str:
    """Return the flag of a field; fail if there is no such option."""
    (option,) = [option for option in find_options() if option.name == name]
    return next(spelling for spelling in option.opts if spelling.startswith("--"))


def find_exit_codes() -> dict[int, str]:
    """Find the exit codes of the errors, with the first sentence of their description."""
    codes = {
        1: "A bug.",
        2: "Invalid command line.",
        7: "At least one run failed; the others were written.",
        130: "Interrupted.",
        143: "Terminated by the scheduler.",
    }
    for kind in vars(errors_module).values():
        if isinstance(kind, type) and issubclass(kind, SemantoksError) and kind is not SemantoksError:
            meaning = (kind.__doc__ or "").strip().splitlines()[0]
            # An error of a single run does not end the call; the exit code is 7 after all runs.
            if not issubclass(kind, RunError):
                codes[kind.exit_code] = " ".join(filter(None, (codes.get(kind.exit_code), meaning)))
    return dict(sorted(codes.items()))


def describe_option(option: click.Option) -> dict[str, Any]:
    """Describe one option as an input of a Boutiques descriptor."""
    assert option.name is not None
    described: dict[str, Any] = {
        "id": option.name,
        "name": option.name.replace("_", " "),
        "description": " ".join((option.help or "").split()),
        "optional": True,
        "command-line-flag": next(spelling for spelling in option.opts if spelling.startswith("--")),
        "value-key": f"[{option.name.upper()}]",
    }
    if option.is_flag or option.count:
        return described | {"type": "Flag"}
    if isinstance(option.type, click.Path):
        described["type"] = "String" if option.name in MADE else "File"
    elif isinstance(option.type, click.types.IntParamType):
        described |= {"type": "Number", "integer": True}
    elif isinstance(option.type, click.types.FloatParamType):
        described["type"] = "Number"
    else:
        described["type"] = "String"
    if isinstance(option.type, click.Choice):
        described["value-choices"] = list(option.type.choices)
    if option.nargs > 1:
        described |= {"list": True, "min-list-entries": option.nargs, "max-list-entries": option.nargs}
    elif option.multiple:
        described["list"] = True
    return described


def build_descriptor() -> dict[str, Any]:
    """Build the Boutiques descriptor."""
    inputs: list[dict[str, Any]] = [
        {
            "id": "bids_dir",
            "name": "input dataset",
            "description": "fMRIPrep derivatives, or a raw BIDS dataset that contains them.",
            "type": "File",
            "optional": False,
            "value-key": "[BIDS_DIR]",
        },
        {
            "id": "out_dir",
            "name": "output dataset",
            "description": "Directory for the derivatives.",
            "type": "String",
            "optional": False,
            "value-key": "[OUT_DIR]",
        },
        {
            "id": "analysis_level",
            "name": "analysis level",
            "description": "participant processes each run, group analyses all participants.",
            "type": "String",
            "optional": False,
            "value-key": "[ANALYSIS_LEVEL]",
            "value-choices": ["participant", "group"],
        },
        *(describe_option(option) for option in find_options()),
    ]
    return {
        "name": NAME,
        "description": "BIDS App: Brain-Semantoks embeddings of brain dynamics from fMRIPrep derivatives.",
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": " ".join([PROGRAM, *(one["value-key"] for one in inputs)]),
        "container-image": {"type": "singularity", "index": "docker://", "image": f"{IMAGE}:{__version__}"},
        "inputs": inputs,
        "output-files": [
            {
                "id": "out_dir_written",
                "name": "output dataset",
                "description": "BIDS derivatives: time series, connectivity, coverage and embeddings of each run.",
                "path-template": "[OUT_DIR]",
                "optional": False,
            }
        ],
        "error-codes": [{"code": code, "description": text} for code, text in find_exit_codes().items()],
        "suggested-resources": {
            "cpu-cores": RESOURCES["cpus"],
            "ram": RESOURCES["memory_gb"],
            "walltime-estimate": RESOURCES["hours"] * 3600,
        },
        "tags": {"domain": ["neuroinformatics", "fmri"], "standard": ["bids-app"]},
    }


def build_nipoppy_bundle() -> dict[str, dict[str, Any]]:
    """Build the files of a nipoppy processing pipeline."""
    step = {
        "NAME": "participant",
        "ANALYSIS_LEVEL": "participant",
        "INVOCATION_FILE": "invocation.json",
        "DESCRIPTOR_FILE": "descriptor.json",
        "HPC_CONFIG_FILE": "hpc.json",
        "TRACKER_CONFIG_FILE": "tracker.json",
        "GENERATE_PYBIDS_DATABASE": False,
    }
    group = {
        "NAME": "group",
        "ANALYSIS_LEVEL": "group",
        "INVOCATION_FILE": "invocation-group.json",
        "DESCRIPTOR_FILE": "descriptor.json",
        "HPC_CONFIG_FILE": "hpc.json",
        "GENERATE_PYBIDS_DATABASE": False,
    }
    config = {
        "NAME": NAME,
        "VERSION": __version__,
        "DESCRIPTION": "Brain-Semantoks embeddings from fMRIPrep derivatives.",
        "CONTAINER_INFO": {
            "FILE": "[[NIPOPPY_DPATH_CONTAINERS]]/[[PIPELINE_NAME]]_[[PIPELINE_VERSION]].sif",
            "URI": f"docker://{IMAGE}:[[PIPELINE_VERSION]]",
        },
        "CONTAINER_CONFIG": {"ARGS": ["--no-home"], "BIND_PATHS": ["[[ATLAS_DIR]]", "[[MODEL]]"]},
        "STEPS": [step, group],
        "VARIABLES": {
            "FMRIPREP_VERSION": "Version of the fMRIPrep output to read from this dataset.",
            "ATLAS_DIR": "Directory with the atlas files.",
            "MODEL": "File or directory of the encoder.",
        },
        "PIPELINE_TYPE": "processing",
        "SCHEMA_VERSION": "1.0",
    }
    common = {
        "bids_dir": "[[NIPOPPY_DPATH_DERIVATIVES]]/fmriprep/[[FMRIPREP_VERSION]]/output",
        "out_dir": "[[NIPOPPY_DPATH_PIPELINE_OUTPUT]]",
    }
    chosen = {"atlas_dir": "[[ATLAS_DIR]]", "model": ["[[MODEL]]"], "work_dir": "[[NIPOPPY_DPATH_PIPELINE_WORK]]"}
    participant = {"participant_label": ["[[NIPOPPY_PARTICIPANT_ID]]"], "ignore_failed_runs": True}
    known = {option.name for option in find_options()}
    assert {*chosen, *participant} <= known
    return {
        "config.json": config,
        "descriptor.json": build_descriptor(),
        "invocation.json": {**common, "analysis_level": "participant", **participant, **chosen},
        "invocation-group.json": {**common, "analysis_level": "group", **chosen},
        "tracker.json": {
            # A status is written for every run, including failed ones: only results show what is complete.
            "PATHS": [
                "[[NIPOPPY_BIDS_PARTICIPANT_ID]]/**/func/[[NIPOPPY_BIDS_PARTICIPANT_ID]]_*_stat-mean_timeseries.tsv",
                "[[NIPOPPY_BIDS_PARTICIPANT_ID]]/**/func/[[NIPOPPY_BIDS_PARTICIPANT_ID]]_*_embedding.tsv",
            ],
            "PARTICIPANT_SESSION_DIR": "[[NIPOPPY_BIDS_PARTICIPANT_ID]]",
            "SCHEMA_VERSION": "1.0",
        },
        "hpc.json": {
            "ACCOUNT": "[[HPC_ACCOUNT_NAME]]",
            "TIME": f"{RESOURCES['hours']}:00:00",
            "CORES": str(RESOURCES["cpus"]),
            "MEMORY": f"{RESOURCES['memory_gb']}G",
            "ARRAY_CONCURRENCY_LIMIT": "",
        },
    }


def build_babs() -> str:
    """Build the BABS configuration."""
    codes = "\n".join(f"#   {code:3d}  {text}" for code, text in {0: "Success.", **find_exit_codes()}.items())
    return f"""\
# BABS configuration of {NAME} {__version__}; generated by cluster/generate.py.
# Adapt the lines marked CHANGE. The input is an fMRIPrep dataset (a DataLad dataset, not zipped).
input_datasets:
  fmriprep:
    required_files:
      - "func/*_desc-preproc_bold.nii*"
      - "func/*_desc-confounds_*.tsv"
    is_zipped: false
    origin_url: "/path/to/fmriprep"  # CHANGE
    path_in_babs: inputs/data/fmriprep

bids_app_args:
  $SUBJECT_SELECTION_FLAG: "{flag("participant_label")}"
  {flag("work_dir")}: "$BABS_TMPDIR"
  {flag("atlas_dir")}: "/path/to/atlases"  # CHANGE
  {flag("model")}: "/path/to/model"  # CHANGE
  {flag("n_procs")}: "1"
  {flag("omp_nthreads")}: "{RESOURCES["cpus"]}"
  {flag("mem")}: "{RESOURCES["memory_gb"]}G"
  {flag("ignore_failed_runs")}: ""
  {flag("verbose")}: ""

# On a GPU add "--nv" here, `{flag("device")}: "cuda"` above, and "#SBATCH --gres=gpu:1" to customized_text below.
# One participant uses a GPU for only a few seconds: extract on CPUs ({flag("signals_only")}) and embed at group level.
singularity_args:
  - --cleanenv
  - --no-home
  - -B /path/to/atlases  # CHANGE
  - -B /path/to/model  # CHANGE

all_results_in_one_zip: true
zip_foldernames:
  {NAME}: "{__version__.replace(".", "-")}"

cluster_resources:
  interpreting_shell: "/bin/bash"
  hard_memory_limit: {RESOURCES["memory_gb"]}G
  temporary_disk_space: 20G
  number_of_cpus: "{RESOURCES["cpus"]}"
  hard_runtime_limit: "{RESOURCES["hours"]:02d}:00:00"
  customized_text: |
    #SBATCH --requeue

script_preamble: |
  source "${{CONDA_PREFIX}}"/bin/activate babs  # CHANGE

job_compute_space: "/path/to/scratch"  # CHANGE

# The job log ends with a one-line summary. Exit codes of the program:
{codes}
"""


def build_files() -> dict[str, str]:
    """Build all files, by path below this folder."""
    files = {"boutiques/bids_semantoks.json": json.dumps(build_descriptor(), indent=2) + "\n"}
    for name, content in build_nipoppy_bundle().items():
        files[f"nipoppy/{name}"] = json.dumps(content, indent=2) + "\n"
    files["babs/bids_semantoks.yaml"] = build_babs()
    return files


def find_outdated() -> list[str]:
    """Find the files on disk that differ from the current command line."""
    files = build_files()
    return [name for name, text in files.items() if not (HERE / name).is_file() or (HERE / name).read_text() != text]


def check_complete() -> None:
    """Check that every field of the configuration has its option in the descriptor."""
    described = {one["id"] for one in build_descriptor()["inputs"]}
    fields = {field.name for _, stage in find_stages() for field in dataclasses.fields(stage) if field.metadata}
    assert fields <= described, f"missing in the descriptor: {sorted(fields - described)}"


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check_complete()
    outdated = find_outdated()
    if parser.parse_args().check:
        sys.exit(f"out of date, run cluster/generate.py: {', '.join(outdated)}" if outdated else 0)
    for name in outdated:
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(build_files()[name], encoding="utf-8")
        print(f"wrote cluster/{name}")


if __name__ == "__main__":
    main()
