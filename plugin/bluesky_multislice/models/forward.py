"""The forward model of all techniques: noiseless expected intensity of views from a volume and a probe.

Shapes: volume (z, y, x), the rows that this rank holds; probe (mode, y, x) on the window; intensity (view, y, x).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bluesky_multislice.measurement import ScanGeometry, VolumeGrid
from bluesky_multislice.models.adjustments import NO_ADJUSTMENTS, Adjustments
from bluesky_multislice.models.camera import Camera
from bluesky_multislice.models.frame_tiles import FrameTiles, check_tiles
from bluesky_multislice.models.rotated_object import RotatedObject
from bluesky_multislice.models.shared_waves import SharedWaves, shared_waves
from bluesky_multislice.optics import (
    BETWEEN_MID_PLANES,
    PROPAGATIONS,
    Interpolation,
    Kernel,
    absorbing_margin,
    largest_decay_rate,
    on_device,
    planes_of_slices,
    propagator,
    rotate,
    shift_transfer,
    with_y_last,
)
from bluesky_multislice.parallel import Mesh, Slab, ranks_of_views

Edges = Literal["periodic", "outgoing"]

_SUBPIXEL_TOLERANCE = 1e-3
"""Subpixel shifts below this many pixels count as zero."""


class ForwardModel(nn.Module):
    """Expected intensity of the views of a thick sample.

    The window of a view is the part of the rotated object around the view's position. The subpixel part of the position
    shifts the probe and, for near-field frames, the detector with it.

    Args:
        geometry: the scan.
        grid: the volume's grid; the window has the same lateral pitch.
        slices: number of slices into which the volume's planes are averaged along the beam; they need not divide the
            planes evenly.
        propagation: name of a propagation in ``optics.PROPAGATIONS``; projection uses one slice.
        options: further keywords of that propagation.
        margin: pixels of the window around the field on every side, against wrap-around.
        edges: ``periodic``, or ``outgoing``: waves are absorbed at the window's edges, within ``margin`` or, without a
            margin, an eighth of the window.
        interpolation: interpolation of the rotation, see ``optics.rotate``.
        oversampling: pixels of ``geometry`` per pixel of the computed frames, along each axis.
        point_spread_pixels: σ of the detector's Gaussian point spread, in pixels of the computed frames.
        way_to_detector: propagation kernel to a near-field detector; with a lens, the exact kernel is used.
        precision: real floating-point type of the computation.
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

    _off_middle_m: Tensor
    _to_entrance: Tensor
    _to_detector: Tensor
    _distances_m: Tensor
    _absorber: Tensor | None

    def __init__(
        self,
        geometry: ScanGeometry,
        grid: VolumeGrid,
        *,
        slices: int,
        propagation: str = "multislice",
        options: Mapping[str, Any] | None = None,
        margin: int = 0,
        edges: Edges = "periodic",
        interpolation: Interpolation = "linear",
        oversampling: int = 1,
        point_spread_pixels: float = 0.0,
        way_to_detector: Kernel = "fresnel",
        precision: torch.dtype = torch.float32,
        slab: Slab | None = None,
        frame_tiles: FrameTiles | None = None,
    ) -> None:
        super().__init__()
        self._precision = precision
        self.slab = slab or Slab(Mesh(0, 1, torch.device("cpu")), grid.shape[1])
        self.grid, self.margin = grid, margin
        self.slices = 1 if propagation == "projection" else slices
        self._propagate, self._options = PROPAGATIONS[propagation], dict(options or {})
        planes = planes_of_slices(grid.shape[0], self.slices)
        self.slice_thickness_m = [number * grid.voxel_size_m[0] for number in planes]
        self.wavelength_m = geometry.beam.wavelength_m
        ny, nx = geometry.field_shape
        self.window = (ny + 2 * margin, nx + 2 * margin)
        self.frame_rows, self._windows = slice(None), [(0, self.window[0])] * self.slab.mesh.slabs
        if frame_tiles is not None:
            check_tiles(geometry)
            self.frame_rows = slice(*frame_tiles.rows[self.slab.mesh.slab])
            self._windows = frame_tiles.in_window(self.window[0], margin=margin, oversampling=oversampling)
        start, end = self._own_window = self._windows[self.slab.mesh.slab]
        self.tile = (end - start, self.window[1])
        self.pixel_m = (grid.voxel_size_m[1], grid.voxel_size_m[2])
        self.angles_rad, self.angle_of = np.unique(geometry.angle_rad, return_inverse=True)
        self._set_edges(propagation, edges)
        self._interpolation: Interpolation = interpolation
        self.camera = Camera(
            geometry,
            window=self.tile,
            pixel_m=self.pixel_m,
            margin=margin,
            rows=None if frame_tiles is None else self.frame_rows,
            first_row=start,
            oversampling=oversampling,
            point_spread_pixels=point_spread_pixels,
            kernel=way_to_detector,
            precision=precision,
        )
        self.effective_distances_m = self.camera.effective_distances_m
        self.far_field, self.frame = self.camera.far_field, self.camera.frame
        self._first = self._first_pixels(geometry.position_m)
        off_middle_m = torch.as_tensor(geometry.position_m - np.array(grid.center_m[1:]), dtype=precision)
        self.register_buffer("_off_middle_m", off_middle_m, persistent=False)
        self._merge_outer_steps(propagation)
        thickness = torch.tensor(self.slice_thickness_m, dtype=torch.float64)
        distances = torch.as_tensor(self.effective_distances_m)
        self.register_buffer("_distances_m", distances, persistent=False)
        self._fixed_shift: NDArray[np.float64] | None = None
        self.register_buffer("_to_entrance", self._entrance(thickness), persistent=False)
        self.register_buffer("_to_detector", self._exit(thickness, distances), persistent=False)

    @property
    def _device(self) -> torch.device:
        return self._to_entrance.device

    @property
    def first_rows(self) -> NDArray[np.intp]:
        """(view,) first row of each view's window in the volume; it may be outside of the volume."""
        return np.rint(self._first[:, 0]).astype(np.intp)

    @property
    def between_pixels(self) -> NDArray[np.bool_]:
        """(view,) whether each view's window starts between pixels, so that the probe needs a subpixel shift."""
        return np.abs(self._first - np.rint(self._first)).max(1) >= _SUBPIXEL_TOLERANCE

    def ranks_of_views(self, slabs: int) -> NDArray[np.intp]:
        """Return (view,) the index of the slab whose rank computes each view, see ``parallel.ranks_of_views``."""
        return ranks_of_views(self._first[:, 0], self.window[0], self.grid.shape[1], slabs)

    def _merge_outer_steps(self, propagation: str) -> None:
        """Include the first half step in ``_to_entrance`` and the last one in ``_to_detector``: two FFT pairs fewer.

        In the far field the last half step is omitted instead: a unitary step does not change a diffraction pattern.
        If evanescent waves make it non-unitary, all steps stay in the propagation.
        """
        self._outer_kernel: Kernel | None = None
        kernel: Kernel = self._options.get("kernel", "angular_spectrum")
        optics = {"pixel_size_m": self.pixel_m, "wavelength_m": self.wavelength_m, "kernel": kernel}
        unitary = largest_decay_rate(self.tile, **optics) == 0
        if propagation in BETWEEN_MID_PLANES and (unitary or not self.far_field):
            self._outer_kernel = kernel
            self._options["between_mid_planes"] = True

    def _entrance(self, thickness_m: Tensor) -> Tensor:
        """Return the transfer function (y, x) from z = 0 to the entrance plane, or to the first slice's mid-plane."""
        transfer = self._transfer(-thickness_m.sum() / 2, band_limit=True)
        if self._outer_kernel is not None:
            transfer = transfer * self._transfer(thickness_m[0] / 2, kernel=self._outer_kernel)
        return transfer.to(self._precision.to_complex())

    def _exit(self, thickness_m: Tensor, distances_m: Tensor) -> Tensor:
        """Return the transfer functions (distance, y, x) to the detector from the exit plane or the last mid-plane."""
        transfers = self.camera.transfers_to_detector(distances_m - thickness_m.sum() / 2)
        if self._outer_kernel is None or self.far_field:
            return transfers
        return transfers * self._transfer(thickness_m[-1] / 2, kernel=self._outer_kernel).to(transfers)

    def _transfer(self, distance_m: Tensor, *, kernel: Kernel = "angular_spectrum", band_limit: bool = False) -> Tensor:
        return propagator(
            self.tile,
            pixel_size_m=self.pixel_m,
            wavelength_m=self.wavelength_m,
            distance_m=distance_m,
            kernel=kernel,
            band_limit=band_limit,
        )

    def _set_edges(self, propagation: str, edges: Edges) -> None:
        """Set absorption at the edges: finite difference has its own layer, other propagations use a mask."""
        mask = None
        if edges == "outgoing" and propagation.startswith("finite-difference"):
            self._options["boundary"] = edges
        elif edges == "outgoing":
            width = self.margin or max(1, min(self.window) // 8)
            mask = self._cut(absorbing_margin(self.window, width, steps=self.slices).to(self._precision))
        self.register_buffer("_absorber", mask, persistent=False)

    def _cut(self, field: Tensor) -> Tensor:
        """Return this rank's rows (..., y, x) of a field on the window; the window is periodic."""
        if self.tile == self.window:
            return field
        return field.index_select(-2, torch.arange(*self._own_window, device=field.device) % self.window[0])

    def _first_pixels(self, position_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the first pixel (view, 2) (y, x) of each window in the volume's planes, not rounded."""
        offset = position_m - np.array(self.grid.center_m[1:])
        return offset / np.array(self.pixel_m) + (np.array(self.grid.shape[1:]) - np.array(self.window)) / 2

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
        index = np.asarray(views)
        angle_of = self.angle_of[index]
        angles = np.unique(angle_of)
        parts, order = [], []
        for angle in angles.tolist():
            members = np.flatnonzero(angle_of == angle)
            parts.append(self._at_angle(delta, beta, probe, angle, index[members], adjustments, unit, rotated))
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
        starts, _ = self._starts(views, self._shift(slice(angle, angle + 1), views, adjustments))
        needed = self.slab.rows_needed(views, starts[:, 0], self._windows)
        return RotatedObject(torch.stack(self._planes(delta, beta, angle, adjustments)), self.slab, needed)

    def summed_illumination(self, probe: Tensor, views: Sequence[int] | NDArray[np.intp]) -> Tensor:
        """Return |probe|² (y, x) summed over the windows of views, on the rows held of a plane in the lab frame.

        Args:
            probe: complex (mode, y, x) at z = 0, with the shape of ``window``.
            views: (view,) indices of the views, including those that other ranks compute.
        """
        starts, (left, right, bottom, top) = self._padded(
            self._starts(np.asarray(views), None)[0], self.window, self.grid.shape[1]
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
        zero = torch.zeros((), dtype=self._precision, device=probe.device)
        volume = with_y_last(self.slab.part_of(zero.expand(self.grid.shape))).requires_grad_()
        for angle in np.unique(self.angle_of[index]).tolist():
            # The illumination is the same in all planes, so the mean plane is enough.
            mean = rotate(volume, float(self.angles_rad[angle]), interpolation=self._interpolation, slices=1)[0]
            illumination = self.summed_illumination(probe, index[self.angle_of[index] == angle])
            (len(volume) * mean * illumination).sum().backward()
        return zero.new_zeros(volume.shape) if volume.grad is None else volume.grad

    def _at_angle(
        self,
        delta: Tensor,
        beta: Tensor | None,
        probe: Tensor,
        angle: int,
        views: NDArray[np.intp],
        adjustments: Adjustments,
        unit: float,
        rotated: RotatedObject | None,
    ) -> Tensor:
        """Return the expected intensity (view, y, x) of those views at one angle that this rank computes."""
        starts, fraction = self._starts(views, self._shift(slice(angle, angle + 1), views, adjustments))
        needed = self.slab.rows_needed(views, starts[:, 0], self._windows)
        if rotated is not None:
            planes = rotated.receive().unbind()
        else:
            planes = self._planes(delta, beta, angle, adjustments)
            if not self.slab.whole:
                # Every rank takes part in the exchange, even if it computes none of these views.
                planes = self.slab.gather(torch.stack(planes), needed).unbind()
        is_own = self.slab.computes(views)
        own = views[is_own]
        if not len(own):
            return planes[0].new_zeros((0, *self.frame)) + sum(part.sum() for part in planes)
        first_row = needed[self.slab.mesh.slab][0] - self._own_window[0]
        origins, padding = self._padded(starts[is_own] - np.array([first_row, 0]), self.tile, planes[0].shape[-2])
        padded = [functional.pad(unit * part, padding) for part in planes]
        padded = padded if beta is not None else [*padded, torch.zeros_like(padded[0])]
        if fraction is not None and not is_own.all():
            fraction = fraction[on_device(np.flatnonzero(is_own), fraction.device)]
        intensity = self._expect(padded[0], padded[1], origins, fraction, probe, own, adjustments)
        if adjustments.intensity is not None:
            intensity = intensity * adjustments.intensity[angle]
        if adjustments.background is None:
            return intensity
        # The background is one number for all pixels, or a map of the whole frame.
        return intensity + adjustments.background.expand(self.frame)[self.frame_rows]

    def _shift(self, angle: slice | Tensor, views: NDArray[np.intp], adjustments: Adjustments) -> Tensor | None:
        """Return the shift of the views' windows by the adjustments, (view, 2) or (1, 2) pixels.

        Args:
            angle: slice with the index of the common angle, or the index of each view's angle (view,).
            views: (view,) indices of the views.
            adjustments: corrections of the geometry.
        """
        shifts = []
        if adjustments.position_m is not None:
            shifts.append(adjustments.position_m[on_device(views, self._device)])
        if adjustments.axis_shift_m is not None:
            shifts.append(adjustments.axis_shift_m[angle])
        if self.far_field and adjustments.distance_m is not None:
            scaling = 1 / (1 + adjustments.distance_m / self._distances_m.to(adjustments.distance_m)) - 1
            index, distance = (on_device(each, self._device) for each in (views, self.camera.distance_of[views]))
            shifts.append(scaling[distance, None] * self._off_middle_m[index])
        if not shifts:
            return None
        return (sum(shifts) / on_device(self.pixel_m, self._device).to(shifts[0])).to(self._precision)

    def fix_windows(self, adjustments: Adjustments) -> None:
        """Choose each window's first pixel from these adjustments, and keep it until the next call.

        Later changes shift the probe within its window, so no value is read back from an accelerator. Before the first
        call, windows follow every adjustment.

        Args:
            adjustments: corrections of the positions, the axis and, in the far field, the distance.
        """
        views = np.arange(len(self.angle_of))
        shift = self._shift(on_device(self.angle_of, self._device), views, adjustments)
        self._fixed_shift = np.zeros((len(views), 2))
        if shift is not None:
            self._fixed_shift[:] = shift.detach().cpu().numpy()

    def _starts(self, views: NDArray[np.intp], shift: Tensor | None) -> tuple[NDArray[np.intp], Tensor | None]:
        """Return each window's first pixel (y, x) in the volume's planes, and the subpixel rest (view, 2).

        The rest is None if nothing is shifted and all windows start on whole pixels.
        """
        first = self._first[views]
        rounded_shift = 0.0
        if shift is not None:
            fixed = self._fixed_shift
            rounded_shift = shift.detach().cpu().numpy() if fixed is None else fixed[views]
        starts = np.rint(first + rounded_shift).astype(np.intp)
        rest = first - starts
        fraction = None
        if shift is not None or self.between_pixels[views].any():
            fraction = on_device(rest, self._device, self._precision)
            fraction = fraction if shift is None else fraction + shift
        return starts, fraction

    def _padded(
        self, starts: NDArray[np.intp], window: tuple[int, int], height: int
    ) -> tuple[list[tuple[int, int]], tuple[int, int, int, int]]:
        """Return the windows' first pixels in planes padded to contain all windows, and the padding (x, x, y, y)."""
        extent = np.array([height, self.grid.shape[2]])
        before = np.maximum(-starts.min(0), 0)
        after = np.maximum(starts.max(0) + np.array(window) - extent, 0)
        padding = (int(before[1]), int(after[1]), int(before[0]), int(after[0]))
        return [(y, x) for y, x in (starts + before).tolist()], padding

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
                interpolation=self._interpolation,
                slices=self.slices,
            )
            for part in (delta, beta)
            if part is not None
        ]

    def _lengths(self, adjustments: Adjustments) -> tuple[list[float] | Tensor, Tensor, Tensor]:
        """Return the slices' thickness, and the transfer functions to the entrance and to the detector."""
        added_thickness = adjustments.slice_thickness_m
        added_distance = None if self.far_field else adjustments.distance_m
        thickness = self.slice_thickness_m
        if added_thickness is None and added_distance is None:
            return thickness, self._to_entrance, self._to_detector
        distances = self._distances_m if added_distance is None else self._distances_m + added_distance
        thickness_m = on_device(thickness, self._device, torch.float64)
        if added_thickness is None:
            return thickness, self._to_entrance, self._exit(thickness_m, distances)
        thickness_m = thickness_m + added_thickness
        return thickness_m, self._entrance(thickness_m), self._exit(thickness_m, distances)

    def _expect(
        self,
        delta: Tensor,
        beta: Tensor,
        starts: list[tuple[int, int]],
        fraction: Tensor | None,
        probe: Tensor,
        views: NDArray[np.intp],
        adjustments: Adjustments,
    ) -> Tensor:
        thickness, to_entrance, to_detector = self._lengths(adjustments)
        shared = self._shared_waves(views, adjustments)
        shift = fraction
        if shared is not None:
            starts = [starts[view] for view in shared.first]
            shift = None if fraction is None else shared.distinct(fraction)
        modes = (torch.fft.fft2(self._cut(probe)) * to_entrance)[:, None]
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
            delta,
            beta,
            wavelength_m=self.wavelength_m,
            pixel_size_m=self.pixel_m,
            slice_thickness_m=thickness,
            windows=starts * len(modes),
            absorber=self._absorber,
            **self._options,
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
        return shared_waves(self._first[views])
