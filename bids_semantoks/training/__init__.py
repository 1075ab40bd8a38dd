"""Learning an encoder by self-distillation: torch and NumPy; knows models, nothing of BIDS."""
