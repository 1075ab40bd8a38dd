"""Write a synthetic study from the command line: ``python -m bids_semantoks.demo OUT_DIR``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bids_semantoks.demo.parcellated import write_parcellated
from bids_semantoks.demo.study import write_study
from bids_semantoks.errors import ResourceError, SemantoksError

_NEXT = """Next, to see what would happen and to let it happen:
  bids_semantoks {root} {out} participant --atlas Demo457 --model random:tiny --dry-run
  bids_semantoks {root} {out} participant --atlas Demo457 --model random:tiny"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, write the study and say what to do with it.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bids_semantoks.demo",
        description="Write a synthetic resting-state study whose truth is known, to try bids_semantoks on.",
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="new folder, or an earlier demo to be replaced")
    parser.add_argument("--participants", metavar="N", type=int, help="participants [24; 400 with --parcellated]")
    parser.add_argument("--seed", metavar="N", type=_parse_seed, default=0, help="seed of everything random [0]")
    parser.add_argument(
        "--parcellated",
        action="store_true",
        help="write parcellated series without voxels instead of fMRIPrep derivatives",
    )
    parser.add_argument("--short", action="store_true", help="runs of 136 s instead of 6 minutes, for quick trials")
    options = parser.parse_args(arguments)
    try:
        _write(options)
    except SemantoksError as error:
        print(f"bids_semantoks.demo: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"bids_semantoks.demo: OUT_DIR cannot be written: {error}.", file=sys.stderr)
        return ResourceError.exit_code
    return 0


def _parse_seed(text: str) -> int:
    """Read a seed, which NumPy wants to be 0 or more."""
    seed = int(text)
    if seed < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, found {seed}")
    return seed


def _write(options: argparse.Namespace) -> None:
    started, root = time.perf_counter(), options.out_dir
    write = write_parcellated if options.parcellated else write_study
    default = 400 if options.parcellated else 24
    number = default if options.participants is None else options.participants
    write(root, n_participants=number, seed=options.seed, short=options.short)
    kind = "parcellated series" if options.parcellated else "a raw BIDS root and derivatives/fmriprep"
    print(f"Wrote {number} synthetic participants to {root} in {time.perf_counter() - started:.0f} s: {kind}.")
    print(f"The truth about them lies in {root / 'code' / 'truth'}.")
    out = (
        root.absolute().with_name(f"{root.absolute().name}_semantoks")
        if options.parcellated
        else root / "derivatives" / "bids_semantoks"
    )
    print(_NEXT.format(root=root, out=out))


if __name__ == "__main__":
    sys.exit(main())
