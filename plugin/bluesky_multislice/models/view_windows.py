"""Windows of the views: where each view's window starts in the planes of the rotated object."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bluesky_multislice.measurement import ScanGeometry, VolumeGrid
from bluesky_multislice.models.adjustments import Adjustments
from bluesky_multislice.models.camera import Camera
from bluesky_multislice.optics import on_device

_SUBPIXEL_TOLERANCE = 1e-3
"""Subpixel shifts below this many pixels count as zero."""


class ViewWindows(nn.Module):
    """First pixels of the windows, and the subpixel rest by which the probe is shifted.

    Args:
        geometry: the scan.
        grid: the volume's grid; the window has the same lateral pitch.
        window: pixels (y, x) of a window.
        camera: distances of the views.
        precision: real floating-point type of the shifts.

    Attributes:
        first: (view, 2) first pixel (y, x) of each window in the volume's planes, not rounded.
    """

    _off_middle_m: Tensor
    _distances_m: Tensor

    def __init__(
        self,
        geometry: ScanGeometry,
        grid: VolumeGrid,
        window: tuple[int, int],
        camera: Camera,
        precision: torch.dtype,
    ) -> None:
        super().__init__()
        self._precision, self._width = precision, grid.shape[2]
        self._pixel_m = (grid.voxel_size_m[1], grid.voxel_size_m[2])
        self._far_field, self._distance_of = camera.far_field, camera.distance_of
        offset = geometry.position_m - np.array(grid.center_m[1:])
        self.first = offset / np.array(self._pixel_m) + (np.array(grid.shape[1:]) - np.array(window)) / 2
        self._fixed_shift: NDArray[np.float64] | None = None
        self.register_buffer("_off_middle_m", torch.as_tensor(offset, dtype=precision), persistent=False)
        distances_m = torch.as_tensor(camera.effective_distances_m)
        self.register_buffer("_distances_m", distances_m, persistent=False)

    @property
    def _device(self) -> torch.device:
        return self._off_middle_m.device

    @property
    def between_pixels(self) -> NDArray[np.bool_]:
        """(view,) whether each view's window starts between pixels, so that the probe needs a subpixel shift."""
        return np.abs(self.first - np.rint(self.first)).max(1) >= _SUBPIXEL_TOLERANCE

    def shift(self, angle: slice | Tensor, views: NDArray[np.intp], adjustments: Adjustments) -> Tensor | None:
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
        if self._far_field and adjustments.distance_m is not None:
            scaling = 1 / (1 + adjustments.distance_m / self._distances_m.to(adjustments.distance_m)) - 1
            index, distance = (on_device(each, self._device) for each in (views, self._distance_of[views]))
            shifts.append(scaling[distance, None] * self._off_middle_m[index])
        if not shifts:
            return None
        return (sum(shifts) / on_device(self._pixel_m, self._device).to(shifts[0])).to(self._precision)

    def fix(self, angle_of: NDArray[np.intp], adjustments: Adjustments) -> None:
        """Choose each window's first pixel from these adjustments, and keep it until the next call.

        Args:
            angle_of: (view,) index of each view's angle.
            adjustments: corrections of the positions, the axis and, in the far field, the distance.
        """
        views = np.arange(len(angle_of))
        shift = self.shift(on_device(angle_of, self._device), views, adjustments)
        self._fixed_shift = np.zeros((len(views), 2))
        if shift is not None:
            self._fixed_shift[:] = shift.detach().cpu().numpy()

    def starts(self, views: NDArray[np.intp], shift: Tensor | None) -> tuple[NDArray[np.intp], Tensor | None]:
        """Return each window's first pixel (y, x) in the volume's planes, and the subpixel rest (view, 2).

        The rest is None if nothing is shifted and all windows start on whole pixels.

        Args:
            views: (view,) indices of the views.
            shift: from ``shift``; None: no shift.
        """
        first = self.first[views]
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

    def padded(
        self, starts: NDArray[np.intp], window: tuple[int, int], height: int
    ) -> tuple[list[tuple[int, int]], tuple[int, int, int, int]]:
        """Return the windows' first pixels in planes padded to contain all windows, and the padding (x, x, y, y).

        Args:
            starts: (view, 2) first pixels (y, x) in planes without padding.
            window: pixels (y, x) of the windows.
            height: rows of the planes.
        """
        extent = np.array([height, self._width])
        before = np.maximum(-starts.min(0), 0)
        after = np.maximum(starts.max(0) + np.array(window) - extent, 0)
        padding = (int(before[1]), int(after[1]), int(before[0]), int(after[0]))
        return [(y, x) for y, x in (starts + before).tolist()], padding
