"""The volume that holography of several angles starts from: a thin-sample retrieval, back-projected.

Every rank takes its share of the angles; volumes of angles add up.
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
"""β/δ that are tried where the recipe does not bound it; the fit then finds each voxel's own."""

_JUDGED_VIEWS = 6
"""Views, spread over the scan, that a first volume has to explain better than an empty one."""

_MOST_LEFT = 0.5
"""Most of an empty volume's misfit that a first volume may leave: retrievals of mere noise gain a little, too."""

_ROWS = 32
"""Rows along y that are back-projected at once."""


@dataclass(frozen=True, eq=False)
class AngleHolograms:
    """The holograms of an angle, over the intensity of the beam and on the volume's lateral pixels.

    Attributes:
        angle_rad: the angle.
        distances_m: (distance,) effective distances.
        frames: (distance, y, x); 1 where no frame reaches.
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
    """Return δ and β of the first volume that explains a few views best, and what it is, for a person.

    They are (z, y, x) on the plan's grid, the rows held; none, and "empty", where an empty one explains the views best,
    or is planned.

    The views are of those held back, where there are any: a retrieval explains also noise of what it is made of.

    Contrast transfer serves any number of distances. For one distance Paganin's retrieval is tried too: it is the
    better one where fringes are much finer than the sample's details.

    Args:
        scan: what was measured.
        plan: of the reconstruction.
        fitted: views of all ranks to make it of.
        held_back: views of all ranks to judge it by.
        probe: complex (mode, y, x), in the root of the frames' units over ``scale``.
        scale: intensity that becomes one.
        mesh: the ranks.
    """
    best: tuple[list[Tensor], str] = [], "empty"
    if plan.start == "empty":
        return best
    read = functools.partial(load_holograms, scan, plan, fitted, probe, scale, mesh)
    # On disk they stay there, and are read again for every retrieval.
    kept = list(read()) if plan.frames_in == "memory" else None
    misfit_of = _misfit_function(scan, plan, held_back if len(held_back) else fitted, probe, scale, mesh)
    empty = Slab(mesh, plan.grid.shape[1]).part_of(torch.zeros((), device=mesh.device).expand(plan.grid.shape))
    least = _MOST_LEFT * misfit_of(empty, empty)
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
    """Yield the holograms of this rank's share of the angles that some views have, read angle by angle.

    Args:
        scan: what was measured.
        plan: of the reconstruction.
        views: which views, of all ranks.
        probe: complex (mode, y, x), in the root of the frames' units over ``scale``.
        scale: intensity that becomes one.
        mesh: the ranks.
    """
    geometry, angles = scan.geometry, np.unique(scan.geometry.angle_rad[views])
    beam_at = _beam_of(geometry, plan, probe)
    for angle in angles[mesh.share(len(angles))].tolist():
        members = views[geometry.angle_rad[views] == angle]
        distances_m = np.unique(geometry.effective_distance_m[members])
        frames = []
        for distance_m in distances_m:
            own = members[geometry.effective_distance_m[members] == distance_m]
            seen = ((view, _hologram(scan, plan, view, scale * beam_at(view))) for view in own.tolist())
            frames.append(_mean_on_grid(seen, geometry, plan.grid))
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
    """Return the projected phase (y, x) by Paganin's retrieval, of one distance."""
    return paganin_phase(
        holograms.frames,
        distance_m=holograms.distances_m[0],
        wavelength_m=geometry.beam.wavelength_m,
        pixel_m=(grid.voxel_size_m[1], grid.voxel_size_m[2]),
        beta_over_delta=max(ratio, 1e-6),
    )


def _ratios(plan: Plan) -> tuple[float, ...]:
    least, most = plan.fit.priors.beta_over_delta_min, plan.fit.priors.beta_over_delta_max
    bounded = np.clip(_RATIOS, least or 0.0, np.inf if most is None else most)
    return tuple(dict.fromkeys(bounded.tolist()))


def _beam_of(geometry: ScanGeometry, plan: Plan, probe: Tensor) -> Callable[[int], Tensor]:
    """Return what gives the frame (y, x) of a view without a sample, in the units of |probe|²."""
    flat = VolumeGrid((1, *plan.grid.shape[1:]), plan.grid.voxel_size_m, plan.grid.center_m)
    model = replace(plan, propagation="projection", slices=1, grid=flat).forward_model(geometry)
    nothing, probe = torch.zeros(flat.shape), probe.cpu()
    known: dict[tuple[float, ...], Tensor] = {}

    @torch.no_grad()
    def beam(view: int) -> Tensor:
        place = (geometry.effective_distance_m[view], *geometry.position_m[view].tolist())
        if place not in known:
            known.clear()
            known[place] = model(nothing, nothing, probe, [view])[0]
        return known[place]

    return beam


