"""Find and read the inputs: BIDS datasets, phenotypes, events, HDF5."""
