"""Statistics of the frames, and the frames that are left out because of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import OUTLIER_FACTOR, Saturated, Scan, outlier_frames
from bluesky_multislice.parallel import Mesh

_MOST_NAMED = 10
"""Largest number of left-out frames that a warning names."""


@dataclass(frozen=True, eq=False)
class FrameStatistics:
    """Statistics of all ranks' frames.

    Attributes:
        fitted: views to fit.
        held_back: validation views.
        mean_frame: (y, x) mean of the frames to fit, 0 where masked.
        scale: mean over good pixels of ``mean_frame``.
        saturated_pixels: number of saturated pixels in all frames to fit.
        intensity: (view,) mean intensity of each frame over its good pixels that are not saturated.
        left_out: (view,) whether the frame is left out, because it is far brighter or darker than its neighbours, or
            empty.
    """

    fitted: NDArray[np.intp]
    held_back: NDArray[np.intp]
    mean_frame: NDArray[np.float32]
    scale: float
    saturated_pixels: int
    intensity: NDArray[np.float64]
    left_out: NDArray[np.bool_]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about frames that are left out, dark frames and saturated pixels."""
        found = list(self._left_out_warnings())
        for views, name in ((self.fitted, "frames to fit"), (self.held_back, "validation frames")):
            if dark := int((self.intensity[views] <= 0).sum()):
                found.append(f"{dark} of the {name} are dark: remove them from the scan")
        if self.saturated_pixels:
            found.append(f"{self.saturated_pixels} saturated pixels of the frames to fit are excluded")
        return tuple(found)

    def _left_out_warnings(self) -> list[str]:
        views = np.flatnonzero(self.left_out)
        if not len(views):
            return []
        named = ", ".join(f"{view} ({self.intensity[view] / self.scale:.3g})" for view in views[:_MOST_NAMED].tolist())
        more = f" and {len(views) - _MOST_NAMED} more" if len(views) > _MOST_NAMED else ""
        return [
            f"frames left out, over {OUTLIER_FACTOR:g} times brighter or darker than neighbouring frames, or empty: "
            f"view {named}{more}; in brackets the intensity relative to the mean"
        ]


def measure_frames(
    scan: Scan, fitted: NDArray[np.intp], held_back: NDArray[np.intp], saturated: Saturated, mesh: Mesh
) -> FrameStatistics:
    """Return statistics of all ranks' frames, each read once, and leave out outliers.

    Args:
        scan: the scan.
        fitted: views to fit.
        held_back: validation views.
        saturated: treatment of saturated pixels.
        mesh: the ranks.

    Raises:
        FramesError: a frame cannot be used, or no frame has any light.
    """
    sums = _FrameSums(scan, saturated, mesh)
    for views in (fitted, held_back):
        sums.add(views, to_mean=views is fitted)
    intensity, lost = sums.per_view()
    left_out = outlier_frames(intensity, scan.geometry)
    sums.subtract(fitted[left_out[fitted]])
    fitted, held_back = (views[~left_out[views]] for views in (fitted, held_back))
    mean = sums.mean_frame()
    scale = float(mean[scan.frames.mask].mean())
    if scale <= 0:
        raise FramesError(
            "Frames must have light in them.",
            got="zero in every good pixel of every frame.",
            remedy="check the shutter, the mask and the dark frames.",
        )
    return FrameStatistics(fitted, held_back, mean, scale, int(lost[fitted].sum()), intensity, left_out)


class _FrameSums:
    """Sums over frames, of which every rank reads its share; pixels that are saturated in a frame do not count."""

    def __init__(self, scan: Scan, saturated: Saturated, mesh: Mesh) -> None:
        self._scan, self._mesh = scan, mesh
        self._saturated: Saturated = saturated
        self._pixels = int(scan.frames.mask.sum())
        self._total, self._seen = self._zeros(*scan.frames.shape), self._zeros(*scan.frames.shape)
        self._light, self._lost = self._zeros(scan.geometry.views), self._zeros(scan.geometry.views)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._mesh.device)

    def add(self, views: NDArray[np.intp], *, to_mean: bool) -> None:
        """Measure the light of these views' frames; ``to_mean``: and add them to the mean frame."""
        for view, frame, seen in self._read(views):
            self._light[view], self._lost[view] = frame.sum(), (~seen).sum()
            if to_mean:
                self._total += frame
                self._seen += seen.double()

    def subtract(self, views: NDArray[np.intp]) -> None:
        """Remove these views' frames from the mean frame again."""
        for _, frame, seen in self._read(views):
            self._total -= frame
            self._seen -= seen.double()

    def per_view(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (view,) mean intensity and number of saturated pixels of each frame."""
        self._mesh.sum(self._light, self._lost)
        light, lost = self._light.cpu().numpy(), self._lost.cpu().numpy()
        return light / np.maximum(self._pixels - lost, 1), lost

    def mean_frame(self) -> NDArray[np.float32]:
        """Return the mean (y, x) of all ranks' frames."""
        self._mesh.sum(self._total, self._seen)
        return (self._total / self._seen.clamp(min=1)).float().cpu().numpy()

    def _read(self, views: NDArray[np.intp]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each view of this rank's share with its frame and whether its pixels are not saturated."""
        for view in views[self._mesh.share(len(views))].tolist():
            stored = self._scan.frames.read(np.array([view]), saturated=self._saturated)[0]
            frame = torch.from_numpy(stored).to(self._mesh.device)
            yield view, frame.nan_to_num().double(), ~frame.isnan()
