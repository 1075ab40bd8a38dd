"""Frozen configuration of every stage; the command line is generated from these fields."""

from bids_semantoks.config.call import AppConfig, EmbeddingConfig, RunningConfig, SelectionConfig, SignalsConfig
from bids_semantoks.config.group import EncoderConfig, PretrainingConfig, ProbingConfig, TrainingConfig
from bids_semantoks.config.options import from_json, to_json

__all__ = [
    "AppConfig",
    "EmbeddingConfig",
    "EncoderConfig",
    "PretrainingConfig",
    "ProbingConfig",
    "RunningConfig",
    "SelectionConfig",
    "SignalsConfig",
    "TrainingConfig",
    "from_json",
    "to_json",
]
