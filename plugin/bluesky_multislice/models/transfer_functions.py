"""Transfer functions from z = 0 to the sample's entrance, and from its exit to the detector."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bluesky_multislice.choices import Kernel
from bluesky_multislice.models.adjustments import Adjustments
from bluesky_multislice.models.camera import Camera
from bluesky_multislice.optics import on_device, propagator


class TransferFunctions(nn.Module):
    """Free space around the slices.

    Args:
        camera: distances, pitch and wavelength of the waves, and the way to the detector.
        slice_thickness_m: thickness of each slice.
        outer_kernel: kernel of the first and last half step, if they are part of these functions; None: they are not.
    """

    _to_entrance: Tensor
    _to_detector: Tensor
    _distances_m: Tensor

    def __init__(self, camera: Camera, slice_thickness_m: Sequence[float], outer_kernel: Kernel | None) -> None:
        super().__init__()
        self._camera, self._slice_thickness_m = camera, list(slice_thickness_m)
        self._outer_kernel: Kernel | None = outer_kernel
        thickness = torch.tensor(self._slice_thickness_m, dtype=torch.float64)
        distances = torch.as_tensor(camera.effective_distances_m)
        self.register_buffer("_distances_m", distances, persistent=False)
        self.register_buffer("_to_entrance", self._entrance(thickness), persistent=False)
        self.register_buffer("_to_detector", self._exit(thickness, distances), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the functions."""
        return self._to_entrance.device

    def adjusted(self, adjustments: Adjustments) -> tuple[list[float] | Tensor, Tensor, Tensor]:
        """Return the slices' thickness, and the transfer functions to the entrance and to the detector."""
        added_thickness = adjustments.slice_thickness_m
        added_distance = None if self._camera.far_field else adjustments.distance_m
        thickness = self._slice_thickness_m
        if added_thickness is None and added_distance is None:
            return thickness, self._to_entrance, self._to_detector
        distances = self._distances_m if added_distance is None else self._distances_m + added_distance
        thickness_m = on_device(thickness, self.device, torch.float64)
        if added_thickness is None:
            return thickness, self._to_entrance, self._exit(thickness_m, distances)
        thickness_m = thickness_m + added_thickness
        return thickness_m, self._entrance(thickness_m), self._exit(thickness_m, distances)

    def _entrance(self, thickness_m: Tensor) -> Tensor:
        """Return the transfer function (y, x) from z = 0 to the entrance plane, or to the first slice's mid-plane."""
        transfer = self._transfer(-thickness_m.sum() / 2, band_limit=True)
        if self._outer_kernel is not None:
            transfer = transfer * self._transfer(thickness_m[0] / 2, kernel=self._outer_kernel)
        return transfer.to(self._camera.precision.to_complex())

    def _exit(self, thickness_m: Tensor, distances_m: Tensor) -> Tensor:
        """Return the transfer functions (distance, y, x) to the detector from the exit plane or the last mid-plane."""
        transfers = self._camera.transfers_to_detector(distances_m - thickness_m.sum() / 2)
        if self._outer_kernel is None or self._camera.far_field:
            return transfers
        return transfers * self._transfer(thickness_m[-1] / 2, kernel=self._outer_kernel).to(transfers)

    def _transfer(self, distance_m: Tensor, *, kernel: Kernel = "angular_spectrum", band_limit: bool = False) -> Tensor:
        return propagator(
            self._camera.window,
            pixel_size_m=self._camera.pixel_m,
            wavelength_m=self._camera.wavelength_m,
            distance_m=distance_m,
            kernel=kernel,
            band_limit=band_limit,
        )
