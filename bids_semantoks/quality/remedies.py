"""What to do about runs that are not usable, by the code of their reason."""

from __future__ import annotations

from typing import Final

#: Remedies for the reasons of RunFailed and RunSkipped, and for those that only a cohort has.
REMEDIES: Final = {
    "unreadable_name": "Rename the file to follow BIDS; the message shows which part of the name is invalid.",
    "no_mask": "fMRIPrep writes a brain mask (_desc-brain_mask) next to each BOLD image. Copy it there, or rerun "
    "fMRIPrep for this participant.",
    "no_confounds": "Copy the run's _desc-confounds_timeseries.tsv next to its image, rerun fMRIPrep for this "
    "participant, or use --denoise none.",
    "no_repetition_time": "Add RepetitionTime to the JSON sidecar of the BOLD image.",
    "bad_confounds": "The confounds table is damaged or lacks columns that the preset requires. Copy it again, or "
    "choose another --denoise preset.",
    "bad_image": "The image is damaged or incomplete. Copy or download it again, or rerun the preprocessing.",
    "damaged_table": "An output table was modified or damaged; rerun the participant level to recreate it.",
    "space_mismatch": "Choose a --space that all runs have, or rerun fMRIPrep with that space (--output-spaces).",
    "low_coverage": "Check the brain mask and the field of view of the run; --min-coverage sets the limit.",
    "out_of_memory": "Use fewer processes (--n-procs) or more memory, and rerun.",
    "disk_full": "Free disk space for OUT_DIR, and rerun.",
    "internal": "See the message and the log in logs/calls. Rerun to process runs that were not attempted; "
    "please report bugs.",
    "too_short": "The run is too short for a reliable embedding; --min-time sets the limit.",
    "too_few_kept": "Too little data remain after scrubbing; --min-time sets the limit, --fd-threshold the scrubbing.",
    "no_content": "The content of the file has not been fetched: run datalad get.",
    "excluded": "Excluded by --exclude-by or --exclude-runs in the last group call.",
    "other_preparation": "Preparations are compared on scans that all of them have: process this run there as well, or "
    "omit that preparation.",
    "no_derivatives": "Run fMRIPrep for these participants, or check its logs: the dataset lists them, but the "
    "derivatives contain no runs of theirs.",
}
