"""Computations per epoch: Fourier transforms and rotations, counted before anything is allocated."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len

from bluesky_multislice.measurement import Quantity, ScanGeometry
from bluesky_multislice.optics import BETWEEN_MID_PLANES, cached_rotations
from bluesky_multislice.planning.cost.exchange import batches_of, steps_of
from bluesky_multislice.planning.plan import Plan

_MOVING: frozenset[Quantity] = frozenset({"positions", "axis_shift"})
"""Quantities whose refinement shifts the probe of each view."""


_FORWARD_ONLY = 0.46
"""Ratio of times of a tiny batch, forward model only to gradient, as measured."""


@dataclass(frozen=True)
class Work:
    """Computations per epoch.

    Attributes:
        pairs: pairs of two-dimensional FFTs of a whole window, of all ranks; tiles count by their pixels.
        most_pairs: pairs of the rank with the most.
        awaited_pairs: pairs that the ranks of an angle group compute or wait for, of the group with the most. Ranks
            wait for each other after every batch at an angle.
        most_rotations: rotations of one part of its slab, of the rank with the most; the adjoint rotation of a gradient
            counts as another.
        most_matrices: rotations of this rank that need a new matrix.
        most_batches: batches of the rank with the most, each of views at one angle; validation batches count 0.46.
        steps: optimiser steps.
    """

    pairs: float
    most_pairs: float
    awaited_pairs: float
    most_rotations: int
    most_matrices: int
    most_batches: float
    steps: int


def work_of(plan: Plan, geometry: ScanGeometry) -> Work:
    """Return the computations of an epoch after the first; the first also evaluates the initial guess.

    Refined positions of validation views, and flats of a joint illumination, are not counted. Recomputed waves are
    counted as if every wave were undone, also where strong absorption prevents it.

    Args:
        plan: plan of the reconstruction.
        geometry: geometry of the scan.
    """
    model, groups = plan.forward_model(geometry), plan.ranks // plan.slabs
    rank_of_view, between = plan.ranks_of_views(geometry), model.between_pixels
    heights = [last - first for first, last in plan.windows(model.window[0])]
    blurred = plan.point_spread_pixels > 0 or bool(np.any(geometry.source_blur_m))
    parts = 2 if plan.fit.absorption else 1
    transforms, awaited = np.zeros((groups, plan.slabs)), np.zeros(groups)
    rotations, batches = np.zeros(groups, int), np.zeros(groups)
    angles_of_group: list[list[float]] = [[] for _ in range(groups)]
    fitted, held = batches_of(plan, geometry)
    for shares, is_fitted in ((fitted, True), (held, False)):
        for number, batch in ((number, batch) for number, share in enumerate(shares) for batch in share):
            for angle in np.unique(geometry.angle_rad[batch]):
                views = batch[geometry.angle_rad[batch] == angle]
                rotations[number % groups] += parts * (2 if is_fitted else 1)
                batches[number % groups] += 1 if is_fitted else _FORWARD_ONLY
                angles_of_group[number % groups].append(float(angle))
                found = np.zeros(plan.slabs)
                for slab in range(plan.slabs):
                    own = views if rank_of_view is None else views[rank_of_view[views] == slab]
                    part = (heights[slab], model.window[1])
                    kind = TransformKind(bool(between[own].any()), model.far_field, blurred, is_fitted)
                    found[slab] = transforms_of(plan, len(own), part, kind) * part[0] / model.window[0]
                transforms[number % groups] += found
                awaited[number % groups] += found.max()
    steps = steps_of(plan, fitted)
    return Work(
        pairs=float(transforms.sum()) / 2,
        most_pairs=float(transforms.max()) / 2,
        awaited_pairs=float(awaited.max()) / 2,
        most_rotations=int(rotations.max()),
        most_matrices=_most_matrices(plan, angles_of_group),
        most_batches=float(batches.max()),
        steps=steps,
    )


def _most_matrices(plan: Plan, angles_of_group: list[list[float]]) -> int:
    """Return the largest number of rotation matrices that a group computes."""
    if plan.interpolation == "fourier":
        return 0
    # If the cache is smaller than the number of angles, their order evicts every matrix before it is used again.
    kept = cached_rotations(plan.grid.shape[0] * plan.grid.shape[2], plan.interpolation)
    return max(len(angles) if len(set(angles)) > kept else 0 for angles in angles_of_group)


@dataclass(frozen=True)
class TransformKind:
    """What the transforms of a view depend on, besides the plan.

    Attributes:
        between: whether the probe lies between pixels, so that it is shifted.
        far_field: whether the frame is a far-field pattern.
        blurred: whether source or detector blur the frame.
        fitted: whether the view is fitted, which needs the gradient.
    """

    between: bool
    far_field: bool
    blurred: bool
    fitted: bool


def transforms_of(plan: Plan, views: int, window: tuple[int, int], kind: TransformKind) -> float:
    """Return the transforms of a rank's part of a window for views of one angle: forward, and back for fitted views."""
    if views == 0:
        return 0
    modes, waves, variations = plan.probe_modes, plan.probe_modes * views, plan.fit.probe_variations
    moves = bool(_MOVING & set(plan.fit.refinement.quantities))
    entrance = waves if kind.between or moves or variations else modes
    inside = _inside(plan, window) * waves
    to_detector = (1 if kind.far_field else 2) * waves + (2 * views if kind.blurred else 0)
    forward = modes + variations + entrance + inside + to_detector
    if not kind.fitted:
        return forward
    probe = modes + variations if plan.fit.probe_step > 0 else 0
    back = to_detector + inside + (entrance if probe or moves or variations else 0) + probe
    # Unless waves are stored, each wave after a step is computed once more.
    recomputed = 0 if plan.gradient == "stored" else inside
    return forward + back + recomputed


def _inside(plan: Plan, window: tuple[int, int]) -> float:
    """Return the transforms of a window, per wave, for the propagation through the object."""
    if plan.propagation.startswith("finite-difference"):
        return 0
    if plan.propagation in BETWEEN_MID_PLANES:
        # The outer half steps are merged with the propagation to the entrance and to the detector.
        return 2 * (plan.slices - 1)
    whole = 2 * (plan.slices + 1)
    sides = [_tiled(*axis, plan.halo) for axis in zip(window, plan.tiles, strict=True)]
    return whole * math.prod(sides) / math.prod(window)


def _tiled(size: int, tiles: int, halo: int) -> int:
    """Return the pixels of all tiles along an axis, with their halos."""
    ends = [size * edge // tiles for edge in range(tiles + 1)]
    return sum(min(int(next_fast_len(b - a + 2 * halo) or size), size) for a, b in itertools.pairwise(ends))
