"""Initial probe of a reconstruction; a search with a few views finds an unknown focus distance."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from bluesky_multislice.measurement import Scan, ScanGeometry
from bluesky_multislice.models import embed, technique_of, upsample
from bluesky_multislice.optics import bin_pixels, far_field
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan, thin_plan
from bluesky_multislice.reconstruction.start.former_values import former_probe
from bluesky_multislice.reconstruction.start.frame_statistics import FrameStatistics
from bluesky_multislice.reconstruction.start.joint_illumination import probe_of_flats
from bluesky_multislice.reconstruction.start.shadows import (
    candidate_distances_m,
    depth_of_focus_m,
    distance_from_shadows_m,
    shadow_similarity,
)
from bluesky_multislice.solvers import (
    Solution,
    Unknowns,
    ViewSet,
    fit,
    load_views,
    share_views,
    split_views,
)

_TEST_VIEWS = 100
"""Views around the centre of the scan on which initial probes are tested."""

_TEST_EPOCHS = 6
"""Epochs after which the correct focus, within a depth of focus or 25 %, has a misfit five times lower than others."""

_TEST_BATCH = 5
"""Largest number of views per step of such a fit."""

_WEAK = 0.1
"""Amplitude of further modes relative to the first."""


_LEAST_ON_GOOD_PIXELS = 0.5
"""Fraction of the probe's intensity that must fall on good pixels to calibrate its power by the frames."""


def first_probe(scan: Scan, plan: Plan, statistics: FrameStatistics, mesh: Mesh) -> Tensor:
    """Return the initial probe (mode, y, x), in the square root of the frames' units over the statistics' scale.

    The probe of a former result is used if the plan takes it over. A given probe that will be refined is scaled to the
    frames' mean energy. Without a given probe, far-field patterns of one angle are fitted for a few epochs from several
    focus distances, and the probe with the lowest validation misfit is returned. For several angles, this is done only
    if the focus distance is unknown. If the plan fits the illumination, the probe comes from flats. Frames of the whole
    sample that are divided by flats have the level 1 without a sample. Missing modes are weak copies of the first with
    a phase ramp.

    Args:
        scan: the scan.
        plan: plan of the reconstruction.
        statistics: statistics of the frames.
        mesh: the ranks.
    """
    mean_frame, scale = statistics.mean_frame, statistics.scale
    if scan.former is not None and "probe" in plan.from_former:
        probe = former_probe(scan.former, scan, plan, scale)
    elif scan.probe is not None:
        probe = _given_probe(scan.probe, scan.geometry, plan, mean_frame) / math.sqrt(scale)
    elif plan.joint_illumination:
        probe = probe_of_flats(scan, plan, scale)
    elif _searches_focus(scan.geometry):
        # A single plane fits into the memory of every rank, so no slabs are needed.
        probe = _probe_of_best_focus(scan, plan, statistics, mesh.undivided)
    else:
        probe = _made_probe(scan.geometry, plan, _frame_without_sample(scan, mean_frame) / scale)
    ramp = torch.linspace(-np.pi, np.pi, probe.shape[-1])
    for number in range(probe.shape[0], plan.probe_modes):
        probe = torch.cat([probe, _WEAK * probe[:1] * torch.exp(1j * number * ramp)])
    return probe


def probe_intensity_from_frames(probe: Tensor, scan: Scan, plan: Plan, mean_frame: NDArray[np.floating]) -> float:
    """Return the mean |probe|² per pixel with which frames without a sample would have the measured intensity.

    For far-field patterns it is calibrated on good pixels, if enough of the probe's intensity falls on them. Otherwise
    the probe is returned unscaled, because it was made from frames or flats.

    Args:
        probe: initial probe, complex (mode, y, x), in the square root of the frames' units over their scale.
        scan: the scan.
        plan: plan of the reconstruction.
        mean_frame: (y, x) mean frame over the scale.
    """
    intensity = float(probe.abs().square().sum(0).mean())
    if scan.geometry.detector.regime == "near_field":
        return intensity
    pattern = bin_pixels(far_field(probe.cpu()).sum(0), (plan.oversampling, plan.oversampling)).numpy()
    good = scan.frames.mask
    if pattern[good].sum() < _LEAST_ON_GOOD_PIXELS * pattern.sum():
        return intensity
    return intensity * float(mean_frame[good].sum() / pattern[good].sum())


