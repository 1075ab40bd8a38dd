"""Find and read what others wrote: BIDS datasets, phenotypes, events, HDF5."""
