"""Composite transforms written byte by byte as ANTs writes them, and what they do, from ITK's conventions."""

from __future__ import annotations

import h5py
import numpy as np

#: ITK's axes point left, posterior and superior.
FLIP = np.diag([-1.0, -1.0, 1.0])


class Composite:
    """An affine and a field of displacements, in ITK's axes; points go through the field first."""

    def __init__(self, seed=0, shape=(13, 11, 9), spacing=(4.0, 5.0, 6.0), size=3.0):
        rng = np.random.default_rng(seed)
        angle = 0.3
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        self.matrix = turn @ np.diag([1.05, 0.95, 1.1])
        self.translation, self.center = np.array([2.0, -3.0, 1.5]), np.array([1.0, 2.0, -3.0])
        self.direction = np.array([[-1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
        self.spacing, self.shape = np.array(spacing), shape
        self.origin = -self.direction @ (self.spacing * (np.array(shape) - 1) / 2)
        grid = np.stack(np.meshgrid(*(np.linspace(0, np.pi, n) for n in shape), indexing="ij"), axis=-1)
        phases = rng.uniform(0, np.pi, (3, 3))
        self.field = size * np.stack([np.sin(grid + phases[i]).prod(axis=-1) for i in range(3)], axis=-1)

    def write(self, path):
        """Write the file; returns its path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = h5py.string_dtype("ascii")
        with h5py.File(path, "w") as file:
            group = file.create_group("TransformGroup")
            group.create_dataset("0/TransformType", data=["CompositeTransform_double_3_3"], dtype=text)
            affine = group.create_group("1")
            affine.create_dataset("TransformType", data=["AffineTransform_double_3_3"], dtype=text)
            affine["TransformParameters"] = np.r_[self.matrix.ravel(), self.translation]
            affine["TransformFixedParameters"] = self.center
            field = group.create_group("2")
            field.create_dataset("TransformType", data=["DisplacementFieldTransform_double_3_3"], dtype=text)
            # Vectors are the fastest axis, then x, y and z.
            field["TransformParameters"] = self.field.transpose(2, 1, 0, 3).ravel()
            field["TransformFixedParameters"] = np.r_[self.shape, self.origin, self.spacing, self.direction.ravel()]
        return path

    def map_point(self, point):
        """Take one point (R, A, S) to the space that images come from: ITK's formulas, one number at a time."""
        x = FLIP @ point
        index = np.linalg.solve(self.direction * self.spacing, x - self.origin)
        if ((index >= -0.5) & (index < np.array(self.shape) - 0.5)).all():
            index = np.clip(index, 0, np.array(self.shape) - 1)
            low = np.minimum(np.floor(index).astype(int), np.array(self.shape) - 2)
            share, moved = index - low, np.zeros(3)
            for corner in np.ndindex(2, 2, 2):
                weight = np.prod([s if c else 1 - s for s, c in zip(share, corner, strict=True)])
                moved += weight * self.field[tuple(low + corner)]
            x = x + moved
        return FLIP @ (self.matrix @ (x - self.center) + self.center + self.translation)
