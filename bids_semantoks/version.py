"""The version of the program; every layer may import it."""

__version__ = "0.1.0"
