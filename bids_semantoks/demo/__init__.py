"""A synthetic fMRIPrep study with known structure."""
