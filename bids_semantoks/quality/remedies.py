"""What to do about runs that are not usable, by the code of their reason."""

from __future__ import annotations

from typing import Final

#: Remedies for the reasons of RunFailed and RunSkipped, and for those that only a cohort has.
REMEDIES: Final = {
    "unreadable_name": "Rename the file as BIDS asks for; the message says which part of its name cannot be read.",
    "no_mask": "fMRIPrep writes a brain mask (_desc-brain_mask) beside each BOLD image. Copy it there, or run fMRIPrep "
    "again for this participant.",
    "no_confounds": "Copy the run's _desc-confounds_timeseries.tsv beside its image, run fMRIPrep again for this "
    "participant, or choose --denoise none.",
    "no_repetition_time": "State RepetitionTime in the JSON sidecar of the BOLD image.",
    "bad_confounds": "The table of confounds is damaged or lacks columns of the preset. Copy it again, or choose "
    "another --denoise.",
    "bad_image": "The image is damaged or incomplete. Copy or fetch it again, or run the preprocessing again.",
    "damaged_table": "A table of ours was changed or damaged on disk; the participant level makes it again.",
    "space_mismatch": "Choose a --space that all runs have, or have fMRIPrep write that space (--output-spaces).",
    "low_coverage": "Look at the brain mask and the field of view of the run; --min-coverage states the limit.",
    "out_of_memory": "Use fewer processes (--n-procs) or more memory, and repeat the call.",
    "disk_full": "Make room on the disk of OUT_DIR, and repeat the call.",
    "internal": "Read the message and the log in logs/calls. Runs that were not tried are made by the same call; "
    "report errors of the program.",
    "too_short": "Such runs lack the data for an embedding to be reliable; --min-time states the limit.",
    "too_few_kept": "Too little is left after scrubbing. --min-time states the limit, --fd-threshold what is scrubbed.",
    "no_content": "The file is only a link into datalad's annex: datalad get fetches it.",
    "excluded": "Excluded by --exclude-by or --exclude-runs of the last group call.",
    "no_derivatives": "Run fMRIPrep for these participants, or read its logs: the dataset lists them, but the "
    "derivatives have no run of theirs.",
}
