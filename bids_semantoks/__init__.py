"""Brain-Semantoks embeddings of brain dynamics from fMRIPrep derivatives, as a BIDS App."""

from bids_semantoks.version import __version__

__all__ = ["__version__"]
