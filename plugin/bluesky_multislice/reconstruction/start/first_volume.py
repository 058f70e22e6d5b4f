"""Initial volume for holography with several angles: a back-projected thin-sample retrieval.

Every rank processes its share of the angles; the back-projections of all angles are summed.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from bluesky_multislice.measurement import Scan, ScanGeometry, VolumeGrid
from bluesky_multislice.models import resample
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.parallel import Mesh, Slab
from bluesky_multislice.planning import Plan
from bluesky_multislice.reconstruction.start.back_projection import angle_weights, back_project
from bluesky_multislice.reconstruction.start.empty_frames import empty_model
from bluesky_multislice.reconstruction.start.former_values import former_volume
from bluesky_multislice.reconstruction.start.thin_sample import contrast_transfer_phase, paganin_phase
from bluesky_multislice.solvers import (
    Prefetcher,
    RefinementSettings,
    Unknowns,
    cylinder_support,
    evaluate,
    load_views,
    share_views,
)

_RATIOS = (0.01, 0.1)
"""Values of β/δ to test unless the recipe bounds it; the fit then determines each voxel's own ratio."""

_TEST_VIEWS = 6
"""Views, spread over the scan, on which an initial volume is compared with an empty one."""

_LARGEST_MISFIT = 0.5
"""Largest misfit relative to an empty volume's; retrievals of pure noise also gain a little."""

_ROWS = 32
"""Rows along y that are back-projected at once."""


@dataclass(frozen=True, eq=False)
class AngleHolograms:
    """Holograms of one angle, divided by the beam's intensity, on the volume's lateral pixels.

    Attributes:
        angle_rad: rotation angle.
        distances_m: (distance,) effective distances.
        frames: (distance, y, x); 1 outside of the frames.
    """

    angle_rad: float
    distances_m: tuple[float, ...]
    frames: Tensor


Retrieval = Callable[[AngleHolograms, ScanGeometry, VolumeGrid, float], Tensor]


def first_volume(
    scan: Scan,
    plan: Plan,
    fitted: NDArray[np.intp],
    held_back: NDArray[np.intp],
    probe: Tensor,
    scale: float,
    mesh: Mesh,
) -> tuple[list[Tensor], str]:
    """Return δ and β of the best initial volume, and a description of it.

    Both are (z, y, x) on the plan's grid, the stored rows. They are those of a former result if the plan takes its
    volume over. The result is an empty list and "empty" if an empty volume
    fits the test views better or is planned.

    Test views are validation views if there are any, because a retrieval also fits the noise of its own frames.

    Contrast transfer is tried for any number of distances. For a single distance, Paganin's retrieval is also tried; it
    is better if the fringes are much finer than the sample's details.

    Args:
        scan: the scan.
        plan: plan of the reconstruction.
        fitted: views for the retrieval, of all ranks.
        held_back: validation views of all ranks.
        probe: complex (mode, y, x), in the square root of the frames' units over ``scale``.
        scale: intensity that is normalised to 1.
        mesh: the ranks.
    """
    if scan.former is not None and "volume" in plan.from_former:
        return former_volume(scan.former, scan.geometry, plan, mesh), f"former result {scan.former.name}"
    best: tuple[list[Tensor], str] = [], "empty"
    if plan.start == "empty":
        return best
    read = functools.partial(load_holograms, scan, plan, fitted, probe, scale, mesh)
    # Frames on disk are read again for every retrieval, to save memory.
    kept = list(read()) if plan.frames_in == "memory" else None
    misfit_of = _misfit_function(scan, plan, held_back if len(held_back) else fitted, probe, scale, mesh)
    empty = Slab(mesh, plan.grid.shape[1]).part_of(torch.zeros((), device=mesh.device).expand(plan.grid.shape))
    least = _LARGEST_MISFIT * misfit_of(empty, empty)
    retrievals: dict[str, Retrieval] = {"contrast transfer": by_contrast_transfer}
    if len(np.unique(scan.geometry.effective_distance_m)) == 1:
        retrievals["Paganin"] = by_paganin
    for name, retrieval in retrievals.items():
        for ratio in _ratios(plan):
            holograms = read() if kept is None else kept
            phases = ((own.angle_rad, retrieval(own, scan.geometry, plan.grid, ratio)) for own in holograms)
            delta = _volume(phases, scan.geometry.angle_rad[fitted], scan.geometry, plan, mesh)
            beta = ratio * delta if plan.fit.absorption else torch.zeros_like(delta)
            misfit = misfit_of(delta, beta)
            if misfit < least:
                best, least = ([delta, beta], f"thin sample, {name}, β/δ {ratio:g}"), misfit
    return best


