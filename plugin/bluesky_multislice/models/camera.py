"""Frames from the exit wave: propagation to the detector, optics in between, and the detector's pixels.

Shapes: wave (mode, view, y, x) on the window; frames (view, y, x).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bluesky_multislice.choices import Kernel
from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models.adjustments import Adjustments
from bluesky_multislice.models.options import ModelOptions
from bluesky_multislice.models.techniques import technique_of
from bluesky_multislice.optics import (
    affine,
    bin_pixels,
    blur,
    far_field_of_modes,
    near_field,
    on_device,
    point_spread_transfer,
    propagator,
    shift_transfer,
)
from bluesky_multislice.optics.conventions import frequencies


@dataclass(frozen=True)
class WaveTile:
    """The part of the window whose waves a rank computes.

    Attributes:
        shape: pixels (y, x) of the waves.
        pixel_m: pitch (y, x) of the waves.
        first_row: first row of the waves in the window.
        frame_rows: rows of the frames that follow from these waves; None: all.
    """

    shape: tuple[int, int]
    pixel_m: tuple[float, float]
    first_row: int = 0
    frame_rows: slice | None = None


class Camera(nn.Module):
    """The detector at each of its distances, and the optics between it and the sample.

    In the near field a frame is the intensity on the window, resampled to the pixels of its distance: their pitch at
    the object falls with the magnification. The level of a frame is the intensity at the sample, independent of the
    magnification.

    Args:
        geometry: the scan.
        options: options of the forward model.
        tile: rows and pitch of the waves.

    Attributes:
        effective_distances_m: (distance,) effective distance of each distinct pair of distance and magnification.
        distance_of: (view,) index of each view's distance.
        far_field: whether frames are diffraction patterns.
        frame: pixels (y, x) of whole frames.
        pixel_m: pitch (y, x) of the waves.
        precision: real floating-point type of the computation.
        wavelength_m: wavelength.
        window: pixels (y, x) of the waves.
    """

    _optics: Tensor | None
    _spread: Tensor | None

    def __init__(self, geometry: ScanGeometry, options: ModelOptions, tile: WaveTile) -> None:
        super().__init__()
        self.far_field = geometry.detector.regime == "far_field"
        ny, nx = self._sampled = geometry.detector.shape
        oversampling, margin, window, rows = options.oversampling, options.margin, tile.shape, tile.frame_rows
        self.frame = (ny // oversampling, nx // oversampling)
        self.window, self.pixel_m = window, tile.pixel_m
        own, top, self._tiled = rows or slice(0, self.frame[0]), margin - tile.first_row, rows is not None
        self._field = (slice(top + own.start * oversampling, top + own.stop * oversampling), slice(margin, margin + nx))
        self._oversampling, self.precision = oversampling, options.precision
        self.wavelength_m = geometry.beam.wavelength_m
        # The scaling theorem is not needed behind a lens, so the exact kernel is used.
        self._kernel: Kernel = "angular_spectrum" if geometry.detector.imaged else options.way_to_detector
        distances = np.stack([geometry.effective_distance_m, geometry.magnification], 1)
        distances, first, self.distance_of = np.unique(distances, axis=0, return_index=True, return_inverse=True)
        self.effective_distances_m: NDArray[np.float64] = distances[:, 0]
        self._coarser = distances[:, 1].max() / distances[:, 1]
        self.register_buffer("_optics", self._optics_of(geometry), persistent=False)
        blur_pixels = geometry.source_blur_m[first, None] / np.array(geometry.detector.pixel_size_m)
        sigma = self._coarser[:, None] * np.hypot(blur_pixels, options.point_spread_pixels * oversampling)
        spread = [point_spread_transfer(window, torch.as_tensor(each)) for each in sigma] if sigma.any() else None
        self.register_buffer("_spread", None if spread is None else torch.stack(spread), persistent=False)

    def transfers_to_detector(self, distances_m: Tensor) -> Tensor:
        """Return the transfer functions (distance, y, x) from the exit plane to the detector."""
        transfers = [
            propagator(
                self.window,
                pixel_size_m=self.pixel_m,
                wavelength_m=self.wavelength_m,
                distance_m=distance,
                kernel=self._kernel,
                band_limit=True,
            )
            for distance in distances_m
        ]
        stacked = torch.stack(transfers).to(self.precision.to_complex())
        return stacked if self._optics is None else stacked * self._optics

    def forward(
        self,
        wave: Tensor,
        transfers: Tensor,
        fraction: Tensor | None,
        views: NDArray[np.intp],
        adjustments: Adjustments,
    ) -> Tensor:
        """Return the frames of views.

        Args:
            wave: exit waves (mode, view, y, x).
            transfers: (distance, y, x) from ``transfers_to_detector``.
            fraction: (view, 2) or (1, 2) subpixel shift (y, x) of the waves in pixels; None: no shift.
            views: (view,) indices of the views.
            adjustments: corrections of the geometry, differentiable.
        """
        if self.far_field:
            return self._pixels(self._blurred(far_field_of_modes(wave), views))
        distance = on_device(self.distance_of[views], wave.device)
        transfers = transfers if len(transfers) == 1 else transfers[distance]
        if fraction is not None:
            transfers = transfers * shift_transfer(self.window, -fraction)
        if adjustments.distance_shift_m is not None:
            pixel_m = on_device(self.pixel_m, wave.device).to(adjustments.distance_shift_m)
            shift = (adjustments.distance_shift_m / pixel_m).double()
            transfers = transfers * shift_transfer(self.window, shift).to(transfers)[distance]
        intensity = self._blurred(near_field(wave, transfers).sum(0), views)
        return self._pixels(self._resampled(intensity, views, adjustments))

    def _blurred(self, intensity: Tensor, views: NDArray[np.intp]) -> Tensor:
        """Return the intensity blurred by the source size and the detector's point spread."""
        if self._spread is None:
            return intensity
        if len(self._spread) == 1:
            return blur(intensity, self._spread[0])
        return blur(intensity, self._spread[on_device(self.distance_of[views], intensity.device)])

    def _resampled(self, intensity: Tensor, views: NDArray[np.intp], adjustments: Adjustments) -> Tensor:
        """Return the intensity (view, y, x) at the pixels of each view's distance."""
        magnification, rotation = adjustments.distance_magnification, adjustments.distance_rotation_rad
        if magnification is None and rotation is None and (self._coarser == 1).all():
            return intensity[:, *self._field]
        if self._tiled:
            raise ScanError(
                "Tiles of frames need frames without a refined magnification or rotation, which mix rows of all tiles.",
                got="a refined magnification or rotation of the frames at a distance.",
                remedy="compute whole frames.",
            )
        distance_of = self.distance_of[views]
        frames = intensity.new_zeros((len(views), *self._sampled))
        for distance in np.unique(distance_of).tolist():
            members = on_device(np.flatnonzero(distance_of == distance), intensity.device)
            scale = torch.full((), self._coarser[distance], dtype=torch.float64, device=intensity.device)
            scale = scale if magnification is None else scale / (1 + magnification[distance].double())
            angle = torch.zeros_like(scale) if rotation is None else rotation[distance].double()
            matrix = scale * torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
            resampled = affine(intensity[members], self._sampled, matrix).clamp(min=0)
            frames = frames.index_copy(0, members, resampled)
        return frames

    def _pixels(self, intensity: Tensor) -> Tensor:
        return bin_pixels(intensity, (self._oversampling, self._oversampling)) if self._oversampling > 1 else intensity

    def _optics_of(self, geometry: ScanGeometry) -> Tensor | None:
        """Return the transfer function (y, x) of the optics between sample and detector; None for free space."""
        optics = technique_of(geometry).optics
        if optics is None:
            return None
        fy, fx = (frequencies(n, pitch) for n, pitch in zip(self.window, self.pixel_m, strict=True))
        return optics(geometry, fy[:, None], fx).to(self.precision.to_complex())
