"""Prepare an encoder for the Hugging Face hub: ``bids_semantoks-publish ENCODER ORG/NAME``."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from bids_semantoks.commands.running import run_command
from bids_semantoks.disk import open_folder
from bids_semantoks.errors import ConfigurationError, LegibleParser, ModelError, ResourceError, show_hidden
from bids_semantoks.runtime.downloads import is_offline
from bids_semantoks.runtime.logs import open_missing_streams

#: Files to publish in addition to the weights: the course of the training.
_BESIDE: Final = ("training_log.tsv", "training_log.json", "figures")


def publish(
    encoder: Path, repository: str, out_dir: Path, *, license_id: str, data_terms: str, datasets: Sequence[str]
) -> None:
    """Write the files to publish of an encoder that was pretrained with this program, without its list of participants.

    The folder gets its name once it is complete. Raises ModelError if `encoder` is not ours or damaged,
    ConfigurationError if `out_dir` exists, or if licence or terms are missing.
    """
    # torch would slow down --help.
    from bids_semantoks.files import hash_file, read_object, write_json
    from bids_semantoks.models.checkpoints import load_encoder
    from bids_semantoks.models.hub import CONFIG_FILE, HubName, parse_repository
    from bids_semantoks.models.weight_files import WEIGHTS_FILE
    from bids_semantoks.pretraining.card import Terms, write_model_card
    from bids_semantoks.reports.figures import FIGURES

    name = parse_repository(repository)
    if name != HubName(repository):
        raise ConfigurationError(f"{repository} is not a repository on the hub: expected ORG/NAME.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license_id):
        raise ConfigurationError(
            f"--license {license_id!r}: expected a licence identifier of the hub, such as cc-by-nc-4.0, apache-2.0 or "
            "other."
        )
    if not data_terms.strip():
        raise ConfigurationError(
            "--data-terms is empty.",
            hint="State which data the weights derive from, and that their terms of use permit publication.",
        )
    if not (encoder / CONFIG_FILE).is_file():
        raise ModelError(f"{encoder} has no {CONFIG_FILE}: expected a folder written by --pretrain.")
    load_encoder(str(encoder))
    if out_dir.exists():
        raise ConfigurationError(f"{out_dir} already exists.", hint="Remove it, or choose another folder with --out.")
    with open_folder(out_dir) as partial:
        config = read_object(encoder / CONFIG_FILE)
        details = {key: value for key, value in config["details"].items() if key != "participants"}
        write_json(partial / CONFIG_FILE, {**config, "details": details})
        shutil.copyfile(encoder / WEIGHTS_FILE, partial / WEIGHTS_FILE)
        for path in (encoder / one for one in _BESIDE):
            if path.is_dir():
                shutil.copytree(path, partial / path.name, ignore=shutil.ignore_patterns(".*"))
            elif path.is_file():
                shutil.copyfile(path, partial / path.name)
        write_model_card(
            partial,
            name=repository.rpartition("/")[2],
            sha256=hash_file(partial / WEIGHTS_FILE),
            details=details,
            drawn=[one for one in FIGURES if (partial / "figures" / f"{one}.svg").is_file()],
            terms=Terms(repository, license_id, data_terms, tuple(datasets)),
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
        publish(
            options.encoder,
            options.repository,
            out_dir,
            license_id=options.license,
            data_terms=options.data_terms,
            datasets=options.dataset,
        )
    print(f"Prepared in {show_hidden(str(out_dir))}; check its README.md before sharing it.")
    if options.upload:
        print(f"Uploaded: {show_hidden(upload(out_dir, options.repository, private=not options.public))}")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this program's arguments."""
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


def call(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (default: those of the process) and return its exit code."""
    options = build_parser().parse_args(arguments)
    return run_command("bids_semantoks-publish", lambda: _publish(options))


def main() -> NoReturn:
    """Run the program with this process' arguments and exit."""
    open_missing_streams()
    sys.exit(call())


if __name__ == "__main__":
    main()
