"""Self-distillation, in torch and NumPy; knows models but nothing of BIDS."""
