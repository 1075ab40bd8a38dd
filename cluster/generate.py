"""Write the files that other systems start or list the program by, from the definition of its command line.

Usage: python cluster/generate.py [--check]

Boutiques descriptor, nipoppy pipelines and BABS configurations name options, their types, choices and exit codes;
taking them from where the command line itself is made keeps them right. Texts of listings are those of pyproject.toml.
With ``--check`` nothing is written, and files that are out of date are named with exit code 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from bids_semantoks import errors as errors_module
from bids_semantoks.config.command import build_options, find_stages
from bids_semantoks.errors import RunError, SemantoksError
from bids_semantoks.version import __version__

HERE = Path(__file__).resolve().parent
NAME = "bids_semantoks"
#: Of the source and of the image, as their owner would publish them.
IMAGE = f"{NAME}/{NAME}"
PAPER = "2512.11582"
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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


def build_descriptor(stages: Collection[str] = ()) -> dict[str, Any]:
    """Build the Boutiques descriptor; with `stages` of the configuration, it has their options and the atlas alone."""
    fields = {field.name for name, stage in find_stages() if name in stages for field in dataclasses.fields(stage)}
    chosen = {*fields, "atlas", "atlas_dir"} if stages else {str(option.name) for option in find_options()}
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
        *(describe_option(option) for option in find_options() if option.name in chosen),
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


def build_nipoppy_bundles() -> dict[str, dict[str, Any]]:
    """Build the files of two nipoppy pipelines: processing is the participant level, extraction the group level."""
    files = {"INVOCATION_FILE": "invocation.json", "DESCRIPTOR_FILE": "descriptor.json", "HPC_CONFIG_FILE": "hpc.json"}
    step = {"NAME": "participant", "ANALYSIS_LEVEL": "participant", **files}
    config = {
        "NAME": NAME,
        "VERSION": __version__,
        "DESCRIPTION": "Brain-Semantoks embeddings from fMRIPrep derivatives.",
        "CONTAINER_INFO": {
            # Both pipelines run in one container.
            "FILE": f"[[NIPOPPY_DPATH_CONTAINERS]]/{NAME}_[[PIPELINE_VERSION]].sif",
            "URI": f"docker://{IMAGE}:[[PIPELINE_VERSION]]",
        },
        "CONTAINER_CONFIG": {"ARGS": ["--no-home"], "BIND_PATHS": ["[[ATLAS_DIR]]", "[[MODEL]]"]},
        "STEPS": [{**step, "TRACKER_CONFIG_FILE": "tracker.json", "GENERATE_PYBIDS_DATABASE": False}],
        "VARIABLES": {
            "FMRIPREP_VERSION": "Version of the fMRIPrep output to read from this dataset.",
            "ATLAS_DIR": "Directory with the atlas files.",
            "MODEL": "File or directory of the encoder.",
        },
        "PIPELINE_TYPE": "processing",
        "SCHEMA_VERSION": "1.0",
    }
    extraction = {
        "NAME": f"{NAME}_features",
        "DESCRIPTION": "Mean Brain-Semantoks embeddings of participants and sessions.",
        "STEPS": [{**step, "NAME": "group", "ANALYSIS_LEVEL": "group"}],
        "PIPELINE_TYPE": "extraction",
        "PROC_DEPENDENCIES": [{"NAME": NAME, "VERSION": __version__, "STEP": step["NAME"]}],
    }
    common = {
        "bids_dir": "[[NIPOPPY_DPATH_DERIVATIVES]]/fmriprep/[[FMRIPREP_VERSION]]/output",
        "out_dir": "[[NIPOPPY_DPATH_PIPELINE_OUTPUT]]",
    }
    chosen = {"atlas_dir": "[[ATLAS_DIR]]", "model": ["[[MODEL]]"], "work_dir": "[[NIPOPPY_DPATH_PIPELINE_WORK]]"}
    participant = {"participant_label": ["[[NIPOPPY_PARTICIPANT_ID]]"], "ignore_failed_runs": True}
    known = {option.name for option in find_options()}
    assert {*chosen, *participant} <= known
    hpc = {
        "ACCOUNT": "[[HPC_ACCOUNT_NAME]]",
        "TIME": f"{RESOURCES['hours']}:00:00",
        "CORES": str(RESOURCES["cpus"]),
        "MEMORY": f"{RESOURCES['memory_gb']}G",
        "ARRAY_CONCURRENCY_LIMIT": "",
    }
    # Title and creators are nipoppy's default and the person who uploads.
    record = {
        "rights": [{"id": PROJECT["license"].lower()}],
        "subjects": [{"subject": one} for one in PROJECT["keywords"]],
    }
    return {
        "processing/zenodo.json": record,
        "extraction/zenodo.json": record,
        "processing/config.json": config,
        "processing/descriptor.json": build_descriptor(),
        "processing/invocation.json": {**common, "analysis_level": "participant", **participant, **chosen},
        "processing/tracker.json": {
            # A status is written for every run, including failed ones: only results show what is complete.
            "PATHS": [
                "[[NIPOPPY_BIDS_PARTICIPANT_ID]]/**/func/[[NIPOPPY_BIDS_PARTICIPANT_ID]]_*_stat-mean_timeseries.tsv",
                "[[NIPOPPY_BIDS_PARTICIPANT_ID]]/**/func/[[NIPOPPY_BIDS_PARTICIPANT_ID]]_*_embedding.tsv",
            ],
            "PARTICIPANT_SESSION_DIR": "[[NIPOPPY_BIDS_PARTICIPANT_ID]]",
            "SCHEMA_VERSION": "1.0",
        },
        "processing/hpc.json": hpc,
        "extraction/config.json": config | extraction,
        "extraction/descriptor.json": build_descriptor(("selection", "embedding", "running")),
        "extraction/invocation.json": {**common, "analysis_level": "group", **chosen},
        "extraction/hpc.json": hpc,
    }


def build_babs(*, is_zipped: bool = False) -> str:
    """Build the BABS configuration, for fMRIPrep output as it is or as BABS itself leaves it: a zip a participant."""
    files = "is_zipped: true"
    if not is_zipped:
        files = """required_files:
      - "func/*_desc-preproc_bold.nii*"
      - "func/*_desc-confounds_*.tsv"
    is_zipped: false"""
    kept = "zipped as BABS does it: fmriprep/ in sub-01[_ses-1]_fmriprep-24-1-1.zip" if is_zipped else "not zipped"
    codes = "\n".join(f"#   {code:3d}  {text}" for code, text in {0: "Success.", **find_exit_codes()}.items())
    return f"""\
