"""Overlap of the people who are probed with those the encoder was pretrained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from bids_semantoks.embedding import RunEncoder


def count_pretrained(participants: set[str], *encoders: RunEncoder) -> int | None:
    """Count participants (labels without ``sub-``) that any encoder was pretrained on, by the hashes in its weights.
    None where the weights of one encoder hold no hashes."""
    found: set[str] = set()
    for encoder in encoders:
        own = _find_pretrained(participants, encoder)
        if own is None:
            return None
        found |= own
    return len(found)


def _find_pretrained(participants: set[str], encoder: RunEncoder) -> set[str] | None:
    if encoder.loaded.is_random:
        return set()
    known = encoder.loaded.details.get("participants")
    if not isinstance(known, Mapping) or not {"salt", "sha256"} <= set(known):
        return None
    hashes = set(known["sha256"])
    salt = known["salt"]
    # A file of signals may name people as folders do.
    return {
        label
        for label in participants
        if any(hashlib.sha256(f"{salt}{start}{label}".encode()).hexdigest() in hashes for start in ("", "sub-"))
    }


def describe_pretraining(encoder: RunEncoder, n_pretrained: int | None, n_participants: int) -> str:
    """Describe in words whether people were both pretrained and probed on."""
    if encoder.loaded.is_random:
        return "The encoder has random weights: it was pretrained on nobody."
    if n_pretrained is None:
        return (
            f"{encoder.loaded.description} The weights do not say on whom they were pretrained: whether any "
            "participant here was among them is not known."
        )
    if n_pretrained:
        return (
            f"{n_pretrained} of {n_participants} participants here have labels that the encoder was pretrained on. It "
            "saw their signals, though never their phenotypes; scores may not hold for people it never saw."
        )
    return f"None of the {n_participants} participants here has a label that the encoder was pretrained on."
