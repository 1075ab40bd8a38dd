"""Write a synthetic study, or show what was found in it, from the command line: ``python -m bids_semantoks.demo``."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bids_semantoks.demo.study import write_parcellated, write_study
from bids_semantoks.errors import LegibleParser, ResourceError, SemantoksError, show_hidden
from bids_semantoks.runtime.logs import show_log

_NEXT = """Next, to see what would happen and to let it happen:
  bids_semantoks {root} {out} participant --atlas Demo457 --model random:tiny --dry-run
  bids_semantoks {root} {out} participant --atlas Demo457 --model random:tiny"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the study that the arguments ask for, print the next steps and return the exit code."""
    parser = LegibleParser(
        prog="python -m bids_semantoks.demo",
        description="Write a synthetic resting-state study whose truth is known, to try bids_semantoks on.",
    )
    parser.add_argument(
        "out_dir",
        metavar="OUT_DIR",
        type=Path,
        help="new folder, or an earlier demo to be replaced; with --show: folder with the outputs of bids_semantoks",
    )
    parser.add_argument("--participants", metavar="N", type=int, help="participants [24; 400 with --parcellated]")
    parser.add_argument("--seed", metavar="N", type=_parse_seed, default=0, help="seed of everything random [0]")
    parser.add_argument(
        "--parcellated",
        action="store_true",
        help="write parcellated series without voxels instead of fMRIPrep derivatives",
    )
    parser.add_argument("--short", action="store_true", help="runs of 136 s instead of 6 minutes, for quick trials")
    parser.add_argument(
        "--task", action="store_true", help="with --parcellated: a run with blocks of a task for each participant, too"
    )
    parser.add_argument(
        "--incomplete",
        action="store_true",
        help="leave out the confounds table of the last participant, whose run then fails",
    )
    parser.add_argument(
        "--show", action="store_true", help="write nothing; print the scores that probes of the study reached"
    )
    options = parser.parse_args(arguments)
    if options.show:
        return _show(options.out_dir)
    if options.task and not options.parcellated:
        parser.error("--task needs --parcellated")
    if options.incomplete and options.parcellated:
        parser.error("--incomplete contradicts --parcellated, whose series need no confounds")
    started = time.perf_counter()
    default = 400 if options.parcellated else 24
    number = default if options.participants is None else options.participants
    study = {"n_participants": number, "seed": options.seed, "short": options.short}
    try:
        with show_log():
            if options.parcellated:
                write_parcellated(options.out_dir, task=options.task, **study)
            else:
                write_study(options.out_dir, incomplete=options.incomplete, **study)
    except SemantoksError as error:
        print(f"bids_semantoks.demo: {show_hidden(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"bids_semantoks.demo: OUT_DIR cannot be written: {show_hidden(str(error))}.", file=sys.stderr)
        return ResourceError.exit_code
    root, seconds = options.out_dir, time.perf_counter() - started
    kind, out = "a raw BIDS root and derivatives/fmriprep", root / "derivatives" / "bids_semantoks"
    if options.parcellated:
        kind, out = "parcellated series", root.absolute().with_name(f"{root.absolute().name}_semantoks")
    print(f"Wrote {number} synthetic participants to {show_hidden(str(root))} in {seconds:.0f} s: {kind}.")
    print(f"The truth about them lies in {show_hidden(str(root / 'code' / 'truth'))}.")
    print(_NEXT.format(root=show_hidden(shlex.quote(str(root))), out=show_hidden(shlex.quote(str(out)))))
    return 0


def _show(out_dir: Path) -> int:
    """Print the findings and return the exit code."""
    from bids_semantoks.demo.findings import describe_findings  # noqa: PLC0415 - pandas is slow to load

    try:
        lines = describe_findings(out_dir)
    except SemantoksError as error:
        print(f"bids_semantoks.demo: {show_hidden(str(error))}", file=sys.stderr)
        return error.exit_code
    print("\n".join(map(show_hidden, lines)))
    return 0


def _parse_seed(text: str) -> int:
    """Parse a seed; NumPy refuses negative ones."""
    seed = int(text)
    if seed < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, found {seed}")
    return seed


if __name__ == "__main__":
    sys.exit(main())
