"""Data from and for other programs."""