def _hologram(scan: Scan, plan: Plan, view: int, beam: Tensor) -> Tensor:
    """Return a frame (y, x) over the beam's, with its nearest good neighbour in place of a bad pixel.

    Its border is brought to 1, as if there were no sample: retrievals take it for granted around the frame.
    """
    frame = scan.frames.read(np.array([view]), saturated=plan.saturated)[0]
    lit = beam.numpy() > 1e-3 * float(beam.max())
    good = scan.frames.mask & np.isfinite(frame) & lit
    relative = np.divide(frame, beam.numpy(), out=np.ones_like(frame), where=good)
    if not good.all() and good.any():
        nearest = ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True)
        relative = relative[tuple(np.asarray(nearest))]
    border = np.concatenate([relative[0], relative[-1], relative[:, 0], relative[:, -1]])
    level = float(np.median(border))
    return torch.from_numpy(relative / level if level > 0 else relative)


def _mean_on_grid(holograms: Iterator[tuple[int, Tensor]], geometry: ScanGeometry, grid: VolumeGrid) -> Tensor:
    """Return the mean (y, x) of the holograms of views on the volume's lateral pixels, 1 where there are none."""
    pitch_z, (height, width), magnification = grid.voxel_size_m[0], grid.shape[1:], geometry.magnification
    onto = VolumeGrid((1, height, width), grid.voxel_size_m, (0.0, *grid.center_m[1:]))
    total, seen = torch.zeros(height, width), torch.zeros(height, width)
    for view, hologram in holograms:
        ny, nx = hologram.shape
        y, x = geometry.position_m[view].tolist()
        pitch_y, pitch_x = np.array(geometry.detector.pixel_size_m) / magnification[view]
        own = VolumeGrid((1, ny, nx), (pitch_z, pitch_y, pitch_x), (0.0, y, x))
        covers = _inside(own, onto)
        total += covers * resample(hologram[None], own, onto)[0]
        seen += covers
    return torch.where(seen > 0, total / seen.clamp(min=1), 1.0)


def _inside(grid: VolumeGrid, onto: VolumeGrid) -> Tensor:
    """Return which lateral pixels (y, x) of one grid lie in the field of the other."""
    lines = []
    for axis in (1, 2):
        index = torch.arange(onto.shape[axis], dtype=torch.float64) - (onto.shape[axis] - 1) / 2
        away_m = onto.center_m[axis] + index * onto.voxel_size_m[axis] - grid.center_m[axis]
        lines.append(away_m.abs() <= grid.shape[axis] * grid.voxel_size_m[axis] / 2)
    return lines[0][:, None] & lines[1]


def _volume(
    phases: Iterator[tuple[float, Tensor]],
    all_angles_rad: NDArray[np.float64],
    geometry: ScanGeometry,
    plan: Plan,
    mesh: Mesh,
) -> Tensor:
    """Return δ (z, y, x), the rows held, from the projected phases of all ranks' angles, within its bounds.

    A rank holds the phases of some of its angles at a time; volumes of angles add up.
    """
    grid, angles_rad = plan.grid, np.unique(all_angles_rad)
    depth, height, width = grid.shape
    weight_of = dict(zip(angles_rad.tolist(), angle_weights(angles_rad).tolist(), strict=True))
    held = Slab(mesh, height).rows
    volume = torch.zeros((width, held.stop - held.start, width), device=mesh.device)
    most = math.ceil(len(angles_rad) / mesh.size)
    at_once = plan.angles_at_once or most
    # Every rank takes part in the sums, also where it has no angle left.
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
    # Rows lie where they lay: only z and x are sampled anew.
    pitch_m, rows_held = (grid.voxel_size_m[2], *grid.voxel_size_m[1:]), volume.shape[1]
    found = VolumeGrid((width, rows_held, width), pitch_m, grid.center_m)
    volume = resample(volume, found, replace(grid, shape=(depth, rows_held, width)))
    return volume.clamp(min=0) if plan.fit.positivity else volume


def _misfit_function(
    scan: Scan, plan: Plan, views: NDArray[np.intp], probe: Tensor, scale: float, mesh: Mesh
) -> Callable[[Tensor, Tensor], float]:
    """Return what gives the misfit of a volume at a few views."""
    settings = replace(plan.fit, batch_views=1, refinement=RefinementSettings())
    slab = Slab(mesh, plan.grid.shape[1], plan.ranks_of_views(scan.geometry))
    support = cylinder_support(scan.geometry, plan.grid, slab.rows) if plan.support == "cylinder" else None
    model = plan.forward_model(scan.geometry, slab).to(mesh.device)
    unknowns = Unknowns(model, probe, settings, mesh.device, support)
    spread = views[np.unique(np.linspace(0, len(views) - 1, _JUDGED_VIEWS).astype(int))]
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
        found, _ = evaluate(unknowns, frames, settings, mesh)
        return float("inf") if found is None else found

    return misfit
