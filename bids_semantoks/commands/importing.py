"""Convert arrays and tables of parcel series to a BIDS dataset: ``bids_semantoks-import FILES OUT``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bids_semantoks.commands.running import run_command
from bids_semantoks.errors import LegibleParser, show_hidden
from bids_semantoks.runtime.logs import open_missing_streams

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
    print(f"{n_runs} run{'' if n_runs == 1 else 's'} of parcel series in {out}.")
    print(_NEXT.format(out=out))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this program's arguments."""
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


def call(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (default: those of the process) and return its exit code."""
    # Options may stand between the files and OUT.
    options = build_parser().parse_intermixed_args(arguments)
    return run_command("bids_semantoks-import", lambda: _import(options))


def main() -> NoReturn:
    """Run the program with this process' arguments and exit."""
    open_missing_streams()
    sys.exit(call())


if __name__ == "__main__":
    main()