def load_holograms(
    scan: Scan, plan: Plan, views: NDArray[np.intp], probe: Tensor, scale: float, mesh: Mesh
) -> Iterator[AngleHolograms]:
    """Yield the holograms of this rank's share of the angles, read angle by angle.

    Args:
        scan: the scan.
        plan: plan of the reconstruction.
        views: view indices of all ranks.
        probe: complex (mode, y, x), in the square root of the frames' units over ``scale``.
        scale: intensity that is normalised to 1.
        mesh: the ranks.
    """
    geometry, angles = scan.geometry, np.unique(scan.geometry.angle_rad[views])
    beam_of_view = _beam_of(geometry, plan, probe)
    for angle in angles[mesh.share(len(angles))].tolist():
        members = views[geometry.angle_rad[views] == angle]
        distances_m = np.unique(geometry.effective_distance_m[members])
        frames = []
        for distance_m in distances_m:
            own = members[geometry.effective_distance_m[members] == distance_m]
            holograms = ((view, _hologram(scan, plan, view, scale * beam_of_view(view))) for view in own.tolist())
            frames.append(_mean_on_grid(holograms, geometry, plan.grid))
        yield AngleHolograms(angle, tuple(distances_m.tolist()), torch.stack(frames))


def by_contrast_transfer(holograms: AngleHolograms, geometry: ScanGeometry, grid: VolumeGrid, ratio: float) -> Tensor:
    """Return the projected phase (y, x) by contrast transfer."""
    return contrast_transfer_phase(
        holograms.frames,
        distances_m=holograms.distances_m,
        wavelength_m=geometry.beam.wavelength_m,
        pixel_m=(grid.voxel_size_m[1], grid.voxel_size_m[2]),
        beta_over_delta=ratio,
    )


def by_paganin(holograms: AngleHolograms, geometry: ScanGeometry, grid: VolumeGrid, ratio: float) -> Tensor:
    """Return the projected phase (y, x) by Paganin's retrieval, for a single distance."""
    return paganin_phase(
        holograms.frames,
        distance_m=holograms.distances_m[0],
        wavelength_m=geometry.beam.wavelength_m,
        pixel_m=(grid.voxel_size_m[1], grid.voxel_size_m[2]),
        beta_over_delta=max(ratio, 1e-6),
    )


def _ratios(plan: Plan) -> tuple[float, ...]:
    least, most = plan.fit.beta_over_delta_min, plan.fit.beta_over_delta_max
    bounded = np.clip(_RATIOS, least or 0.0, np.inf if most is None else most)
    return tuple(dict.fromkeys(bounded.tolist()))


def _beam_of(geometry: ScanGeometry, plan: Plan, probe: Tensor) -> Callable[[int], Tensor]:
    """Return a function that simulates the frame (y, x) of a view without a sample, in units of |probe|²."""
    (model, no_object), probe = empty_model(geometry, plan), probe.cpu()
    known: dict[tuple[float, ...], Tensor] = {}

    @torch.no_grad()
    def beam(view: int) -> Tensor:
        key = (geometry.effective_distance_m[view], *geometry.position_m[view].tolist())
        if key not in known:
            known.clear()
            known[key] = model(no_object, no_object, probe, [view])[0]
        return known[key]

    return beam


def _hologram(scan: Scan, plan: Plan, view: int, beam: Tensor) -> Tensor:
    """Return a frame (y, x) divided by the beam's, with bad pixels replaced by their nearest good neighbour.

    Its border is normalised to 1, because retrievals assume that there is no sample around the frame.
    """
    frame = scan.frames.read(np.array([view]), saturated=plan.saturated)[0]
    illuminated = beam.numpy() > 1e-3 * float(beam.max())
    good = scan.frames.mask & np.isfinite(frame) & illuminated
    relative = np.divide(frame, beam.numpy(), out=np.ones_like(frame), where=good)
    if not good.all() and good.any():
        nearest = ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True)
        relative = relative[tuple(np.asarray(nearest))]
    border = np.concatenate([relative[0], relative[-1], relative[:, 0], relative[:, -1]])
    level = float(np.median(border))
    return torch.from_numpy(relative / level if level > 0 else relative)


def _mean_on_grid(holograms: Iterator[tuple[int, Tensor]], geometry: ScanGeometry, grid: VolumeGrid) -> Tensor:
    """Return the mean (y, x) of these views' holograms on the volume's lateral pixels, 1 outside of the frames."""
    pitch_z, (height, width), magnification = grid.voxel_size_m[0], grid.shape[1:], geometry.magnification
    onto = VolumeGrid((1, height, width), grid.voxel_size_m, (0.0, *grid.center_m[1:]))
    total, count = torch.zeros(height, width), torch.zeros(height, width)
    for view, hologram in holograms:
        ny, nx = hologram.shape
        y, x = geometry.position_m[view].tolist()
        pitch_y, pitch_x = np.array(geometry.detector.pixel_size_m) / magnification[view]
        own = VolumeGrid((1, ny, nx), (pitch_z, pitch_y, pitch_x), (0.0, y, x))
        covers = _covered(own, onto)
        total += covers * resample(hologram[None], own, onto)[0]
        count += covers
    return torch.where(count > 0, total / count.clamp(min=1), 1.0)


