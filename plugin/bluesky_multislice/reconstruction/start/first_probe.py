"""The probe that a reconstruction starts from, tried on a few views where the scan does not tell where the focus is."""

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
from bluesky_multislice.reconstruction.start.joint_illumination import probe_of_flats
from bluesky_multislice.reconstruction.start.shadows import (
    candidate_distances_m,
    depth_of_focus_m,
    shadow_likeness,
    shadows_distance_m,
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

_TRIED_VIEWS = 100
"""Views around the scan's middle that a first probe is tried on."""

_TRIED_EPOCHS = 6
"""Epochs after which a focus that is right within a depth of focus or a quarter leads clearly: five times in misfit."""

_TRIED_BATCH = 5
"""Views that move a first probe at once, at most."""

_WEAK = 0.1
"""Amplitude of a further mode relative to the first."""


_LEAST_SEEN = 0.5
"""Part of the probe's light that has to fall on good pixels to tell how much of it there is."""


def first_probe(scan: Scan, plan: Plan, mean_frame: NDArray[np.float32], scale: float, mesh: Mesh) -> Tensor:
    """Return the probe (mode, y, x) to start from, in the root of the frames' units over ``scale``.

    A given probe that may be refined is brought to the frames' mean energy. Without one, patterns of one angle are
    fitted from several focus distances for a few epochs, and the probe that explains frames held back best is taken; of
    several angles one serves, where the focus distance is not known. Where the plan fits the illumination, flats tell
    the first one. Missing modes start as weak copies with a phase ramp.

    Args:
        scan: what was measured.
        plan: of the reconstruction.
        mean_frame: (y, x) mean of the frames to fit, zero where masked.
        scale: intensity that becomes one.
        mesh: the ranks.
    """
    if scan.probe is not None:
        probe = _given_probe(scan.probe, scan.geometry, plan, mean_frame) / math.sqrt(scale)
    elif plan.joint_illumination:
        probe = probe_of_flats(scan, plan, scale)
    elif _searches_focus(scan.geometry):
        # It is a plane: every rank has room for all of it.
        probe = _probe_of_best_focus(scan, plan, mean_frame / scale, scale, mesh.undivided)
    else:
        probe = _made_probe(scan.geometry, plan, mean_frame / scale)
    ramp = torch.linspace(-np.pi, np.pi, probe.shape[-1])
    for number in range(probe.shape[0], plan.probe_modes):
        probe = torch.cat([probe, _WEAK * probe[:1] * torch.exp(1j * number * ramp)])
    return probe


def light_of_frames(probe: Tensor, scan: Scan, plan: Plan, mean_frame: NDArray[np.floating]) -> float:
    """Return the mean of |probe|² over its pixels that gives the frames their light with nothing in the beam.

    Good pixels of patterns tell, as long as the probe's light falls on them. Other probes were made of the frames, or
    of flats, and have it.

    Args:
        probe: complex (mode, y, x) to start from, in the root of the frames' units over their scale.
        scan: what was measured.
        plan: of the reconstruction.
        mean_frame: (y, x), over the scale.
    """
    light = float(probe.abs().square().sum(0).mean())
    if scan.geometry.detector.regime == "near_field":
        return light
    pattern = bin_pixels(far_field(probe.cpu()).sum(0), (plan.oversampling, plan.oversampling)).numpy()
    good = scan.frames.mask
    if pattern[good].sum() < _LEAST_SEEN * pattern.sum():
        return light
    return light * float(mean_frame[good].sum() / pattern[good].sum())


def _searches_focus(geometry: ScanGeometry) -> bool:
    """Whether the focus is looked for: at one angle always, at several where its distance is not known."""
    if not technique_of(geometry).overlapping or geometry.detector.regime == "near_field":
        return False
    several_angles = len(np.unique(geometry.angle_rad)) > 1
    views = _of_one_angle(geometry)
    return not (several_angles and geometry.focus_distance_m is not None) and bool(
        np.ptp(geometry.position_m[views], axis=0).any()
    )


def _of_one_angle(geometry: ScanGeometry) -> NDArray[np.intp]:
    """Return the views at the angle that has most."""
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


def _probe_of_best_focus(scan: Scan, plan: Plan, mean_frame: NDArray[np.float32], scale: float, mesh: Mesh) -> Tensor:
    """Return the probe (1, y, x) that a short fit to the views in the scan's middle has found."""
    plan = thin_plan(plan, epochs=_TRIED_EPOCHS, batch_views=min(plan.fit.batch_views, _TRIED_BATCH))
    sets, mask = _middle_views(scan, plan, scale, mesh), scan.frames.mask
    nearest = np.asarray(ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True))
    mean_frame = mean_frame[tuple(nearest)]
    best, least = torch.empty(0), math.inf
    for distance_m in _focus_distances_m(scan.geometry, sets[0], mean_frame, mask, mesh):
        beam = replace(scan.geometry.beam, focus_distance_m=distance_m or None)
        made = _made_probe(replace(scan.geometry, beam=beam), plan, mean_frame)
        found = _short_fit(scan.geometry, plan, made, sets, mesh)
        misfit = min(epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss for epoch in found.history)
        if misfit < least or not len(best):
            best, least = found.probe.cpu(), misfit
    return best


def _middle_views(scan: Scan, plan: Plan, scale: float, mesh: Mesh) -> list[ViewSet]:
    """Return this rank's share of an angle's views nearest to the scan's middle, to fit and held back."""
    one_angle = _of_one_angle(scan.geometry)
    position_m = scan.geometry.position_m
    away = np.linalg.norm(position_m - np.median(position_m[one_angle], axis=0), axis=1)
    sets = []
    for part in split_views(len(one_angle), plan.held_back_every):
        views = one_angle[part]
        near = np.sort(views[np.argsort(away[views], kind="stable")[:_TRIED_VIEWS]])
        own, lane = share_views(near, plan.lanes, mesh)
        sets.append(load_views(scan, own, scale=scale, device=mesh.device, saturated=plan.saturated, lane=lane))
    return sets


def _focus_distances_m(
    geometry: ScanGeometry, views: ViewSet, mean_frame: NDArray[np.float32], mask: NDArray[np.bool_], mesh: Mesh
) -> list[float]:
    """Return the distances to try: as shadows and scan say, in the focus, and a depth of focus before and after."""
    depth = depth_of_focus_m(geometry, mean_frame, mask)
    candidates = candidate_distances_m(geometry, mean_frame, mask)
    both = np.concatenate([candidates, -candidates])
    frames = views.amplitude[np.arange(len(views.views))].square().cpu().numpy()
    likeness = torch.as_tensor(
        shadow_likeness(frames, mean_frame, mask, geometry.select(views.views), both), device=mesh.device
    )
    mesh.sum(likeness)
    away = shadows_distance_m(candidates, likeness.cpu().numpy())
    said = 0.0 if geometry.focus_distance_m is None else float(geometry.focus_distance_m[0])
    wanted = [away, said, 0.0, -depth, depth]
    apart: list[float] = []
    for distance in wanted:
        if all(abs(distance - other) > max(0.5 * depth, 0.2 * abs(other)) for other in apart):
            apart.append(distance)
    return apart


def _short_fit(geometry: ScanGeometry, plan: Plan, probe: Tensor, sets: list[ViewSet], mesh: Mesh) -> Solution:
    one_angle = replace(geometry, angle_rad=np.zeros(geometry.views))
    unknowns = Unknowns(plan.forward_model(one_angle).to(mesh.device), probe, plan.fit, mesh.device)
    return fit(unknowns, sets[0], sets[1], plan.fit, mesh, lambda epoch: None)
