"""Brain-Semantoks embeddings of brain dynamics from fMRIPrep derivatives, as a BIDS App and from Python."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bids_semantoks.version import __version__

if TYPE_CHECKING:
    from bids_semantoks.api import Embedding as Embedding
    from bids_semantoks.api import Encoder as Encoder
    from bids_semantoks.api import Fit as Fit
    from bids_semantoks.api import ParcelSeries as ParcelSeries
    from bids_semantoks.api import extract as extract
    from bids_semantoks.api import load_encoder as load_encoder
    from bids_semantoks.api import load_outputs as load_outputs
    from bids_semantoks.api import load_predictor as load_predictor
    from bids_semantoks.api import probe as probe
    from bids_semantoks.api import run as run
    from bids_semantoks.embedder import Embedder as Embedder

__all__ = [
    "Embedder",
    "Embedding",
    "Encoder",
    "Fit",
    "ParcelSeries",
    "__version__",
    "extract",
    "load_encoder",
    "load_outputs",
    "load_predictor",
    "probe",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # By name, so that no layer imports the interface through the package; lazily, as the import takes a second.
    module = importlib.import_module(f"{__name__}.{'embedder' if name == 'Embedder' else 'api'}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
