"""The forward model that all techniques share: volume and probe in, noiseless expected intensity of views out.

Shapes: volume (z, y, x), of the rows that this rank holds; probe (mode, y, x) on the window; intensity (view, y, x).
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
from bluesky_multislice.models.alike import SharedWaves, shared_waves
from bluesky_multislice.models.camera import Camera
from bluesky_multislice.models.frame_tiles import FrameTiles, check_tiles
from bluesky_multislice.models.turned import RotatedObject
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

_WHOLE = 1e-3
"""Pixels below which a window counts as beginning on a whole pixel."""


class ForwardModel(nn.Module):
    """Expected intensity of the views of a thick sample.

    The probe stands still while the sample moves: a view sees the window of the turned object around its position; the
    part of the position below one pixel shifts the probe, and for near-field frames the detector with it.

    Args:
        geometry: the scan.
        grid: the volume's grid; its lateral pitch is the window's.
        slices: slices that the volume's planes are binned to along the beam; they need not divide them evenly.
        propagation: name of a propagation in ``optics.PROPAGATIONS``; projection takes one slice.
        options: further keywords of that propagation.
        margin: pixels that the window has around the field on every side, against wrap-around.
        edges: ``periodic``, or ``outgoing``: light leaves at the window's edges, in ``margin`` or an eighth of it.
        interpolation: how the sample is turned, see ``optics.rotate``.
        oversampling: pixels of ``geometry`` on a side of each pixel of the frames that come out.
        point_spread_pixels: σ of the detector's Gaussian point spread, in pixels of the frames that come out.
        way_to_detector: kernel of the way to a near-field detector; that to the plane of a lens is exact.
        precision: of the real numbers that it computes with.
        slab: which rows of the volume this rank holds, and which views it computes; None: all of both.
        frame_tiles: the rows of every frame that each rank of an angle computes, with a halo; None: whole frames.

    Attributes:
        angles_rad: (angle,) distinct rotation angles.
        angle_of: (view,) which of them a view has.
        camera: makes frames of the exit waves.
        effective_distances_m: (distance,) distinct effective distances to the detector, one for each way there.
        far_field: whether frames are diffraction patterns.
        frame: pixels (y, x) of whole frames.
        frame_rows: which rows of them come out here.
        pixel_m: pitch (y, x) of the window.
        slab: which rows of the volume this rank holds, and which views it computes.
        slice_thickness_m: thickness of each slice.
        window: pixels (y, x) of the probe.
        tile: pixels (y, x) of the waves that are computed here, a part of the window or all of it.

    Raises:
        ScanError: tiles of frames that are not holograms of one magnification.
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
        self._let_out(propagation, edges)
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
        self._leave_outer_steps(propagation)
        thickness = torch.tensor(self.slice_thickness_m, dtype=torch.float64)
        distances = torch.as_tensor(self.effective_distances_m)
        self.register_buffer("_distances_m", distances, persistent=False)
        self._held: NDArray[np.float64] | None = None
        self.register_buffer("_to_entrance", self._entrance(thickness), persistent=False)
        self.register_buffer("_to_detector", self._exit(thickness, distances), persistent=False)

    @property
    def _device(self) -> torch.device:
        return self._to_entrance.device

    @property
    def first_rows(self) -> NDArray[np.intp]:
        """(view,) the volume's row in which each view's window begins; it may lie outside."""
        return np.rint(self._first[:, 0]).astype(np.intp)

    @property
    def between_pixels(self) -> NDArray[np.bool_]:
        """(view,) whether each view's window begins between pixels, so that the probe is moved there."""
        return np.abs(self._first - np.rint(self._first)).max(1) >= _WHOLE

    def ranks_of_views(self, slabs: int) -> NDArray[np.intp]:
        """Return for each view of the scan the slab whose rank computes it, see ``parallel.ranks_of_views``."""
        return ranks_of_views(self._first[:, 0], self.window[0], self.grid.shape[1], slabs)

    def _leave_outer_steps(self, propagation: str) -> None:
        """Take the half steps outside the first and the last slice with the ways to entrance and detector, if possible.

        A diffraction pattern does not see a unitary last half step, and takes no way that another could go with.
        """
        self._outer_kernel: Kernel | None = None
        kernel: Kernel = self._options.get("kernel", "angular_spectrum")
        optics = {"pixel_size_m": self.pixel_m, "wavelength_m": self.wavelength_m, "kernel": kernel}
        unitary = largest_decay_rate(self.tile, **optics) == 0
        if propagation in BETWEEN_MID_PLANES and (unitary or not self.far_field):
            self._outer_kernel = kernel
            self._options["between_mid_planes"] = True

    def _entrance(self, thickness_m: Tensor) -> Tensor:
        """Return the transfer function (y, x) from z = 0 to the plane where the propagation begins."""
        transfer = self._transfer(-thickness_m.sum() / 2, band_limit=True)
        if self._outer_kernel is not None:
            transfer = transfer * self._transfer(thickness_m[0] / 2, kernel=self._outer_kernel)
        return transfer.to(self._precision.to_complex())

    def _exit(self, thickness_m: Tensor, distances_m: Tensor) -> Tensor:
        """Return the transfer functions (distance, y, x) from the plane where the propagation ends to the detector."""
        ways = self.camera.ways(distances_m - thickness_m.sum() / 2)
        if self._outer_kernel is None or self.far_field:
            return ways
        return ways * self._transfer(thickness_m[-1] / 2, kernel=self._outer_kernel).to(ways)

    def _transfer(self, distance_m: Tensor, *, kernel: Kernel = "angular_spectrum", band_limit: bool = False) -> Tensor:
        return propagator(
            self.tile,
            pixel_size_m=self.pixel_m,
            wavelength_m=self.wavelength_m,
            distance_m=distance_m,
            kernel=kernel,
            band_limit=band_limit,
        )

    def _let_out(self, propagation: str, edges: Edges) -> None:
        """Have light leave at the edges: finite difference has a layer of its own, others multiply with a mask."""
        mask = None
        if edges == "outgoing" and propagation.startswith("finite-difference"):
            self._options["boundary"] = edges
        elif edges == "outgoing":
            width = self.margin or max(1, min(self.window) // 8)
            mask = self._cut(absorbing_margin(self.window, width, steps=self.slices).to(self._precision))
        self.register_buffer("_absorber", mask, persistent=False)

    def _cut(self, field: Tensor) -> Tensor:
        """Return the rows (..., y, x) computed here of a field on the window, which begins again at its end."""
        if self.tile == self.window:
            return field
        return field.index_select(-2, torch.arange(*self._own_window, device=field.device) % self.window[0])

    def _first_pixels(self, position_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where in the volume's planes each window begins, (view, 2) pixels (y, x), not rounded."""
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
        turned: RotatedObject | None = None,
    ) -> Tensor:
        """Return the expected intensity (view, y, x), in the units of |probe|², of the views that this rank computes.

        Every rank that holds a slab of the volume calls it with the same views.

        Args:
            delta: (z, y, x), the rows held.
            beta: the same shape; None absorbs nothing.
            probe: complex (mode, y, x) at z = 0, shaped like ``window``.
            views: which views.
            adjustments: differences from the geometry, differentiable.
            unit: what δ and β are multiplied by, slice by slice instead of as a whole.
            turned: from ``turn`` for these views at one angle, which δ and β need not be turned for again.
        """
        index = np.asarray(views)
        angle_of = self.angle_of[index]
        angles = np.unique(angle_of)
        parts, order = [], []
        for angle in angles.tolist():
            members = np.flatnonzero(angle_of == angle)
            parts.append(self._at_angle(delta, beta, probe, angle, index[members], adjustments, unit, turned))
            order.append(members[self.slab.computes(index[members])])
        if len(angles) == 1:
            return parts[0]
        own = np.concatenate(order) if order else np.arange(0)
        return torch.cat(parts)[on_device(own.argsort(), parts[0].device)] if parts else torch.empty(0)

    def turn(
        self,
        delta: Tensor,
        beta: Tensor | None,
        views: NDArray[np.intp],
        adjustments: Adjustments = NO_ADJUSTMENTS,
    ) -> RotatedObject:
        """Turn the sample for views at one angle, and send other ranks the rows that they need without waiting.

        See ``forward`` for the arguments.
        """
        angle = int(self.angle_of[views[0]])
        starts, _ = self._starts(views, self._shift(slice(angle, angle + 1), views, adjustments))
        wanted = self.slab.rows_needed(views, starts[:, 0], self._windows)
        return RotatedObject(torch.stack(self._planes(delta, beta, angle, adjustments)), self.slab, wanted)

    def light(self, probe: Tensor, views: Sequence[int] | NDArray[np.intp]) -> Tensor:
        """Return |probe|² (y, x) summed over the windows of views, in the rows held of planes that are not turned.

        Args:
            probe: complex (mode, y, x) at z = 0, shaped like ``window``.
            views: which views; also those that other ranks compute.
        """
        starts, (left, right, bottom, top) = self._padded(
            self._starts(np.asarray(views), None)[0], self.window, self.grid.shape[1]
        )
        (ny, nx), (height, width) = self.window, self.grid.shape[1:]
        spread = probe.abs().square().sum(0)
        light = spread.new_zeros((height + bottom + top, width + left + right))
        for y, x in starts:
            light[y : y + ny, x : x + nx] += spread
        return self.slab.part_of(light[bottom : bottom + height, left : left + width])

    @torch.enable_grad()
    def exposure(self, probe: Tensor, views: Sequence[int] | NDArray[np.intp]) -> Tensor:
        """Return the light (z, y, x) that each voxel gets: Σ|probe|² over views, in straight lines along the beam.

        Args:
            probe: complex (mode, y, x).
            views: which views; also those that other ranks compute.

        Returns:
            (z, y, x), the rows held.
        """
        index = np.asarray(views)
        nothing = torch.zeros((), dtype=self._precision, device=probe.device)
        volume = with_y_last(self.slab.part_of(nothing.expand(self.grid.shape))).requires_grad_()
        for angle in np.unique(self.angle_of[index]).tolist():
            # The same light falls on all planes, and so on their mean.
            mean = rotate(volume, float(self.angles_rad[angle]), interpolation=self._interpolation, slices=1)[0]
            (len(volume) * mean * self.light(probe, index[self.angle_of[index] == angle])).sum().backward()
        return nothing.new_zeros(volume.shape) if volume.grad is None else volume.grad

    def _at_angle(
        self,
        delta: Tensor,
        beta: Tensor | None,
        probe: Tensor,
        angle: int,
        views: NDArray[np.intp],
        adjustments: Adjustments,
        unit: float,
        turned: RotatedObject | None,
    ) -> Tensor:
        """Return the expected intensity (view, y, x) of the views at one of the angles that this rank computes."""
        starts, fraction = self._starts(views, self._shift(slice(angle, angle + 1), views, adjustments))
        wanted = self.slab.rows_needed(views, starts[:, 0], self._windows)
        if turned is not None:
            planes = turned.arrive().unbind()
        else:
            planes = self._planes(delta, beta, angle, adjustments)
            if not self.slab.whole:
                # Every rank takes part in the exchange, also where it computes none of these views.
                planes = self.slab.gather(torch.stack(planes), wanted).unbind()
        here = self.slab.computes(views)
        own = views[here]
        if not len(own):
            return planes[0].new_zeros((0, *self.frame)) + sum(part.sum() for part in planes)
        first_row = wanted[self.slab.mesh.slab][0] - self._own_window[0]
        moved, padding = self._padded(starts[here] - np.array([first_row, 0]), self.tile, planes[0].shape[-2])
        padded = [functional.pad(unit * part, padding) for part in planes]
        padded = padded if beta is not None else [*padded, torch.zeros_like(padded[0])]
        if fraction is not None and not here.all():
            fraction = fraction[on_device(np.flatnonzero(here), fraction.device)]
        intensity = self._expect(padded[0], padded[1], moved, fraction, probe, own, adjustments)
        if adjustments.intensity is not None:
            intensity = intensity * adjustments.intensity[angle]
        if adjustments.background is None:
            return intensity
        # One for all pixels, or a map of the whole frame.
        return intensity + adjustments.background.expand(self.frame)[self.frame_rows]

    def _shift(self, angle: slice | Tensor, views: NDArray[np.intp], adjustments: Adjustments) -> Tensor | None:
        """Return how far the windows of views are moved, (view, 2) or (1, 2) pixels.

        Args:
            angle: which one all have, or the number of each one's (view,).
            views: which views.
            adjustments: differences from the geometry.
        """
        moves = []
        if adjustments.position_m is not None:
            moves.append(adjustments.position_m[on_device(views, self._device)])
        if adjustments.axis_shift_m is not None:
            moves.append(adjustments.axis_shift_m[angle])
        if self.far_field and adjustments.distance_m is not None:
            shrunk = 1 / (1 + adjustments.distance_m / self._distances_m.to(adjustments.distance_m)) - 1
            index, distance = (on_device(each, self._device) for each in (views, self.camera.distance_of[views]))
            moves.append(shrunk[distance, None] * self._off_middle_m[index])
        return (sum(moves) / on_device(self.pixel_m, self._device).to(moves[0])).to(self._precision) if moves else None

    def hold(self, adjustments: Adjustments) -> None:
        """Fix each window's first pixel where these adjustments move it, until the next call.

        Later shifts move the probe instead, so no number is read from an accelerator. Before the first call, windows
        follow every adjustment.

        Args:
            adjustments: of the positions, the axis and, in the far field, the distance.
        """
        views = np.arange(len(self.angle_of))
        shift = self._shift(on_device(self.angle_of, self._device), views, adjustments)
        self._held = np.zeros((len(views), 2))
        if shift is not None:
            self._held[:] = shift.detach().cpu().numpy()

    def _starts(self, views: NDArray[np.intp], shift: Tensor | None) -> tuple[NDArray[np.intp], Tensor | None]:
        """Return each window's first pixel (y, x) in the volume's planes, and what is left below one pixel.

        None is left where nothing is shifted and all windows begin on whole pixels.
        """
        first = self._first[views]
        moved = 0.0
        if shift is not None:
            moved = shift.detach().cpu().numpy() if self._held is None else self._held[views]
        starts = np.rint(first + moved).astype(np.intp)
        left = first - starts
        fraction = None
        if shift is not None or self.between_pixels[views].any():
            fraction = on_device(left, self._device, self._precision)
            fraction = fraction if shift is None else fraction + shift
        return starts, fraction

    def _padded(
        self, starts: NDArray[np.intp], window: tuple[int, int], height: int
    ) -> tuple[list[tuple[int, int]], tuple[int, int, int, int]]:
        """Return where windows begin in planes of so many rows, padded so that all lie inside, and the padding."""
        extent = np.array([height, self.grid.shape[2]])
        before = np.maximum(-starts.min(0), 0)
        after = np.maximum(starts.max(0) + np.array(window) - extent, 0)
        padding = (int(before[1]), int(after[1]), int(before[0]), int(after[0]))
        return [(y, x) for y, x in (starts + before).tolist()], padding

    def _planes(self, delta: Tensor, beta: Tensor | None, angle: int, adjustments: Adjustments) -> list[Tensor]:
        """Return δ (slice, y, x) of the turned object, and β where there is one."""
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
        more, further = adjustments.slice_thickness_m, None if self.far_field else adjustments.distance_m
        thickness = self.slice_thickness_m
        if more is None and further is None:
            return thickness, self._to_entrance, self._to_detector
        distances = self._distances_m if further is None else self._distances_m + further
        on_the_device = on_device(thickness, self._device, torch.float64)
        if more is None:
            return thickness, self._to_entrance, self._exit(on_the_device, distances)
        on_the_device = on_the_device + more
        return on_the_device, self._entrance(on_the_device), self._exit(on_the_device, distances)

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
        alike = self._alike(views, adjustments)
        moved = fraction
        if alike is not None:
            starts = [starts[view] for view in alike.first]
            moved = None if fraction is None else alike.distinct(fraction)
        modes = (torch.fft.fft2(self._cut(probe)) * to_entrance)[:, None]
        if adjustments.variations is not None and adjustments.variation_of_view is not None:
            shapes = torch.fft.fft2(self._cut(adjustments.variations)) * to_entrance
            index = on_device(views, self._device)
            own = torch.tensordot(adjustments.variation_of_view[index].to(shapes.dtype), shapes, 1)
            modes = torch.cat([modes[:1] + own, modes[1:].expand(-1, len(views), -1, -1)])
        if moved is not None:
            modes = modes * shift_transfer(self.tile, moved)
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
        wave = wave if alike is None else alike.expand_to_views(wave)
        return self.camera(wave, to_detector, fraction, views, adjustments)

    def _alike(self, views: NDArray[np.intp], adjustments: Adjustments) -> SharedWaves | None:
        """Return which views at an angle differ in their distance alone, None where none do.

        Their exit waves are the same, and go through the sample once.
        """
        own = adjustments.position_m, adjustments.variations, adjustments.distance_m if self.far_field else None
        if len(self.effective_distances_m) == 1 or any(part is not None for part in own):
            return None
        return shared_waves(self._first[views])
