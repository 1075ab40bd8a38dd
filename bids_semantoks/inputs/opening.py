"""Check the folders and participants of a call before importing anything slow."""

from __future__ import annotations

import logging
from typing import NamedTuple

from bids_semantoks.config import AppConfig
from bids_semantoks.inputs.datasets import Dataset, check_out_dir, find_dataset
from bids_semantoks.inputs.listed import warn_of_missing
from bids_semantoks.inputs.runs import find_participants

LOGGER = logging.getLogger("bids_semantoks")


class Inputs(NamedTuple):
    """What a participant call reads."""

    dataset: Dataset
    participants: tuple[str, ...]  # labels without ``sub-``


def open_inputs(config: AppConfig) -> Inputs:
    """Find the dataset and the participants of a call. Raises InputError or ConfigurationError for folders and labels
    that do not exist or cannot be used."""
    dataset = find_dataset(config.bids_dir, config.out_dir, config.selection)
    LOGGER.info("%s", dataset.describe())
    for sentence in dataset.describe_recognised():
        LOGGER.info("%s", sentence)
    check_out_dir(config.bids_dir, config.out_dir, dataset, config.running.work_dir)
    participants = find_participants(dataset, config.selection)
    warn_of_missing(dataset, config.selection, participants)
    return Inputs(dataset, participants)
