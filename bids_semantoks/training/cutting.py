"""Encoder inputs, cut on the device: views and masks of a batch."""

from __future__ import annotations

import torch

from bids_semantoks.config import TrainingConfig
from bids_semantoks.training import batches, distill
from bids_semantoks.training.batches import compute_seed
from bids_semantoks.training.distill import TeacherStudent
from bids_semantoks.training.masking import compute_membership, draw_masks, find_absent, find_mask_groups
from bids_semantoks.training.store import SignalView
from bids_semantoks.training.views import draw_views


class ViewCutter:
    """Cut views and masks from the runs of a batch, on the device."""

    def __init__(
        self, module: TeacherStudent, view: SignalView, recipe: TrainingConfig, *, seed: int, device: torch.device
    ) -> None:
        encoder, layout = module.student.config, module.student.layout
        self.config = encoder
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.n_rows = module.n_rows
        groups = find_mask_groups(encoder, layout)
        self.groups = None if groups is None else groups._replace(of_row=groups.of_row.to(device))
        self.membership = compute_membership(encoder, layout).to(device)
        # Known beforehand, so that no step waits for the device and all processes agree.
        shortest = encoder.window - encoder.patch
        self.has_absent = not view.present.all() or int(view.lengths.min()) <= shortest

    def cut(self, batch: batches.Batch, number: int, part: int, *, is_masked: bool) -> distill.Batch:
        """Draw two views of each run, their masks and absent tokens, fixed by seed, batch `number` and `part`."""
        seed = compute_seed(self.seed, batches.VIEW_STREAM, number, part)
        generator = torch.Generator(self.device).manual_seed(seed)
        recipe, config = self.recipe, self.config
        pair = [draw_views(*batch, window=config.window, levels=recipe.levels, generator=generator) for _ in range(2)]
        views = torch.cat([views for views, _ in pair])
        masks = absent = None
        if is_masked:
            masks = draw_masks(
                len(views),
                n_networks=self.n_rows,
                n_patches=config.n_patches,
                kind=recipe.mask,
                ratio=recipe.mask_ratio,
                generator=generator,
                groups=self.groups,
            )
        if self.has_absent:
            n_real, present = torch.cat([n for _, n in pair]), batch.present.repeat(2, 1)
            absent = find_absent(n_real, present, rows=self.membership, patch=config.patch, n_patches=config.n_patches)
        return distill.Batch(views, masks, absent)
