"""Brain-Semantoks embeddings of brain dynamics from fMRIPrep derivatives, as a BIDS App."""

__version__ = "0.1.0"
