"""Export the embeddings of an output directory as one table: ``bids_semantoks-export OUT_DIR FILE``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bids_semantoks.commands.running import run_command
from bids_semantoks.config import EmbeddingConfig, SignalsConfig
from bids_semantoks.errors import ConfigurationError, LegibleParser, show_hidden
from bids_semantoks.runtime.logs import open_missing_streams


def export(options: argparse.Namespace) -> None:
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


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this program's arguments."""
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


def call(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (default: those of the process) and return its exit code."""
    options = build_parser().parse_args(arguments)
    return run_command("bids_semantoks-export", lambda: export(options))


def main() -> NoReturn:
    """Run the program with this process' arguments and exit."""
    open_missing_streams()
    sys.exit(call())


if __name__ == "__main__":
    main()