def _frame_without_sample(scan: Scan, mean_frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the frame (y, x) that gives the level of the beam.

    Flats know it. Without flats it is the mean frame, whose border may be free of the sample.
    """
    if technique_of(scan.geometry).overlapping or not scan.frames.divided:
        return mean_frame
    return np.where(scan.frames.mask, np.float32(1), np.float32(0))


def _searches_focus(geometry: ScanGeometry) -> bool:
    """Whether to search the focus: always for one angle, for several angles if its distance is unknown."""
    if not technique_of(geometry).overlapping or geometry.detector.regime == "near_field":
        return False
    several_angles = len(np.unique(geometry.angle_rad)) > 1
    views = _of_one_angle(geometry)
    return not (several_angles and geometry.focus_distance_m is not None) and bool(
        np.ptp(geometry.position_m[views], axis=0).any()
    )


def _of_one_angle(geometry: ScanGeometry) -> NDArray[np.intp]:
    """Return the views of the angle with the most views."""
    _, angle_of, count = np.unique(geometry.angle_rad, return_inverse=True, return_counts=True)
    return np.flatnonzero(angle_of == count.argmax())


def _given_probe(given: NDArray, geometry: ScanGeometry, plan: Plan, mean_frame: NDArray[np.float32]) -> Tensor:
    near_field = geometry.detector.regime == "near_field"
    window = plan.forward_model(geometry).window
    probe = embed(upsample(given, plan.oversampling) if near_field else given, window)
    if plan.fit.probe_step > 0:
        probe = probe * np.sqrt(mean_frame.sum() / float(probe.abs().square().sum()))
    return probe


def _made_probe(geometry: ScanGeometry, plan: Plan, mean_frame: NDArray[np.float32]) -> Tensor:
    finer, window = plan.oversampling, plan.forward_model(geometry).window
    geometry = geometry.oversampled(finer)
    mean_frame = np.kron(mean_frame / finer**2, np.ones((finer, finer), np.float32))
    make = technique_of(geometry).first_probe
    return make(geometry, mean_frame, window=window, pixel_size_m=geometry.object_pixel_m)


def _probe_of_best_focus(scan: Scan, plan: Plan, statistics: FrameStatistics, mesh: Mesh) -> Tensor:
    """Return the probe (1, y, x) of the best short fit to views near the centre of the scan."""
    plan = thin_plan(plan, epochs=_TEST_EPOCHS, batch_views=min(plan.fit.batch_views, _TEST_BATCH))
    sets, mask = _middle_views(scan, plan, statistics, mesh), scan.frames.mask
    nearest = np.asarray(ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True))
    mean_frame = (statistics.mean_frame / statistics.scale)[tuple(nearest)]
    best, least = torch.empty(0), math.inf
    for distance_m in _focus_distances_m(scan.geometry, sets[0], mean_frame, mask, mesh):
        beam = replace(scan.geometry.beam, focus_distance_m=distance_m or None)
        made = _made_probe(replace(scan.geometry, beam=beam), plan, mean_frame)
        found = _short_fit(scan.geometry, plan, made, sets, mesh)
        misfit = min(epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss for epoch in found.history)
        if misfit < least or not len(best):
            best, least = found.probe.cpu(), misfit
    return best


def _middle_views(scan: Scan, plan: Plan, statistics: FrameStatistics, mesh: Mesh) -> list[ViewSet]:
    """Return this rank's share of one angle's views nearest to the centre of the scan, to fit and to validate."""
    one_angle = _of_one_angle(scan.geometry)
    position_m = scan.geometry.position_m
    distance_m = np.linalg.norm(position_m - np.median(position_m[one_angle], axis=0), axis=1)
    sets = []
    for part in split_views(len(one_angle), plan.held_back_every):
        views = one_angle[part]
        views = views[~statistics.left_out[views]]
        near = np.sort(views[np.argsort(distance_m[views], kind="stable")[:_TEST_VIEWS]])
        own, lane = share_views(near, plan.lanes, mesh)
        scale, saturated = statistics.scale, plan.saturated
        sets.append(load_views(scan, own, scale=scale, device=mesh.device, saturated=saturated, lane=lane))
    return sets


def _focus_distances_m(
    geometry: ScanGeometry, views: ViewSet, mean_frame: NDArray[np.float32], mask: NDArray[np.bool_], mesh: Mesh
) -> list[float]:
    """Return the focus distances to test: from shadows, from the scan, 0, and one depth of focus on either side."""
    depth = depth_of_focus_m(geometry, mean_frame, mask)
    candidates = candidate_distances_m(geometry, mean_frame, mask)
    both = np.concatenate([candidates, -candidates])
    frames = views.amplitude[np.arange(len(views.views))].square().cpu().numpy()
    similarity = torch.as_tensor(
        shadow_similarity(frames, mean_frame, mask, geometry.select(views.views), both), device=mesh.device
    )
    mesh.sum(similarity)
    from_shadows = distance_from_shadows_m(candidates, similarity.cpu().numpy())
    from_scan = 0.0 if geometry.focus_distance_m is None else float(geometry.focus_distance_m[0])
    distances: list[float] = []
    for distance in [from_shadows, from_scan, 0.0, -depth, depth]:
        if all(abs(distance - other) > max(0.5 * depth, 0.2 * abs(other)) for other in distances):
            distances.append(distance)
    return distances


def _short_fit(geometry: ScanGeometry, plan: Plan, probe: Tensor, sets: list[ViewSet], mesh: Mesh) -> Solution:
    one_angle = replace(geometry, angle_rad=np.zeros(geometry.views))
    unknowns = Unknowns(plan.forward_model(one_angle).to(mesh.device), probe, plan.fit, mesh.device)
    return fit(unknowns, sets[0], sets[1], mesh, lambda epoch: None)
