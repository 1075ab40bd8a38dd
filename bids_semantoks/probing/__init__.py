"""Asking features what they know of a phenotype: arrays in, arrays and records out; nothing of BIDS, no files."""
