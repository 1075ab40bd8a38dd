"""Our derivative dataset: written here, read back here."""