def _covered(grid: VolumeGrid, onto: VolumeGrid) -> Tensor:
    """Return the lateral pixels (y, x) of ``onto`` that the field of ``grid`` covers."""
    lines = []
    for axis in (1, 2):
        index = torch.arange(onto.shape[axis], dtype=torch.float64) - (onto.shape[axis] - 1) / 2
        distance_m = onto.center_m[axis] + index * onto.voxel_size_m[axis] - grid.center_m[axis]
        lines.append(distance_m.abs() <= grid.shape[axis] * grid.voxel_size_m[axis] / 2)
    return lines[0][:, None] & lines[1]


def _volume(
    phases: Iterator[tuple[float, Tensor]],
    all_angles_rad: NDArray[np.float64],
    geometry: ScanGeometry,
    plan: Plan,
    mesh: Mesh,
) -> Tensor:
    """Return δ (z, y, x) of the stored rows from the projected phases of all ranks' angles, clipped to its bounds.

    A rank holds the phases of a few of its angles at a time; their back-projections are summed.
    """
    grid, angles_rad = plan.grid, np.unique(all_angles_rad)
    depth, height, width = grid.shape
    weight_of = dict(zip(angles_rad.tolist(), angle_weights(angles_rad).tolist(), strict=True))
    held = Slab(mesh, height).rows
    volume = torch.zeros((width, held.stop - held.start, width), device=mesh.device)
    most = math.ceil(len(angles_rad) / mesh.size)
    at_once = plan.angles_at_once or most
    # Every rank takes part in the collective sums, even without angles left.
    for _ in range(math.ceil(most / at_once)):
        some = list(itertools.islice(phases, at_once))
        own, weights = (np.array(part) for part in ([a for a, _ in some], [weight_of[a] for a, _ in some]))
        for row in range(0, height, _ROWS):
            rows = range(row, min(row + _ROWS, height))
            block = torch.zeros((width, len(rows), width), device=mesh.device)
            if some:
                stack = torch.stack([phase[row : rows.stop] for _, phase in some]).numpy()
                block = back_project(stack, own, weights, mesh.device)
            mesh.sum(block)
            first, end = max(row, held.start), min(rows.stop, held.stop)
            if first < end:
                volume[:, first - held.start : end - held.start] += block[:, first - row : end - row]
    volume /= wavenumber(geometry.beam.wavelength_m) * grid.voxel_size_m[2]
    # Only z and x are resampled, because all rows stay in place.
    pitch_m, stored_rows = (grid.voxel_size_m[2], *grid.voxel_size_m[1:]), volume.shape[1]
    found = VolumeGrid((width, stored_rows, width), pitch_m, grid.center_m)
    volume = resample(volume, found, replace(grid, shape=(depth, stored_rows, width)))
    return volume.clamp(min=0) if plan.fit.positivity else volume


def _misfit_function(
    scan: Scan, plan: Plan, views: NDArray[np.intp], probe: Tensor, scale: float, mesh: Mesh
) -> Callable[[Tensor, Tensor], float]:
    """Return a function that evaluates the misfit of a volume on a few views."""
    settings = replace(plan.fit, batch_views=1, refinement=RefinementSettings())
    slab = Slab(mesh, plan.grid.shape[1], plan.ranks_of_views(scan.geometry))
    support = cylinder_support(scan.geometry, plan.grid, slab.rows) if plan.support == "cylinder" else None
    model = plan.forward_model(scan.geometry, slab).to(mesh.device)
    unknowns = Unknowns(model, probe, settings, mesh.device, support)
    spread = views[np.unique(np.linspace(0, len(views) - 1, _TEST_VIEWS).astype(int))]
    some, _ = share_views(spread, mesh.angles, mesh)
    frames = load_views(
        scan,
        some,
        scale=scale,
        device=mesh.device,
        saturated=plan.saturated,
        ahead=Prefetcher(plan.batches_ahead) if plan.frames_in == "disk" else None,
        own=slab.computes(some),
        rows=plan.frame_rows(mesh),
    )

    def misfit(delta: Tensor, beta: Tensor) -> float:
        unknowns.start_from(delta, beta)
        found = evaluate(unknowns, frames, mesh)
        return float("inf") if found is None else found

    return misfit
