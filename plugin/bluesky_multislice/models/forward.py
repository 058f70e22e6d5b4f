"""The forward model of all techniques: noiseless expected intensity of views from a volume and a probe.

Shapes: volume (z, y, x), the rows that this rank holds; probe (mode, y, x) on the window; intensity (view, y, x).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bluesky_multislice.choices import Kernel
from bluesky_multislice.measurement import ScanGeometry, VolumeGrid
from bluesky_multislice.models.adjustments import NO_ADJUSTMENTS, Adjustments
from bluesky_multislice.models.camera import Camera, WaveTile
from bluesky_multislice.models.frame_tiles import FrameTiles, check_tiles
from bluesky_multislice.models.options import ModelOptions
from bluesky_multislice.models.rotated_object import RotatedObject
from bluesky_multislice.models.shared_waves import SharedWaves, shared_waves
from bluesky_multislice.models.transfer_functions import TransferFunctions
from bluesky_multislice.models.view_windows import ViewWindows
from bluesky_multislice.optics import (
    BETWEEN_MID_PLANES,
    PROPAGATIONS,
    absorbing_margin,
    largest_decay_rate,
    on_device,
    planes_of_slices,
    rotate,
    shift_transfer,
    with_y_last,
)
from bluesky_multislice.parallel import Mesh, Slab, ranks_of_views


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Inputs of the model; see ``ForwardModel.forward``."""

    delta: Tensor
    beta: Tensor | None
    probe: Tensor
    adjustments: Adjustments
    unit: float
    rotated: RotatedObject | None


