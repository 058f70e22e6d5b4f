"""Recipe and scan → everything the reconstruction needs to know, before anything is allocated."""

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len

from bluesky_multislice.errors import PlanError
from bluesky_multislice.frames import Saturated
from bluesky_multislice.geometry import ScanGeometry, VolumeGrid, depth_of_field_m
from bluesky_multislice.models import Edges, ForwardModel
from bluesky_multislice.optics import Gradient, Interpolation, halo_pixels, thickest_slice_m
from bluesky_multislice.plausibility import angle_warnings, position_warnings
from bluesky_multislice.recipe import Recipe, Support
from bluesky_multislice.scan import Scan
from bluesky_multislice.solvers import FitSettings, OptimiserName, Priors, RefinementSettings, split_views

_STEPS_AN_EPOCH = 20
"""Least steps of the optimiser an epoch, as long as a rank has that many views."""

_WEIGHTED_PROBE_STEP = 2.0
"""Of the weighted probe: weak modes grow twice as fast as with 1, and the fit is still stable at 3."""

_WEIGHTED_MODES = 3
"""Of a probe that patterns of one angle refine."""

_BYTES_A_VOXEL = 4 * 2 * 9
"""δ and β: unknowns, gradient, two moments, best copy, turned, binned, transmission and their gradients."""

_SMOOTHING = {"ptychography": 0.003, "holography": 0.001}
"""Weight of total variation at several angles, which leave gaps.

Measured on thick phantoms: error 0.068 against 0.143 without (patterns of 1e8 photons, probe unknown), 0.097 against
0.162 (holograms).
"""

_OUTGOING_MARGIN = 16
"""Pixels on each side of a near-field window that light leaves through."""

_LATER_STEPS = 0.3
"""Steps of Adam in a fit that starts from an earlier one, relative to those from nothing."""

_LEAST_COARSE = 8
"""Pixels on a side of the coarsest frames."""

