"""The Brain-Semantoks encoder: torch and NumPy only."""