class ForwardModel(nn.Module):
    """Expected intensity of the views of a thick sample.

    The window of a view is the part of the rotated object around the view's position. The subpixel part of the position
    shifts the probe and, for near-field frames, the detector with it.

    Args:
        geometry: the scan.
        grid: the volume's grid; the window has the same lateral pitch.
        options: options of the model.
        slab: the volume's rows that this rank holds and the views that it computes; None: all of both.
        frame_tiles: the rows of every frame that each rank of an angle computes, with a halo; None: whole frames.

    Attributes:
        angles_rad: (angle,) distinct rotation angles.
        angle_of: (view,) index of each view's angle.
        camera: computes frames from exit waves.
        effective_distances_m: (distance,) effective distance of each distinct pair of distance and magnification.
        far_field: whether frames are diffraction patterns.
        frame: pixels (y, x) of whole frames.
        frame_rows: rows of the frames that this rank computes.
        pixel_m: pitch (y, x) of the window.
        slab: the volume's rows that this rank holds and the views that it computes.
        slice_thickness_m: thickness of each slice.
        window: pixels (y, x) of the probe.
        tile: pixels (y, x) of the waves that this rank computes, part or all of the window.

    Raises:
        ScanError: frame tiles for frames that are not holograms of one magnification.
    """

    _absorber: Tensor | None

    def __init__(
        self,
        geometry: ScanGeometry,
        grid: VolumeGrid,
        options: ModelOptions,
        *,
        slab: Slab | None = None,
        frame_tiles: FrameTiles | None = None,
    ) -> None:
        super().__init__()
        self.options, self.grid = options, grid
        self.slab = slab or Slab(Mesh(0, 1, torch.device("cpu")), grid.shape[1])
        self.slices = 1 if options.propagation == "projection" else options.slices
        self._propagate, self._keywords = PROPAGATIONS[options.propagation], dict(options.keywords)
        planes = planes_of_slices(grid.shape[0], self.slices)
        self.slice_thickness_m = [number * grid.voxel_size_m[0] for number in planes]
        self.wavelength_m = geometry.beam.wavelength_m
        ny, nx = geometry.field_shape
        self.window = (ny + 2 * options.margin, nx + 2 * options.margin)
        self.pixel_m = (grid.voxel_size_m[1], grid.voxel_size_m[2])
        self._windows = [(0, self.window[0])] * self.slab.mesh.slabs
        frame_rows = None
        if frame_tiles is not None:
            check_tiles(geometry)
            frame_rows = slice(*frame_tiles.rows[self.slab.mesh.slab])
            self._windows = frame_tiles.in_window(
                self.window[0], margin=options.margin, oversampling=options.oversampling
            )
        start, end = self._own_window = self._windows[self.slab.mesh.slab]
        self.tile, self.frame_rows = (end - start, self.window[1]), frame_rows or slice(None)
        self.angles_rad, self.angle_of = np.unique(geometry.angle_rad, return_inverse=True)
        self._set_edges()
        self.camera = Camera(geometry, options, WaveTile(self.tile, self.pixel_m, start, frame_rows))
        self.effective_distances_m = self.camera.effective_distances_m
        self.far_field, self.frame = self.camera.far_field, self.camera.frame
        self._view_windows = ViewWindows(geometry, grid, self.window, self.camera, options.precision)
        self._transfers = TransferFunctions(self.camera, self.slice_thickness_m, self._merge_outer_steps())

    @property
    def _device(self) -> torch.device:
        return self._transfers.device

    @property
    def first_rows(self) -> NDArray[np.intp]:
        """(view,) first row of each view's window in the volume; it may be outside of the volume."""
        return np.rint(self._view_windows.first[:, 0]).astype(np.intp)

    @property
    def between_pixels(self) -> NDArray[np.bool_]:
        """(view,) whether each view's window starts between pixels, so that the probe needs a subpixel shift."""
        return self._view_windows.between_pixels

    def ranks_of_views(self, slabs: int) -> NDArray[np.intp]:
        """Return (view,) the index of the slab whose rank computes each view, see ``parallel.ranks_of_views``."""
        return ranks_of_views(self._view_windows.first[:, 0], self.window[0], self.grid.shape[1], slabs)

    def _merge_outer_steps(self) -> Kernel | None:
        """Move the first and the last half step to the transfer functions and return their kernel: two FFT pairs fewer.

        In the far field the last half step is omitted instead: a unitary step does not change a diffraction pattern.
        If evanescent waves make it non-unitary, all steps stay in the propagation.
        """
        kernel: Kernel = self._keywords.get("kernel", "angular_spectrum")
        optics = {"pixel_size_m": self.pixel_m, "wavelength_m": self.wavelength_m, "kernel": kernel}
        unitary = largest_decay_rate(self.tile, **optics) == 0
        if self.options.propagation not in BETWEEN_MID_PLANES or (self.far_field and not unitary):
            return None
        self._keywords["between_mid_planes"] = True
        return kernel

    def _set_edges(self) -> None:
        """Set absorption at the edges: finite difference has its own layer, other propagations use a mask."""
        options, mask = self.options, None
        if options.edges == "outgoing" and options.propagation.startswith("finite-difference"):
            self._keywords["boundary"] = options.edges
        elif options.edges == "outgoing":
            width = options.margin or max(1, min(self.window) // 8)
            mask = self._cut(absorbing_margin(self.window, width, steps=self.slices).to(options.precision))
        self.register_buffer("_absorber", mask, persistent=False)

    def _cut(self, field: Tensor) -> Tensor:
        """Return this rank's rows (..., y, x) of a field on the window; the window is periodic."""
        if self.tile == self.window:
            return field
        return field.index_select(-2, torch.arange(*self._own_window, device=field.device) % self.window[0])

    def forward(
        self,
        delta: Tensor,
        beta: Tensor | None,
        probe: Tensor,
        views: Sequence[int] | NDArray[np.intp],
        adjustments: Adjustments = NO_ADJUSTMENTS,
        *,
        unit: float = 1.0,
        rotated: RotatedObject | None = None,
    ) -> Tensor:
        """Return the expected intensity (view, y, x), in the units of |probe|², of the views that this rank computes.

        Every rank that holds a slab of the volume must call it with the same views.

        Args:
            delta: δ/unit (z, y, x), the rows held.
            beta: β/unit, the same shape; None: no absorption.
            probe: complex (mode, y, x) at z = 0, with the shape of ``window``.
            views: (view,) indices of the views.
            adjustments: corrections of the geometry, differentiable.
            unit: factor on δ and β; applied to each slice, to avoid a scaled copy of the volume.
            rotated: the object rotated for these views, from ``rotate_object``; the views must have one angle.
        """
        inputs = _Inputs(delta, beta, probe, adjustments, unit, rotated)
        index = np.asarray(views)
        angle_of = self.angle_of[index]
        angles = np.unique(angle_of)
        parts, order = [], []
        for angle in angles.tolist():
            members = np.flatnonzero(angle_of == angle)
            parts.append(self._at_angle(inputs, angle, index[members]))
            order.append(members[self.slab.computes(index[members])])
        if len(angles) == 1:
            return parts[0]
        own = np.concatenate(order) if order else np.arange(0)
        return torch.cat(parts)[on_device(own.argsort(), parts[0].device)] if parts else torch.empty(0)

    def rotate_object(
        self,
        delta: Tensor,
        beta: Tensor | None,
        views: NDArray[np.intp],
        adjustments: Adjustments = NO_ADJUSTMENTS,
    ) -> RotatedObject:
        """Rotate the object for views at one angle and start sending the rows that other ranks need.

        See ``forward`` for the arguments.
        """
        angle = int(self.angle_of[views[0]])
        starts, _ = self._view_windows.starts(
            views, self._view_windows.shift(slice(angle, angle + 1), views, adjustments)
        )
        needed = self.slab.rows_needed(views, starts[:, 0], self._windows)
        return RotatedObject(torch.stack(self._planes(delta, beta, angle, adjustments)), self.slab, needed)

    def summed_illumination(self, probe: Tensor, views: Sequence[int] | NDArray[np.intp]) -> Tensor:
        """Return |probe|² (y, x) summed over the windows of views, on the rows held of a plane in the lab frame.

        Args:
            probe: complex (mode, y, x) at z = 0, with the shape of ``window``.
            views: (view,) indices of the views, including those that other ranks compute.
        """
        starts, (left, right, bottom, top) = self._view_windows.padded(
            self._view_windows.starts(np.asarray(views), None)[0], self.window, self.grid.shape[1]
        )
        (ny, nx), (height, width) = self.window, self.grid.shape[1:]
        intensity = probe.abs().square().sum(0)
        total = intensity.new_zeros((height + bottom + top, width + left + right))
        for y, x in starts:
            total[y : y + ny, x : x + nx] += intensity
        return self.slab.part_of(total[bottom : bottom + height, left : left + width])

    @torch.enable_grad()
    def exposure(self, probe: Tensor, views: Sequence[int] | NDArray[np.intp]) -> Tensor:
        """Return the exposure (z, y, x) of each voxel: Σ|probe|² over views, along straight rays.

        Args:
            probe: complex (mode, y, x).
            views: (view,) indices of the views, including those that other ranks compute.

        Returns:
            (z, y, x), the rows held.
        """
        index = np.asarray(views)
        zero = torch.zeros((), dtype=self.options.precision, device=probe.device)
        volume = with_y_last(self.slab.part_of(zero.expand(self.grid.shape))).requires_grad_()
        for angle in np.unique(self.angle_of[index]).tolist():
            # The illumination is the same in all planes, so the mean plane is enough.
            mean = rotate(volume, float(self.angles_rad[angle]), interpolation=self.options.interpolation, slices=1)[0]
            illumination = self.summed_illumination(probe, index[self.angle_of[index] == angle])
            (len(volume) * mean * illumination).sum().backward()
        return zero.new_zeros(volume.shape) if volume.grad is None else volume.grad

    def _at_angle(self, inputs: _Inputs, angle: int, views: NDArray[np.intp]) -> Tensor:
        """Return the expected intensity (view, y, x) of those views at one angle that this rank computes."""
        adjustments = inputs.adjustments
        shift = self._view_windows.shift(slice(angle, angle + 1), views, adjustments)
        starts, fraction = self._view_windows.starts(views, shift)
        needed = self.slab.rows_needed(views, starts[:, 0], self._windows)
        if inputs.rotated is not None:
            planes = inputs.rotated.receive().unbind()
        else:
            planes = self._planes(inputs.delta, inputs.beta, angle, adjustments)
            if not self.slab.whole:
                # Every rank takes part in the exchange, even if it computes none of these views.
                planes = self.slab.gather(torch.stack(planes), needed).unbind()
        is_own = self.slab.computes(views)
        own = views[is_own]
        if not len(own):
            return planes[0].new_zeros((0, *self.frame)) + sum(part.sum() for part in planes)
        first_row = needed[self.slab.mesh.slab][0] - self._own_window[0]
        origins, padding = self._view_windows.padded(
            starts[is_own] - np.array([first_row, 0]), self.tile, planes[0].shape[-2]
        )
        padded = [functional.pad(inputs.unit * part, padding) for part in planes]
        padded = padded if inputs.beta is not None else [*padded, torch.zeros_like(padded[0])]
        if fraction is not None and not is_own.all():
            fraction = fraction[on_device(np.flatnonzero(is_own), fraction.device)]
        intensity = self._expect(inputs, padded, origins, fraction, own)
        if adjustments.intensity is not None:
            intensity = intensity * adjustments.intensity[angle]
        if adjustments.background is None:
            return intensity
        # The background is one number for all pixels, or a map of the whole frame.
        return intensity + adjustments.background.expand(self.frame)[self.frame_rows]

    def fix_windows(self, adjustments: Adjustments) -> None:
        """Choose each window's first pixel from these adjustments, and keep it until the next call.

        Later changes shift the probe within its window, so no value is read back from an accelerator. Before the first
        call, windows follow every adjustment.

        Args:
            adjustments: corrections of the positions, the axis and, in the far field, the distance.
        """
        self._view_windows.fix(self.angle_of, adjustments)

    def _planes(self, delta: Tensor, beta: Tensor | None, angle: int, adjustments: Adjustments) -> list[Tensor]:
        """Return δ (slice, y, x) of the rotated object, and β unless it is None."""
        angle_rad = float(self.angles_rad[angle])
        if adjustments.angle_rad is not None:
            angle_rad = angle_rad + adjustments.angle_rad[angle].double()
        return [
            rotate(
                part,
                angle_rad,
                tilt_rad=adjustments.tilt_rad,
                interpolation=self.options.interpolation,
                slices=self.slices,
            )
            for part in (delta, beta)
            if part is not None
        ]

    def _expect(
        self,
        inputs: _Inputs,
        planes: Sequence[Tensor],
        starts: list[tuple[int, int]],
        fraction: Tensor | None,
        views: NDArray[np.intp],
    ) -> Tensor:
        """Return the intensity (view, y, x) of views at one angle without background.

        Args:
            inputs: inputs of the model.
            planes: δ and β (slice, y, x) of the rotated object, padded.
            starts: (view,) first pixel (y, x) of each window in the planes.
            fraction: (view, 2) or (1, 2) subpixel shift of the windows; None: no shift.
            views: (view,) indices of the views.
        """
        adjustments = inputs.adjustments
        thickness, to_entrance, to_detector = self._transfers.adjusted(adjustments)
        shared = self._shared_waves(views, adjustments)
        shift = fraction
        if shared is not None:
            starts = [starts[view] for view in shared.first]
            shift = None if fraction is None else shared.distinct(fraction)
        modes = (torch.fft.fft2(self._cut(inputs.probe)) * to_entrance)[:, None]
        if adjustments.variations is not None and adjustments.variation_of_view is not None:
            shapes = torch.fft.fft2(self._cut(adjustments.variations)) * to_entrance
            index = on_device(views, self._device)
            variation = torch.tensordot(adjustments.variation_of_view[index].to(shapes.dtype), shapes, 1)
            modes = torch.cat([modes[:1] + variation, modes[1:].expand(-1, len(views), -1, -1)])
        if shift is not None:
            modes = modes * shift_transfer(self.tile, shift)
        entrance = torch.fft.ifft2(modes).expand(-1, len(starts), -1, -1)
        wave = self._propagate(
            entrance.flatten(0, 1),
            *planes,
            wavelength_m=self.wavelength_m,
            pixel_size_m=self.pixel_m,
            slice_thickness_m=thickness,
            windows=starts * len(modes),
            absorber=self._absorber,
            **self._keywords,
        ).unflatten(0, (len(modes), -1))
        wave = wave if shared is None else shared.expand_to_views(wave)
        return self.camera(wave, to_detector, fraction, views, adjustments)

    def _shared_waves(self, views: NDArray[np.intp], adjustments: Adjustments) -> SharedWaves | None:
        """Return the exit waves shared by views at an angle that differ only in distance; None if all are distinct.

        A shared wave is propagated through the sample once.
        """
        per_view = adjustments.position_m, adjustments.variations, adjustments.distance_m if self.far_field else None
        if len(self.effective_distances_m) == 1 or any(part is not None for part in per_view):
            return None
        return shared_waves(self._view_windows.first[views])
