"""Files made here under the names of published ones: nothing is known of those then."""

from __future__ import annotations

from bids_semantoks.atlases import supply
from bids_semantoks.runtime.downloads import UNKNOWN


def forget(monkeypatch):
    """Let files and transforms of any content pass for the published ones."""
    monkeypatch.setattr(supply.Part, "pin", UNKNOWN)
    known = dict.fromkeys(supply.load_published(), UNKNOWN)
    monkeypatch.setattr(supply, "load_published", lambda: known)
