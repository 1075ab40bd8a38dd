"""Import series as a dataset, export embeddings as a table, and publish an encoder on the Hugging Face hub."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import Final

from bids_semantoks.commands import Program
from bids_semantoks.config import EmbeddingConfig, SignalsConfig
from bids_semantoks.disk import open_folder
from bids_semantoks.errors import ConfigurationError, LegibleParser, ModelError, ResourceError, name_count, show_hidden
from bids_semantoks.runtime.downloads import is_offline

_ID_COLUMNS = ("participant_id", "subject_id", "id")
_NEXT = """To embed them:
  bids_semantoks {out} OUT_DIR participant"""


def _import(options: argparse.Namespace) -> None:
    # NumPy, SciPy and nibabel would slow down --help.
    from bids_semantoks.exchange.importing import find_series, import_series
    from bids_semantoks.inputs.people_tables import read_phenotype_table

    people = read_phenotype_table(options.table, _ID_COLUMNS) if options.table else None
    n_people = len(people.keys) if people else 0
    n_runs = import_series(
        find_series(options.files, pattern=options.pattern, variable=options.variable, n_people=n_people),
        options.out,
        repetition_time=options.repetition_time,
        atlas=options.atlas,
        people=people,
        volumes=options.volumes or "",
        task=options.task,
    )
    out = show_hidden(str(options.out))
    print(f"{name_count(n_runs, 'run')} of parcel series in {out}.")
    print(_NEXT.format(out=out))


def build_import_parser() -> argparse.ArgumentParser:
    """Build the parser of ``bids_semantoks-import``."""
    parser = LegibleParser(
        prog="bids_semantoks-import",
        description="Convert arrays and tables of parcel series (.npy, .npz, .mat, .csv, .tsv, .txt, .1D; one file per "
        "run, or one stack of all participants) to a BIDS dataset for bids_semantoks.",
    )
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="series of one run, or a stack")
    parser.add_argument("out", metavar="OUT", type=Path, help="new or empty folder of the dataset")
    parser.add_argument(
        "--repetition-time", metavar="SECONDS", type=float, required=True, help="repetition time of the series"
    )
    parser.add_argument(
        "--atlas",
        metavar="NAME_OR_TABLE",
        required=True,
        help="order of the parcels: Schaefer400-7Networks or others shipped with this package, or a table (index, "
        "label, network_label)",
    )
    parser.add_argument(
        "--table",
        metavar="FILE",
        type=Path,
        help="participants table (TSV or CSV); its rows label the participants of a stack",
    )
    parser.add_argument(
        "--pattern",
        metavar="TEXT",
        default="",
        help="pattern of file names, e.g. '*_{sub}_{ses}_rois.csv', or a regular expression with named groups "
        "[names with sub-LABEL]",
    )
    parser.add_argument(
        "--variable", metavar="NAME", default="", help="name of the array in .npz and .mat files [the only one]"
    )
    parser.add_argument(
        "--volumes", choices=("rows", "columns"), help="axis of the volumes [the one that does not match the parcels]"
    )
    parser.add_argument("--task", metavar="LABEL", default="rest", help="task label if file names have none [rest]")
    return parser


IMPORT: Final = Program(build_import_parser, _import, is_intermixed=True)


def _export(options: argparse.Namespace) -> None:
    """Write the requested table and print a summary. Raises SemantoksError as `load_outputs`."""
    # pandas would slow down --help.
    from bids_semantoks.analyses.output_frames import add_phenotypes
    from bids_semantoks.exchange.cohort_tables import check_format, write_cohort_table
    from bids_semantoks.tables import load_outputs

    path: Path = options.file
    check_format(path, as_list=options.as_list)
    if options.columns and not options.phenotype:
        raise ConfigurationError("--columns requires --phenotype.")
    written = [path, *([path.with_suffix(".json")] if path.suffix == ".csv" else [])]
    if (there := [one for one in written if one.exists()]) and not options.overwrite:
        raise ConfigurationError(f"{there[0]} already exists.", hint="Choose another file, or use --overwrite.")
    frame = load_outputs(
        options.out_dir,
        level=options.level,
        model=options.model,
        atlas=options.atlas,
        space=options.space,
        min_kept=options.min_kept or None,
    )
    if options.phenotype:
        frame = add_phenotypes(frame, options.phenotype, options.columns)
    write_cohort_table(frame, path, as_list=options.as_list, is_raw=options.raw)
    n_dims = sum(name.startswith("dim") for name in frame.columns)
    size = path.stat().st_size / 1e6
    print(f"{show_hidden(str(path))}: {len(frame)} rows (one per {options.level}), {n_dims} dimensions, {size:.1f} MB")


def build_export_parser() -> argparse.ArgumentParser:
    """Build the parser of ``bids_semantoks-export``."""
    parser = LegibleParser(
        prog="bids_semantoks-export",
        description="Export the embeddings of an output directory as one table: labels, quality, phenotypes and "
        "dimensions (float32), with encoder, settings and versions as metadata.",
        epilog="Parquet requires the optional dependencies bids_semantoks[parquet].",
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="output directory of the participant level")
    parser.add_argument("file", metavar="FILE", type=Path, help="output file: .parquet, .npz or .csv")
    parser.add_argument(
        "--level", choices=("participant", "session", "run", "window"), default="participant", help="[participant]"
    )
    parser.add_argument("--model", metavar="NAME", help="encoder; required if there are several")
    atlas = SignalsConfig().atlas
    parser.add_argument(
        "--atlas", metavar="NAME", default=atlas, help=f"atlas; required if there are several [{atlas}]"
    )
    parser.add_argument("--space", metavar="NAME", help="space; required if there are several")
    parser.add_argument("--phenotype", metavar="FILE", type=Path, help="table or dataset with columns to add")
    parser.add_argument("--columns", metavar="NAME", nargs="+", default=[], help="columns of --phenotype [all]")
    usual = EmbeddingConfig().min_kept
    parser.add_argument(
        "--min-kept",
        metavar="SHARE",
        type=float,
        default=usual,
        help=f"exclude windows with less kept data if there are better ones; 0 weights all alike [{usual}]",
    )
    parser.add_argument("--as-list", action="store_true", help="Parquet: one list column instead of one per dimension")
    parser.add_argument(
        "--raw", action="store_true", help="CSV: do not escape text that a spreadsheet would interpret as a formula"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    return parser


EXPORT: Final = Program(build_export_parser, _export)


#: Files to publish in addition to the weights: the course of the training.
_BESIDE: Final = ("training_log.tsv", "training_log.json", "figures")


def _prepare(options: argparse.Namespace, out_dir: Path) -> None:
    """Write the files to publish of an encoder that was pretrained with this program, without its list of participants;
    the folder gets its name once it is complete. Raises ModelError if the encoder is not ours or damaged,
    ConfigurationError if `out_dir` exists, or if licence or terms are missing."""
    # torch would slow down --help.
    from bids_semantoks.files import hash_file, read_object, write_json
    from bids_semantoks.models.checkpoints import load_encoder
    from bids_semantoks.models.hub import CONFIG_FILE, HubName, parse_repository
    from bids_semantoks.models.weight_files import WEIGHTS_FILE
    from bids_semantoks.pretraining.card import Terms, write_model_card
    from bids_semantoks.reports.figures import FIGURES

    name = parse_repository(options.repository)
    if name != HubName(options.repository):
        raise ConfigurationError(f"{options.repository} is not a repository on the hub: expected ORG/NAME.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", options.license):
        raise ConfigurationError(
            f"--license {options.license!r}: expected a licence identifier of the hub, such as cc-by-nc-4.0, "
            "apache-2.0 or other."
        )
    if not options.data_terms.strip():
        raise ConfigurationError(
            "--data-terms is empty.",
            hint="State which data the weights derive from, and that their terms of use permit publication.",
        )
    if not (options.encoder / CONFIG_FILE).is_file():
        raise ModelError(f"{options.encoder} has no {CONFIG_FILE}: expected a folder written by --pretrain.")
    load_encoder(str(options.encoder))
    if out_dir.exists():
        raise ConfigurationError(f"{out_dir} already exists.", hint="Remove it, or choose another folder with --out.")
    with open_folder(out_dir) as partial:
        config = read_object(options.encoder / CONFIG_FILE)
        details = {key: value for key, value in config["details"].items() if key != "participants"}
        write_json(partial / CONFIG_FILE, {**config, "details": details})
        shutil.copyfile(options.encoder / WEIGHTS_FILE, partial / WEIGHTS_FILE)
        for path in (options.encoder / one for one in _BESIDE):
            if path.is_dir():
                shutil.copytree(path, partial / path.name, ignore=shutil.ignore_patterns(".*"))
            elif path.is_file():
                shutil.copyfile(path, partial / path.name)
        write_model_card(
            partial,
            name=options.repository.rpartition("/")[2],
            sha256=hash_file(partial / WEIGHTS_FILE),
            details=details,
            drawn=[one for one in FIGURES if (partial / "figures" / f"{one}.svg").is_file()],
            terms=Terms(options.repository, options.license, options.data_terms, tuple(options.dataset)),
        )


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a prepared folder and return its address. Raises ResourceError if the hub rejects it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if is_offline():
        raise ResourceError("Uploads are disabled (HF_HUB_OFFLINE).", hint="Unset it, and upload the prepared folder.")
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder).commit_url)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise ResourceError(
            f"{repository} was not uploaded: {str(error).strip():.300}.",
            hint=f"Log in with a write token (hf auth login); {folder} is unchanged.",
        ) from error


def _publish(options: argparse.Namespace) -> None:
    out_dir = options.out or Path(options.repository.rpartition("/")[2])
    if not (options.upload and out_dir.is_dir()):
        _prepare(options, out_dir)
    print(f"Prepared in {show_hidden(str(out_dir))}; check its README.md before sharing it.")
    if options.upload:
        print(f"Uploaded: {show_hidden(upload(out_dir, options.repository, private=not options.public))}")


def build_publish_parser() -> argparse.ArgumentParser:
    """Build the parser of ``bids_semantoks-publish``."""
    parser = LegibleParser(
        prog="bids_semantoks-publish",
        description="Prepare a pretrained encoder for the Hugging Face Hub: weights, configuration without "
        "the list of participants, training log and model card.",
        epilog="No licence is assumed: the terms of use of the training data (e.g. UK Biobank, ABCD, HCP) determine "
        "whether the weights may be shared.",
    )
    parser.add_argument("encoder", metavar="ENCODER", type=Path, help="folder written by --pretrain")
    parser.add_argument("repository", metavar="ORG/NAME", help="repository on the hub")
    parser.add_argument("--license", metavar="ID", required=True, help="licence of the weights, e.g. cc-by-nc-4.0")
    parser.add_argument(
        "--data-terms",
        metavar="TEXT",
        required=True,
        help="data the weights derive from, and the terms of use that permit their publication",
    )
    parser.add_argument("--dataset", metavar="NAME", nargs="+", default=[], help="training datasets on the hub")
    parser.add_argument("--out", metavar="DIR", type=Path, help="output folder [./NAME]")
    parser.add_argument("--upload", action="store_true", help="upload the folder, including one prepared earlier")
    parser.add_argument("--public", action="store_true", help="make a new repository public [private]")
    return parser


PUBLISH: Final = Program(build_publish_parser, _publish)
