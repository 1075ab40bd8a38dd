"""Read BIDS datasets; the only package that imports pybids."""
