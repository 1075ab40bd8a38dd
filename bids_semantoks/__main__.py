"""Let ``python -m bids_semantoks`` and ``torchrun -m bids_semantoks`` launch the app."""

from bids_semantoks.cli import main

if __name__ == "__main__":
    main()
