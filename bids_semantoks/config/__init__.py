"""Frozen configuration of every stage; the command line is generated from these fields."""

from bids_semantoks.config.app import AppConfig, RunningConfig, parse_memory
from bids_semantoks.config.encoder import EncoderConfig
from bids_semantoks.config.group import PretrainingConfig, ProbingConfig
from bids_semantoks.config.participant import EmbeddingConfig, SelectionConfig, SignalsConfig
from bids_semantoks.config.plain import from_json, to_json
from bids_semantoks.config.training import TrainingConfig

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
    "parse_memory",
    "to_json",
]
