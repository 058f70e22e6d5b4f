"""Division of views: validation frames, lanes, ranks, and batches of an epoch."""

import math

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.parallel import Mesh

_GOLDEN = (math.sqrt(5) - 1) / 2


def make_batches(
    angles: NDArray[np.float64], heights: NDArray[np.float64], size: int, shuffle: np.random.Generator | None
) -> list[NDArray[np.intp]]:
    """Return batches of view indices; a batch mixes angles only if two complete angles fit into it.

    Successive angles differ by the golden ratio of the angular range, so that any few consecutive batches cover all
    directions (Köhler, IEEE Symp. Conf. Rec. Nucl. Sci. 6, 3961 (2004)). Each batch samples all heights, so that the
    ranks of all slabs have equal work.

    Args:
        angles: (view,) rotation angle.
        heights: (view,) position along the rotation axis.
        size: largest number of views per batch.
        shuffle: random generator for the first angle and the order of views; None: scan order.
    """
    index = np.arange(len(angles))
    if shuffle is not None:
        index = shuffle.permutation(index)
    groups = [index[angles[index] == angle] for angle in np.unique(angles)]
    order = np.arange(len(groups))
    if shuffle is not None:
        order = np.argsort((_GOLDEN * order + shuffle.random()) % 1)
    mixed = 2 * max(map(len, groups), default=0) <= size
    if mixed and shuffle is None and groups:
        # Outside of a fit: as few rotations as possible.
        return np.array_split(np.concatenate(groups), math.ceil(len(index) / size))
    counts = [len(group) if mixed else math.ceil(len(group) / size) for group in groups]
    pieces = [_stratified(group, heights, count, shuffle) for group, count in zip(groups, counts, strict=True)]
    rounds = range(max(map(len, pieces), default=0))
    batches = [pieces[at][number] for number in rounds for at in order if number < len(pieces[at])]
    if mixed and batches:
        return np.array_split(np.concatenate(batches), math.ceil(len(index) / size))
    return batches


def _stratified(
    views: NDArray[np.intp], heights: NDArray[np.float64], parts: int, shuffle: np.random.Generator | None
) -> list[NDArray[np.intp]]:
    """Divide views into parts, stratified by height: of ``parts`` successive views by height, each part gets one."""
    assigned = np.tile(np.arange(parts), (math.ceil(len(views) / parts), 1))
    if shuffle is not None:
        assigned = shuffle.permuted(assigned, axis=1)
    part = np.empty(len(views), np.intp)
    part[np.argsort(heights[views], kind="stable")] = assigned.ravel()[: len(views)]
    return [views[part == number] for number in range(parts)]


def split_views(views: int, held_back_every: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the fitted views and the validation views: every n-th; none if n is 0 or not less than ``views``."""
    everything = np.arange(views)
    if held_back_every == 0 or views <= held_back_every:
        return everything, everything[:0]
    held = everything % held_back_every == 0
    return everything[~held], everything[held]


def assign_lanes(views: NDArray[np.intp], lanes: int, angle_rad: NDArray[np.float64] | None = None) -> NDArray[np.intp]:
    """Return the lane (n,) of each view.

    Args:
        views: (n,) view indices of all ranks.
        lanes: number of lanes.
        angle_rad: rotation angle of every view of the scan. All views of an angle are then in one lane, and each lane
            has a sector of the angles: a step, with a batch of every lane, covers all directions. None: views are
            assigned one by one in turn.
    """
    if angle_rad is None:
        return np.arange(len(views)) % lanes
    angles, angle_of = np.unique(angle_rad[views], return_inverse=True)
    return angle_of * lanes // max(len(angles), 1)


def share_views(
    views: NDArray[np.intp], lanes: int, mesh: Mesh, angle_rad: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the views of this rank's angle group, and their lanes.

    Views are assigned to lanes and lanes to groups. The views of a step therefore depend on the number of lanes but not
    on the number of ranks.

    Args:
        views: (n,) view indices of all ranks.
        lanes: number of lanes.
        mesh: the ranks.
        angle_rad: see ``assign_lanes``.
    """
    lane = assign_lanes(views, lanes, angle_rad)
    here = lane % mesh.angles == mesh.angle
    return views[here], lane[here]


def share_held_back(views: NDArray[np.intp], angle_rad: NDArray[np.float64], groups: int) -> list[NDArray[np.intp]]:
    """Return the validation views of each angle group, in whole angles if possible, to save rotations.

    Args:
        views: (n,) validation views of all ranks.
        angle_rad: rotation angle of every view of the scan.
        groups: number of angle groups.
    """
    by_angle = views[np.argsort(angle_rad[views], kind="stable")]
    return [np.sort(share) for share in np.array_split(by_angle, groups)]
