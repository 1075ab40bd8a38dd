"""Pretraining, fine-tuning and the published probe, in torch and NumPy; knows models but nothing of BIDS."""