# BABS configuration of {NAME} {__version__}; generated by cluster/generate.py.
# Adapt the lines marked CHANGE. The input is a DataLad dataset of fMRIPrep output,
# {kept}.
input_datasets:
  fmriprep:
    {files}
    origin_url: "/path/to/fmriprep"  # CHANGE
    path_in_babs: inputs/data/fmriprep

bids_app_args:
  $SUBJECT_SELECTION_FLAG: "{flag("participant_label")}"
  # $SESSION_SELECTION_FLAG: "{flag("session_id")}"  # with --processing-level session
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


def build_listings() -> dict[str, str]:
    """Build what a person sends to registers of software: metadata of records on Zenodo and two entries in YAML."""
    bids_apps = f"""\
# data/tools/apps.yml of bids-standard/bids-website, among the apps that are hosted elsewhere (sorted by dh).
-   gh: {IMAGE}
    dh: {IMAGE}
    status: active
    ci: gh
    branch: main
    workflow: test
    ds_type:
    -   derivative
    datatype:
    -   func
    description: "{PROJECT["description"].removeprefix("BIDS App: ")}"
"""
    neurodesk = f"""\
# recipes/{NAME.replace("_", "")}/build.yaml of NeuroDesk/neurocontainers.
name: {NAME.replace("_", "")}
version: {__version__}
architectures:
  - x86_64
structured_readme:
  description: "{PROJECT["description"]}"
  example: |-
    {NAME} /data/bids /data/out participant {flag("atlas_dir")} /data/atlases {flag("model")} /data/model
    {NAME} /data/bids /data/out group {flag("atlas_dir")} /data/atlases {flag("model")} /data/model
  documentation: https://github.com/{IMAGE}
  citation: |-
    The paper of the model, https://arxiv.org/abs/{PAPER}, and this software.
    OUT_DIR/logs/CITATION.md has a methods text with all that was used.
copyright:
  - license: {PROJECT["license"]}
    url: https://spdx.org/licenses/{PROJECT["license"]}.html
build:
  kind: neurodocker
  base-image: {IMAGE}:{__version__}
  pkg-manager: apt
  # The image has all that it needs.
  add-default-template: false
  directives:
    - test:
        name: version
        script: {PROGRAM} --version
deploy:
  bins:
{chr(10).join(f"    - {name}" for name in PROJECT["scripts"])}
  path:
    - {Path(PROGRAM).parent}
"""
    zenodo = {
        "title": f"{NAME} {__version__}",
        "description": PROJECT["description"],
        "upload_type": "software",
        "version": __version__,
        "license": PROJECT["license"],
        "creators": PROJECT["authors"],
        "keywords": PROJECT["keywords"],
        "related_identifiers": [{"identifier": f"arXiv:{PAPER}", "relation": "cites"}],
    }
    texts = (bids_apps, neurodesk, json.dumps(zenodo, indent=2) + "\n")
    return dict(zip(("listings/bids_apps.yml", "listings/neurodesk.yaml", "listings/zenodo.json"), texts, strict=True))


def build_files() -> dict[str, str]:
    """Build all files, by path below this folder."""
    files = {"boutiques/bids_semantoks.json": json.dumps(build_descriptor(), indent=2) + "\n"}
    for name, content in build_nipoppy_bundles().items():
        files[f"nipoppy/{name}"] = json.dumps(content, indent=2) + "\n"
    for is_zipped in (False, True):
        files[f"babs/{NAME}{'_zipped' if is_zipped else ''}.yaml"] = build_babs(is_zipped=is_zipped)
    return files | build_listings()


def find_outdated() -> list[str]:
    """Find the files on disk that differ from the current command line."""
    return [
        name for name, text in build_files().items() if not (path := HERE / name).is_file() or path.read_text() != text
    ]


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
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / name).write_text(build_files()[name], encoding="utf-8")
        print(f"wrote cluster/{name}")


if __name__ == "__main__":
    main()
