"""The forward model that both techniques share: volume and probe in, noiseless expected intensity of views out.

Shapes: volume (z, y, x); probe (mode, y, x) on the window; intensity (view, y, x).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bluesky_multislice.geometry import ScanGeometry, VolumeGrid
from bluesky_multislice.optics import (
    PROPAGATIONS,
    Interpolation,
    absorbing_margin,
    bin_pixels,
    blur,
    far_field,
    near_field,
    planes_of_slices,
    point_spread_transfer,
    propagator,
    rotate,
    shift_transfer,
)

Edges = Literal["periodic", "outgoing"]


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
        margin: pixels that the window has around the frame on every side, against wrap-around.
        edges: ``periodic``, or ``outgoing``: light leaves at the window's edges, in ``margin`` or an eighth of it.
        interpolation: how the sample is turned, see ``optics.rotate``.
        oversampling: pixels of ``geometry`` on a side of each pixel of the frames that come out.
        point_spread_pixels: σ of the detector's Gaussian point spread, in pixels of the frames that come out.
        precision: of the real numbers that it computes with.
    """

    _to_entrance: Tensor
    _to_detector: Tensor
    _fraction: Tensor
    _absorber: Tensor | None
    _point_spread: Tensor | None

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
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self._precision = precision
        self.grid, self.margin = grid, margin
        self.slices = 1 if propagation == "projection" else slices
        self._propagate, self._options = PROPAGATIONS[propagation], dict(options or {})
        planes = planes_of_slices(grid.shape[0], self.slices)
        self._thickness_m = [number * grid.voxel_size_m[0] for number in planes]
        self.wavelength_m = geometry.beam.wavelength_m
        self._far_field = geometry.detector.regime == "far_field"
        ny, nx = geometry.detector.shape
        self.window = (ny + 2 * margin, nx + 2 * margin)
        self._pixel_m = (grid.voxel_size_m[1], grid.voxel_size_m[2])
        self._angles = geometry.angle_rad
        self._let_out(propagation, edges)
        self._interpolation: Interpolation = interpolation
        self._oversampling = oversampling
        spread = None
        if point_spread_pixels > 0:
            spread = point_spread_transfer(self.window, point_spread_pixels * oversampling)
        self.register_buffer("_point_spread", spread, persistent=False)
        self._place_windows(geometry.position_m)
        back = self._transfer(-grid.thickness_m / 2, "angular_spectrum")
        self.register_buffer("_to_entrance", back.to(precision.to_complex()), persistent=False)
        ways, which = np.unique(geometry.effective_distance_m, return_inverse=True)
        self._way = which
        transfers = [self._transfer(way - grid.thickness_m / 2, "fresnel") for way in ways]
        self.register_buffer("_to_detector", torch.stack(transfers).to(precision.to_complex()), persistent=False)

    def _transfer(self, distance_m: float, kernel) -> Tensor:
        return propagator(
            self.window,
            pixel_size_m=self._pixel_m,
            wavelength_m=self.wavelength_m,
            distance_m=distance_m,
            kernel=kernel,
            band_limit=True,
        )

    def _let_out(self, propagation: str, edges: Edges) -> None:
        """Have light leave at the edges: finite difference has a layer of its own, others multiply with a mask."""
        mask = None
        if edges == "outgoing" and propagation.startswith("finite-difference"):
            self._options["boundary"] = edges
        elif edges == "outgoing":
            width = self.margin or max(1, min(self.window) // 8)
            mask = absorbing_margin(self.window, width, steps=self.slices).to(self._precision)
        self.register_buffer("_absorber", mask, persistent=False)

    def _place_windows(self, position_m: np.ndarray) -> None:
        """Set each window's first pixel in the padded plane, and what is left below one pixel."""
        extent = np.array(self.grid.shape[1:])
        offset = position_m - np.array(self.grid.center_m[1:])
        first = offset / np.array(self._pixel_m) + (extent - np.array(self.window)) / 2
        starts = np.rint(first).astype(int)
        before = np.maximum(-starts.min(0), 0)
        after = np.maximum(starts.max(0) + np.array(self.window) - extent, 0)
        self._padding = (int(before[1]), int(after[1]), int(before[0]), int(after[0]))
        self._starts = starts + before
        fraction = torch.as_tensor(first - starts, dtype=self._precision)
        self.register_buffer("_fraction", fraction, persistent=False)
        self._whole = bool(fraction.abs().max() < 1e-3)

    def forward(self, delta: Tensor, beta: Tensor, probe: Tensor, views: Sequence[int] | NDArray[np.intp]) -> Tensor:
        """Return the expected intensity (view, y, x), in the units of |probe|².

        Args:
            delta: (z, y, x).
            beta: (z, y, x).
            probe: complex (mode, y, x) at z = 0, shaped like ``window``.
            views: which views.
        """
        index = np.asarray(views)
        angles, group_of = np.unique(self._angles[index], return_inverse=True)
        frames = torch.empty(0)
        for group, angle in enumerate(angles.tolist()):
            members = np.flatnonzero(group_of == group)
            starts = [tuple(start) for start in self._starts[index[members]].tolist()]
            intensity = self._expect(*self._planes(delta, beta, angle), starts, probe, index[members])
            if len(angles) == 1:
                return intensity
            frames = intensity.new_zeros((len(index), *intensity.shape[1:])) if group == 0 else frames
            frames = frames.index_copy(0, torch.as_tensor(members, device=intensity.device), intensity)
        return frames

    def _planes(self, delta: Tensor, beta: Tensor, angle_rad: float) -> tuple[Tensor, Tensor]:
        """Return δ and β (slice, y, x) of the turned object, vacuum around it."""
        turned = (
            rotate(part, angle_rad, interpolation=self._interpolation, slices=self.slices) for part in (delta, beta)
        )
        delta, beta = (functional.pad(part, self._padding) for part in turned)
        return delta, beta

    def _expect(
        self, delta: Tensor, beta: Tensor, starts: list[tuple[int, int]], probe: Tensor, views: np.ndarray
    ) -> Tensor:
        shift = None if self._whole else shift_transfer(self.window, self._fraction[views])
        spectrum = torch.fft.fft2(probe) * self._to_entrance
        to_detector = self._to_detector[self._way[views]]
        if shift is not None:
            to_detector = to_detector * shift.conj()
        modes = spectrum[:, None] if shift is None else spectrum[:, None] * shift
        entrance = torch.fft.ifft2(modes).expand(-1, len(views), -1, -1)
        wave = self._propagate(
            entrance.flatten(0, 1),
            delta,
            beta,
            wavelength_m=self.wavelength_m,
            pixel_size_m=self._pixel_m,
            slice_thickness_m=self._thickness_m,
            windows=starts * len(modes),
            absorber=self._absorber,
            **self._options,
        ).unflatten(0, (len(modes), -1))
        intensity = (far_field(wave) if self._far_field else near_field(wave, to_detector)).sum(0)
        if self._point_spread is not None:
            intensity = blur(intensity, self._point_spread)
        m = self.margin
        frames = intensity[:, m : self.window[0] - m, m : self.window[1] - m]
        return bin_pixels(frames, (self._oversampling, self._oversampling)) if self._oversampling > 1 else frames
