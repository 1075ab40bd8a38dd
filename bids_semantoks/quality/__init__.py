"""How good a run is, and how well it fits an encoder."""
