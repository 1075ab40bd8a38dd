"""Launch the app from ``python -m bids_semantoks`` and ``torchrun -m bids_semantoks``."""

from bids_semantoks.cli import main

if __name__ == "__main__":
    main()
