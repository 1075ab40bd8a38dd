"""Self-distillation, in torch and NumPy; independent of BIDS."""
