"""Makes the encoders of bids_semantoks known to brainmarks, which imports all modules of this namespace."""

from bids_semantoks.exchange.brainmarks import register

register()