_LEAST_TILE = 256
"""Pixels on a side of a tile at least; it also has four halos at least, so that halos cost no more than tiles."""


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        grid: the volume.
        propagation: name of the propagation.
        slices: slices along the beam; they share the planes of the volume as evenly as they can.
        margin: pixels around each frame against wrap-around.
        edges: whether light leaves at the window's edges.
        interpolation: how the volume is turned.
        oversampling: pixels of the grid on a side of each detector pixel.
        point_spread_pixels: σ of the detector's point spread, detector pixels.
        gradient: which waves the gradient keeps: ``stored`` is fastest, ``recomputed`` takes no memory for them.
        tiles: number of tiles (y, x) of tiled multislice.
        halo: pixels around each tile.
        probe_modes: probe modes.
        held_back_every: every n-th view judges the fit.
        ranks: processes.
        device: ``cpu``, ``cuda`` or ``auto``.
        support: ``cylinder`` keeps matter inside what every angle sees.
        saturated: whether saturated pixels are refused or left out.
        shell_correlation: fit two halves of the views as well and correlate them.
        fit: how to fit.
        depths_of_field: thickness of the volume in depths of field; above one the thin-sample model is wrong.
        memory_bytes: expected peak of one rank.
        notes: what a person should know about these choices.
        coarseness: pixels of the frames on a side of one that is fitted, see ``ScanGeometry.coarser``.
        earlier: cheaper fits that come first, each the start of the next.
    """

    grid: VolumeGrid
    propagation: str
    slices: int
    margin: int
    edges: Edges
    interpolation: Interpolation
    oversampling: int
    point_spread_pixels: float
    gradient: Gradient
    tiles: tuple[int, int]
    halo: int
    probe_modes: int
    held_back_every: int
    ranks: int
    device: str
    support: Support
    saturated: Saturated
    shell_correlation: bool
    fit: FitSettings
    depths_of_field: float
    memory_bytes: int
    notes: tuple[str, ...] = ()
    coarseness: int = 1
    earlier: tuple["Plan", ...] = ()

    @property
    def epochs(self) -> int:
        """Most epochs of all fits together."""
        return sum(plan.fit.epochs + plan.fit.polish for plan in (*self.earlier, self))

    @property
    def options(self) -> dict[str, Any]:
        """Further keywords of the propagation."""
        tiling = {"tiles": self.tiles, "halo": self.halo} if self.propagation == "tiled-multislice" else {}
        return {"gradient": self.gradient, **tiling}

    def forward_model(self, geometry: ScanGeometry) -> ForwardModel:
        """Return the forward model of a scan's views."""
        return ForwardModel(
            geometry.coarser(self.coarseness).oversampled(self.oversampling),
            self.grid,
            slices=self.slices,
            propagation=self.propagation,
            options=self.options,
            margin=self.margin,
            edges=self.edges,
            interpolation=self.interpolation,
            oversampling=self.oversampling,
            point_spread_pixels=self.point_spread_pixels,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """Rebuild a plan from ``as_dict``."""
        return cls(
            **{
                **values,
                "grid": VolumeGrid.from_dict(values["grid"]),
                "fit": FitSettings.from_dict(values["fit"]),
                "tiles": tuple(values["tiles"]),
                "notes": tuple(values["notes"]),
                "earlier": tuple(cls.from_dict(earlier) for earlier in values["earlier"]),
            }
        )


def make_plan(recipe: Recipe, scan: Scan) -> Plan:
    """Derive a plan.

    Args:
        recipe: what a person chose.
        scan: what was measured.

    Raises:
        PlanError: the recipe does not fit the scan, or the machine has too little memory.
        ScanError: the views do not share one object pixel, or overlap nowhere.
    """
    geometry = scan.geometry.oversampled(recipe.oversampling)
    notes = position_warnings(geometry) + angle_warnings(geometry)
    margin = _margin(recipe, geometry)
    several_angles = len(np.unique(geometry.angle_rad)) > 1
    slices = recipe.slices or _slices(recipe, geometry, several_angles)
    grid = _grid(recipe, geometry, margin, slices, several_angles)
    _check_depth(recipe, grid, slices, several_angles)
    depth_of_field = depth_of_field_m(geometry.object_pixel_m[1], geometry.beam.wavelength_m)
    if not several_angles and recipe.depth_um is None:
        notes.append("one angle and no depth_um: one slice, of which only δ·thickness and β·thickness are measured")
    fitted, held = split_views(geometry.views, recipe.held_back_every)
    if recipe.held_back_every and not len(held):
        notes.append("too few views to hold any back: the fit is not judged on frames of its own")
    _check_fitted(recipe, geometry.views, len(fitted))
    _check_refinement(recipe, geometry, several_angles)
    _check_device(recipe.device)
    ranks = recipe.ranks or _ranks(recipe, len(fitted))
    if ranks > len(fitted):
        raise PlanError(
            "Every rank needs a view to fit.",
            got=f"{ranks} ranks for {len(fitted)} fitted views.",
            remedy="ask for fewer ranks.",
        )
    settings = _fit_settings(recipe, geometry, several_angles, len(fitted) // ranks)
    if recipe.propagation == "projection":
        slices = 1
    tiles, halo = (1, 1), 0
    if recipe.propagation == "tiled-multislice":
        tiles, halo = _tiles(geometry, grid, margin, recipe.accuracy)
    modes = recipe.probe_modes or _modes(scan, settings)
    memory = functools.partial(_memory, grid, geometry, slices, margin, settings.batch_views, ranks, modes)
    room, ranks_there = _room(recipe.device, ranks)
    gradient: Gradient = "stored" if memory(waves_kept=slices) * ranks_there < room / 2 else "recomputed"
    plan = Plan(
        grid=grid,
        propagation=recipe.propagation,
        slices=slices,
        margin=margin,
        edges=recipe.edges,
        interpolation=recipe.interpolation,
        oversampling=recipe.oversampling,
        point_spread_pixels=recipe.point_spread_pixels,
        gradient=gradient,
        tiles=tiles,
        halo=halo,
        probe_modes=modes,
        held_back_every=recipe.held_back_every,
        ranks=ranks,
        device=recipe.device,
        support=recipe.support,
        saturated=recipe.saturated,
        shell_correlation=recipe.shell_correlation,
        fit=settings,
        depths_of_field=grid.thickness_m / depth_of_field,
        memory_bytes=memory(waves_kept=slices if gradient == "stored" else 0),
        notes=tuple(notes),
    )
    _check_memory(plan)
    earlier = _earlier(recipe, geometry, plan)
    return replace(plan, earlier=earlier, fit=_with_smaller_steps(settings)) if earlier else plan


def _with_smaller_steps(settings: FitSettings) -> FitSettings:
    """Return the settings of a fit that starts near its end, where Adam's first steps would undo what is there."""
    object_step_rad, probe_step = (_LATER_STEPS * step for step in (settings.object_step_rad, settings.probe_step))
    return replace(settings, object_step_rad=object_step_rad, probe_step=probe_step)


def _earlier(recipe: Recipe, geometry: ScanGeometry, plan: Plan) -> tuple[Plan, ...]:
    """Return the cheaper fits that come first, the coarsest before others; they refine but volume and probe."""
    levels = recipe.coarse_levels
    factors = [2**level for level in range(levels, 0, -1)]
    if recipe.first_propagation is not None and not factors:
        factors = [1]
    if factors and any(n % factors[0] or n < factors[0] * _LEAST_COARSE for n in geometry.detector.shape):
        raise PlanError(
            f"A coarser fit needs frames of a multiple of its factor, and {_LEAST_COARSE} pixels a side.",
            got=f"frames of {geometry.detector.shape} for a fit {factors[0]} times coarser.",
            remedy="ask for fewer coarse_levels.",
        )
    along_z = factors if len(np.unique(geometry.angle_rad)) > 1 else [1] * len(factors)
    propagation = recipe.first_propagation or plan.propagation
    return tuple(
        _coarser(plan, (deeper, factor, factor), propagation) for factor, deeper in zip(factors, along_z, strict=True)
    )


def _coarser(plan: Plan, factors: tuple[int, int, int], propagation: str) -> Plan:
    """Return the plan of a fit on a grid coarser by factors (z, y, x); its depth of field is deeper by their square."""
    grid, factor = plan.grid, factors[-1]
    pitch = [size * times for size, times in zip(grid.voxel_size_m, factors, strict=True)]
    shape = [math.ceil(n / times) for n, times in zip(grid.shape, factors, strict=True)]
    slices = 1 if propagation == "projection" else math.ceil(plan.slices / factor**2)
    return replace(
        plan,
        grid=VolumeGrid((shape[0], shape[1], shape[2]), (pitch[0], pitch[1], pitch[2]), grid.center_m),
        propagation=propagation,
        slices=slices,
        margin=plan.margin // factor,
        halo=math.ceil(plan.halo / factor),
        fit=replace(plan.fit, refinement=RefinementSettings(), polish=0),
        shell_correlation=False,
        coarseness=factor,
    )


def _fit_settings(recipe: Recipe, geometry: ScanGeometry, several_angles: bool, views_a_rank: int) -> FitSettings:
    ptychography = geometry.technique == "ptychography"
    refine_probe = ptychography if recipe.refine_probe is None else recipe.refine_probe
    smoothing = recipe.total_variation
    if smoothing is None:
        smoothing = _SMOOTHING[geometry.technique] if several_angles else 0.0
    positivity = several_angles if recipe.positivity is None else recipe.positivity
    vacuum = 1.0 if recipe.l1 is None and positivity and several_angles and ptychography else 0.0
    optimiser = _optimiser(recipe, geometry, several_angles, vacuum_is_held=vacuum > 0)
    return FitSettings(
        epochs=recipe.epochs or _epochs(geometry, several_angles, optimiser),
        batch_views=recipe.batch_views or int(np.clip(views_a_rank // _STEPS_AN_EPOCH, 1, 32)),
        object_step_rad=(0.05 if several_angles else 0.02) * recipe.step,
        probe_step=(_WEIGHTED_PROBE_STEP if optimiser == "weighted" else 0.02) * recipe.step if refine_probe else 0.0,
        gradient_floor=0.02 if ptychography else 0.0,
        optimiser=optimiser,
        step=recipe.step,
        polish=recipe.polish,
        absorption=recipe.absorption,
        positivity=positivity,
        seed=recipe.seed,
        refinement=RefinementSettings(**recipe.refine.model_dump()),
        fidelity=recipe.fidelity,
        priors=Priors(
            total_variation=smoothing,
            total_variation_z=recipe.total_variation_z,
            l1=recipe.l1 or 0.0,
            vacuum=vacuum,
            smoothness_z=recipe.smoothness_z,
            beta_over_delta_min=recipe.beta_over_delta_min,
            beta_over_delta_max=recipe.beta_over_delta_max,
        ),
    )


def _optimiser(recipe: Recipe, geometry: ScanGeometry, several_angles: bool, *, vacuum_is_held: bool) -> OptimiserName:
    if recipe.optimiser == "weighted" and several_angles:
        raise PlanError(
            "The weighted optimiser knows the light on a sample that is not turned.",
            got="several angles.",
            remedy="take another optimiser, or leave it out.",
        )
    if recipe.optimiser is not None:
        return recipe.optimiser
    ptychography = geometry.technique == "ptychography"
    if several_angles:
        # Its long first steps would leave a haze in patterns' volumes where nothing takes it away.
        return "nesterov" if vacuum_is_held or not ptychography else "adam"
    return "weighted" if ptychography else "adam"


def _modes(scan: Scan, settings: FitSettings) -> int:
    """Return the probe's modes: no real beam is quite coherent, nor a detector pixel a point."""
    if settings.optimiser == "weighted" and settings.probe_step > 0:
        return _WEIGHTED_MODES
    return 1 if scan.probe is None else len(scan.probe)


def _epochs(geometry: ScanGeometry, several_angles: bool, optimiser: OptimiserName) -> int:
    if optimiser == "weighted":
        return 30
    if not several_angles:
        return 60
    if geometry.technique == "holography":
        return 25 if optimiser == "nesterov" else 30
    return 8 if optimiser == "nesterov" else 15


def window_margin(
    geometry: ScanGeometry, accuracy: float, *, least: int = 0, most: float = 0.25, multiple_of: int = 1
) -> int:
    """Return the pixels around a near-field frame that keep light from wrapping around; 0 in the far field.

    Light of the highest sampled frequency 1/(2·pixel) walks λ·distance/(2·pixel) sideways; ``halo_pixels`` says how
    much of that an accuracy needs. The window's size is made one that the FFT is fast for.

    Args:
        geometry: the scan.
        accuracy: relative error of the scattered wave.
        least: smallest margin on each side, in pixels.
        most: largest margin on each side, in frames. A quarter serves a fit, where little light goes that far out.
        multiple_of: what the margin is a multiple of.
    """
    if geometry.detector.regime == "far_field":
        return 0
    pixel, frame = min(geometry.object_pixel_m), max(geometry.detector.shape)
    wavelength, distance = geometry.beam.wavelength_m, float(geometry.effective_distance_m.max())
    walk = wavelength * distance / (2 * pixel) / pixel
    halo = halo_pixels(accuracy, wavelength_m=wavelength, distance_m=distance, pixel_size_m=pixel)
    margin = max(least, math.ceil(min(walk, halo, most * frame)))
    while margin % multiple_of or any(next_fast_len(n + 2 * margin) != n + 2 * margin for n in geometry.detector.shape):
        margin += 1
    return margin


def _margin(recipe: Recipe, geometry: ScanGeometry) -> int:
    least = _OUTGOING_MARGIN if recipe.edges == "outgoing" else 0
    return window_margin(geometry, recipe.accuracy, least=least, multiple_of=2**recipe.coarse_levels)


def _tiles(geometry: ScanGeometry, grid: VolumeGrid, margin: int, accuracy: float) -> tuple[tuple[int, int], int]:
    """Return the number of tiles (y, x) of a window, and their halo."""
    halo = halo_pixels(
        accuracy,
        wavelength_m=geometry.beam.wavelength_m,
        distance_m=grid.thickness_m,
        pixel_size_m=min(geometry.object_pixel_m),
    )
    least = max(_LEAST_TILE, 4 * halo)
    ny, nx = (max(1, (n + 2 * margin) // least) for n in geometry.detector.shape)
    return (ny, nx), halo


def _slices(recipe: Recipe, geometry: ScanGeometry, several_angles: bool) -> int:
    pixel = geometry.object_pixel_m[1]
    depth_of_field = depth_of_field_m(pixel, geometry.beam.wavelength_m)
    thickest = thickest_slice_m(recipe.accuracy, depth_of_field_m=depth_of_field)
    if not several_angles:
        return 1 if recipe.depth_um is None else math.ceil(recipe.depth_um * 1e-6 / thickest)
    planes = _planes(recipe, geometry)
    return min(planes, math.ceil(planes * pixel / thickest))


def _planes(recipe: Recipe, geometry: ScanGeometry) -> int:
    if recipe.depth_um is not None:
        return max(1, round(recipe.depth_um * 1e-6 / geometry.object_pixel_m[1]))
    return _lateral(geometry, _margin(recipe, geometry), True)[0][1]


def _lateral(geometry: ScanGeometry, margin: int, several_angles: bool) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the extent (y, x) in pixels that the windows cover, and its middle (y, x) in metres."""
    low, high = geometry.position_m.min(0), geometry.position_m.max(0)
    center = (low + high) / 2
    if several_angles:
        center[1], high[1] = 0.0, np.abs(geometry.position_m[:, 1]).max()
        low[1] = -high[1]
    frame = np.array(geometry.detector.shape) + (2 * margin if geometry.technique == "ptychography" else 0)
    extent = np.ceil((high - low) / np.array(geometry.object_pixel_m) - 1e-3).astype(int) + frame
    return (int(extent[0]), int(extent[1])), (float(center[0]), float(center[1]))


def _grid(recipe: Recipe, geometry: ScanGeometry, margin: int, slices: int, several_angles: bool) -> VolumeGrid:
    (py, px), ((ny, nx), center) = geometry.object_pixel_m, _lateral(geometry, margin, several_angles)
    if several_angles:
        if abs(py / px - 1) > 1e-3:
            raise PlanError(
                "A volume from several angles needs square object pixels.",
                got=f"pixels of {py:g} by {px:g} m.",
                remedy="bin or crop the frames to square object pixels.",
            )
        return VolumeGrid((_planes(recipe, geometry), ny, nx), (px, py, px), (0.0, *center))
    depth = depth_of_field_m(px, geometry.beam.wavelength_m) if recipe.depth_um is None else recipe.depth_um * 1e-6
    return VolumeGrid((slices, ny, nx), (depth / slices, py, px), (0.0, *center))


def _ranks(recipe: Recipe, fitted: int) -> int:
    cuda = recipe.device == "cuda" or (recipe.device == "auto" and torch.cuda.is_available())
    places = torch.cuda.device_count() if cuda else min(os.cpu_count() or 1, 8)
    return max(1, min(places, fitted // 4))


def _memory(
    grid: VolumeGrid,
    geometry: ScanGeometry,
    slices: int,
    margin: int,
    batch: int,
    ranks: int,
    modes: int,
    *,
    waves_kept: int,
) -> int:
    """Return the bytes of one rank: volume-sized state, its frames, and waves of a batch of views."""
    ny, nx = geometry.detector.shape
    frames = geometry.views * ny * nx * 4 // ranks
    waves = 8 * batch * (ny + 2 * margin) * (nx + 2 * margin) * (8 + waves_kept) * modes
    transmissions = 8 * math.prod(grid.shape[1:]) * max(waves_kept, 1)
    return math.prod(grid.shape) * _BYTES_A_VOXEL + frames + waves + transmissions


def _room(device: str, ranks: int) -> tuple[int, int]:
    """Return the bytes of memory of a GPU or of this machine, and how many ranks share them."""
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.get_device_properties(0).total_memory, 1
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), ranks


def _check_refinement(recipe: Recipe, geometry: ScanGeometry, several_angles: bool) -> None:
    """Refuse what the frames of a scan do not depend on."""
    senseless = {
        "distance": geometry.detector.regime == "far_field",
        "slice_spacing": several_angles or recipe.depth_um is None,
        "angle": not several_angles,
        "tilt": not several_angles,
        "background_map": "background" in recipe.refine.quantities,
    }
    refused = [name for name in recipe.refine.quantities if senseless.get(name, False)]
    if refused:
        raise PlanError(
            "The distance is refined in the near field, slice_spacing at one angle with a depth_um, angle and tilt at "
            "several angles, and one background.",
            got=f"{', '.join(refused)} for {'several angles' if several_angles else 'one angle'} in the "
            f"{geometry.detector.regime.replace('_', ' ')}.",
            remedy="leave them out of refine.quantities.",
        )


def _check_depth(recipe: Recipe, grid: VolumeGrid, slices: int, several_angles: bool) -> None:
    if slices > grid.shape[0]:
        raise PlanError(
            "A slice holds at least one plane of the volume.",
            got=f"{slices} slices for {grid.shape[0]} planes.",
            remedy="leave slices out, or ask for fewer.",
        )
    if not several_angles and recipe.depth_um is None and slices > 1:
        raise PlanError(
            "One angle does not tell how thick a sample is, and slices need to know.",
            got=f"{slices} slices without a depth.",
            remedy="give depth_um, or leave slices out.",
        )
    if recipe.support == "cylinder" and not several_angles:
        raise PlanError(
            "The cylinder that every angle sees needs several angles.",
            got="support cylinder for a scan of one angle.",
            remedy="leave support out.",
        )


def _check_fitted(recipe: Recipe, views: int, fitted: int) -> None:
    if not fitted:
        raise PlanError(
            "Some frames must be left to fit.",
            got=f"held_back_every {recipe.held_back_every}, which holds back all {views}.",
            remedy="hold back every second frame at most, or none with 0.",
        )
    if recipe.shell_correlation and fitted < 2:
        raise PlanError(
            "Two halves of the views are needed to correlate them.",
            got=f"{fitted} view to fit.",
            remedy="leave shell_correlation out.",
        )


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise PlanError(
            "The device cuda needs a GPU that PyTorch can use.",
            got="none on this machine.",
            remedy="use device auto or cpu, or install PyTorch's CUDA build and the driver.",
        )


def _check_memory(plan: Plan) -> None:
    room, here = _room(plan.device, plan.ranks)
    if plan.memory_bytes * here > room:
        raise PlanError(
            "The reconstruction must fit into memory.",
            got=f"{plan.memory_bytes * here / 2**30:.1f} GiB for {here} ranks on a device with {room / 2**30:.1f} GiB.",
            remedy="use fewer ranks or smaller batches, a smaller depth_um, or bin the frames.",
        )
