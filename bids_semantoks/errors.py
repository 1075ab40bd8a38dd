"""Errors shown to users, each with its exit code and a hint."""

from __future__ import annotations

import functools
from collections.abc import Sequence


class SemantoksError(Exception):
    """Base of errors that end a call; the message has what was found where and what was expected, the hint a remedy."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InputError(SemantoksError):
    """A directory, participant, session, task, filter, space or phenotype was not found."""

    exit_code = 3


class ConfigurationError(SemantoksError):
    """The options are invalid or contradict each other or the outputs on disk."""

    exit_code = 4


class ResourceError(SemantoksError):
    """Memory, disk space or the requested device is not available."""

    exit_code = 5


class AtlasError(SemantoksError):
    """The atlas was not found, is damaged, or does not fit the data or the encoder."""

    exit_code = 6


class ModelError(SemantoksError):
    """The encoder was not found, is damaged, or does not fit the atlas."""

    exit_code = 6


class TrainingStopped(SemantoksError):
    """Pretraining saved its state and stopped early; the same call resumes it."""

    exit_code = 8


class TrainingDiverged(SemantoksError):
    """Pretraining diverged or collapsed; the last good checkpoint is kept."""

    exit_code = 9


class RunError(SemantoksError):
    """Base of errors that end one run, for one of `reasons`; the other runs continue."""

    reasons: tuple[str, ...] = ()

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        assert reason in self.reasons
        super().__init__(message, hint=hint)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling, which worker processes rely on.
        return functools.partial(type(self), hint=self.hint), (self.reason, self.message)


class RunFailed(RunError):
    """One run cannot be processed."""

    exit_code = 7
    reasons = (
        "unreadable_name",
        "no_mask",
        "no_confounds",
        "no_repetition_time",
        "bad_confounds",
        "bad_image",
        "damaged_table",
        "space_mismatch",
        "low_coverage",
        "out_of_memory",
        "disk_full",
        "internal",
    )


class RunSkipped(RunError):
    """One run is skipped; not an error."""

    exit_code = 0
    reasons = ("too_short", "too_few_kept", "no_content")


def name_some(items: Sequence[object]) -> str:
    """List at most five items, and how many more there are, for a message."""
    return ", ".join(str(item) for item in items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
