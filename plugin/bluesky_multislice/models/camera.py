"""From the exit wave to the frames: the way to the detector, what stands on it, and the detector's pixels.

Shapes: wave (mode, view, y, x) on the window; frames (view, y, x).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models.adjustments import Adjustments
from bluesky_multislice.models.techniques import technique_of
from bluesky_multislice.optics import (
    Kernel,
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


class Camera(nn.Module):
    """The detector at each of its distances, and what lies between it and the sample.

    In the near field a frame is the intensity on the window, read at its own pixels: those of a magnified hologram lie
    closer together. A frame's level is that of the light on the sample, whatever the magnification.

    Args:
        geometry: the scan.
        window: pixels (y, x) of the waves.
        pixel_m: their pitch (y, x).
        margin: pixels that the window has around the field on every side.
        rows: which rows of the frames come out, of waves that are a tile of the window; None: all.
        first_row: of the window that the waves begin with.
        oversampling: pixels of ``geometry`` on a side of each pixel of the frames that come out.
        point_spread_pixels: σ of the detector's Gaussian point spread, in pixels of the frames that come out.
        kernel: of the way to a near-field detector; the scaling theorem of a cone beam is one of Fresnel's.
        precision: of the real numbers that it computes with.

    Attributes:
        effective_distances_m: (distance,) distinct ways of the frames, by effective distance.
        distance_of: (view,) which of them a view has.
        far_field: whether frames are diffraction patterns.
        frame: pixels (y, x) of whole frames.
    """

    _optics: Tensor | None
    _spread: Tensor | None

    def __init__(
        self,
        geometry: ScanGeometry,
        *,
        window: tuple[int, int],
        pixel_m: tuple[float, float],
        margin: int,
        oversampling: int,
        point_spread_pixels: float,
        kernel: Kernel,
        precision: torch.dtype,
        rows: slice | None = None,
        first_row: int = 0,
    ) -> None:
        super().__init__()
        self.far_field = geometry.detector.regime == "far_field"
        ny, nx = self._sampled = geometry.detector.shape
        self.frame = (ny // oversampling, nx // oversampling)
        self._window, self._pixel_m = window, pixel_m
        own, top, self._tiled = rows or slice(0, self.frame[0]), margin - first_row, rows is not None
        self._seen = (slice(top + own.start * oversampling, top + own.stop * oversampling), slice(margin, margin + nx))
        self._oversampling, self._precision = oversampling, precision
        self._wavelength_m = geometry.beam.wavelength_m
        # A lens shows the field as it is.
        self._kernel: Kernel = "angular_spectrum" if geometry.detector.imaged else kernel
        ways = np.stack([geometry.effective_distance_m, geometry.magnification], 1)
        ways, first, self.distance_of = np.unique(ways, axis=0, return_index=True, return_inverse=True)
        self.effective_distances_m: NDArray[np.float64] = ways[:, 0]
        self._coarser = ways[:, 1].max() / ways[:, 1]
        self.register_buffer("_optics", self._optics_of(geometry), persistent=False)
        blur_pixels = geometry.source_blur_m[first, None] / np.array(geometry.detector.pixel_size_m)
        sigma = self._coarser[:, None] * np.hypot(blur_pixels, point_spread_pixels * oversampling)
        spread = [point_spread_transfer(window, torch.as_tensor(each)) for each in sigma] if sigma.any() else None
        self.register_buffer("_spread", None if spread is None else torch.stack(spread), persistent=False)

    def ways(self, distances_m: Tensor) -> Tensor:
        """Return the transfer functions (distance, y, x) over distances from the exit plane to the detector."""
        transfers = [
            propagator(
                self._window,
                pixel_size_m=self._pixel_m,
                wavelength_m=self._wavelength_m,
                distance_m=distance,
                kernel=self._kernel,
                band_limit=True,
            )
            for distance in distances_m
        ]
        ways = torch.stack(transfers).to(self._precision.to_complex())
        return ways if self._optics is None else ways * self._optics

    def forward(
        self,
        wave: Tensor,
        ways: Tensor,
        fraction: Tensor | None,
        views: NDArray[np.intp],
        adjustments: Adjustments,
    ) -> Tensor:
        """Return the frames of views.

        Args:
            wave: the exit waves.
            ways: from ``ways``.
            fraction: (view, 2) or (1, 2) pixels (y, x) by which the waves were moved, None for none.
            views: which views.
            adjustments: differences from the geometry, differentiable.
        """
        if self.far_field:
            return self._pixels(self._blurred(far_field_of_modes(wave), views))
        distance = on_device(self.distance_of[views], wave.device)
        # One way serves all views.
        ways = ways if len(ways) == 1 else ways[distance]
        if fraction is not None:
            ways = ways * shift_transfer(self._window, -fraction)
        if adjustments.distance_shift_m is not None:
            pixel_m = on_device(self._pixel_m, wave.device).to(adjustments.distance_shift_m)
            shift = (adjustments.distance_shift_m / pixel_m).double()
            ways = ways * shift_transfer(self._window, shift).to(ways)[distance]
        intensity = self._blurred(near_field(wave, ways).sum(0), views)
        return self._pixels(self._read(intensity, views, adjustments))

    def _blurred(self, intensity: Tensor, views: NDArray[np.intp]) -> Tensor:
        """Return what a source that is no point and a detector with a point spread leave of the intensity."""
        if self._spread is None:
            return intensity
        if len(self._spread) == 1:
            return blur(intensity, self._spread[0])
        return blur(intensity, self._spread[on_device(self.distance_of[views], intensity.device)])

    def _read(self, intensity: Tensor, views: NDArray[np.intp], adjustments: Adjustments) -> Tensor:
        """Return the intensity (view, y, x) at the pixels of each view's distance."""
        larger, turn = adjustments.distance_magnification, adjustments.distance_rotation_rad
        if larger is None and turn is None and (self._coarser == 1).all():
            return intensity[:, *self._seen]
        if self._tiled:
            raise ScanError(
                "A frame that is magnified or turned has other rows than its tile of the window.",
                got="a magnification or a turn of the frames of a distance that is refined.",
                remedy="compute whole frames.",
            )
        distance_of = self.distance_of[views]
        frames = intensity.new_zeros((len(views), *self._sampled))
        for distance in np.unique(distance_of).tolist():
            members = on_device(np.flatnonzero(distance_of == distance), intensity.device)
            scale = torch.full((), self._coarser[distance], dtype=torch.float64, device=intensity.device)
            scale = scale if larger is None else scale / (1 + larger[distance].double())
            angle = torch.zeros_like(scale) if turn is None else turn[distance].double()
            matrix = scale * torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
            read = affine(intensity[members], self._sampled, matrix).clamp(min=0)
            frames = frames.index_copy(0, members, read)
        return frames

    def _pixels(self, intensity: Tensor) -> Tensor:
        return bin_pixels(intensity, (self._oversampling, self._oversampling)) if self._oversampling > 1 else intensity

    def _optics_of(self, geometry: ScanGeometry) -> Tensor | None:
        """Return the transfer function (y, x) of what stands between sample and detector, None where nothing does."""
        optics = technique_of(geometry).optics
        if optics is None:
            return None
        fy, fx = (frequencies(n, pitch) for n, pitch in zip(self._window, self._pixel_m, strict=True))
        return optics(geometry, fy[:, None], fx).to(self._precision.to_complex())
