"""What the encoders see: views and masks, cut from the runs of a batch on the device."""

from __future__ import annotations

import torch

from bids_semantoks.training import batches, distill
from bids_semantoks.training.batches import compute_seed
from bids_semantoks.training.distill import TeacherStudent
from bids_semantoks.training.masking import compute_membership, draw_masks, find_absent, find_mask_groups
from bids_semantoks.training.plan import TrainingPlan
from bids_semantoks.training.store import SignalView
from bids_semantoks.training.views import draw_views


class ViewCutter:
    """Makes what the encoders see from the runs of a batch, on the device.

    Parameters
    ----------
    module : TeacherStudent
        Gives the shape of windows and the networks of parcels.
    view : SignalView
        Packed signals, which tell whether anything can be absent.
    plan : TrainingPlan
        Masks, augmentation and seed.
    device : torch.device
        Of this process.
    """

    def __init__(self, module: TeacherStudent, view: SignalView, plan: TrainingPlan, device: torch.device) -> None:
        encoder, layout = module.student.config, module.student.layout
        self.config = encoder
        self.plan = plan
        self.device = device
        self.n_rows = module.n_rows
        groups = find_mask_groups(encoder, layout)
        self.groups = None if groups is None else groups._replace(of_row=groups.of_row.to(device))
        self.membership = compute_membership(encoder, layout).to(device)
        # Known beforehand, so that no step waits for the device and all processes agree.
        shortest = encoder.window - encoder.patch
        self.has_absent = not view.present.all() or int(view.lengths.min()) <= shortest

    def cut(self, batch: batches.Batch, number: int, part: int, *, is_masked: bool) -> distill.Batch:
        """Draw two views of each run and their masks; the same for the same batch, part and seed.

        Parameters
        ----------
        batch : batches.Batch
            Runs of one part of a batch.
        number, part : int
            Which batch of the training, and which part of it.
        is_masked : bool
            Whether tokens are hidden from the student at this step.

        Returns
        -------
        distill.Batch
            Two views of each run, their masks, and what holds no data.
        """
        seed = compute_seed(self.plan.seed, batches.VIEW_STREAM, number, part)
        generator = torch.Generator(self.device).manual_seed(seed)
        recipe, config = self.plan.recipe, self.config
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
