"""Statistics of the frames to fit."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import Saturated, Scan
from bluesky_multislice.parallel import Mesh


@dataclass(frozen=True, eq=False)
class FrameStatistics:
    """Statistics of all ranks' frames.

    Attributes:
        mean_frame: (y, x) mean of the frames to fit, 0 where masked.
        scale: mean over good pixels of ``mean_frame``.
        saturated_pixels: number of saturated pixels in all frames to fit.
        dark_views: number of dark frames among those to fit.
        dark_held_back: number of dark validation frames.
    """

    mean_frame: NDArray[np.float32]
    scale: float
    saturated_pixels: int
    dark_views: int
    dark_held_back: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about dark frames and saturated pixels."""
        found = []
        if self.dark_views:
            found.append(f"{self.dark_views} of the frames to fit are dark: remove them from the scan")
        if self.dark_held_back:
            found.append(f"{self.dark_held_back} of the validation frames are dark: remove them from the scan")
        if self.saturated_pixels:
            found.append(f"{self.saturated_pixels} saturated pixels of the frames to fit are excluded")
        return tuple(found)


def measure_mean_frame(
    scan: Scan, fitted: NDArray[np.intp], held: NDArray[np.intp], saturated: Saturated, mesh: Mesh
) -> FrameStatistics:
    """Return statistics of all ranks' frames, read one by one; the mean excludes saturated pixels.

    Args:
        scan: the scan.
        fitted: this rank's share of the views to fit.
        held: this rank's share of the validation views.
        saturated: treatment of saturated pixels.
        mesh: the ranks.

    Raises:
        FramesError: a frame cannot be used, or no frame has any light.
    """
    total, seen = (torch.zeros(scan.frames.shape, dtype=torch.float64, device=mesh.device) for _ in range(2))
    count = torch.zeros(3, dtype=torch.float64, device=mesh.device)
    for view in fitted:
        frame = torch.from_numpy(scan.frames.read(np.array([view]), saturated=saturated)[0]).to(mesh.device)
        lost = torch.isnan(frame)
        frame = frame.nan_to_num()
        total += frame
        seen += ~lost
        count[:2] += torch.stack([lost.sum(), (frame.sum() <= 0) & ~lost.any()])
    for view in held:
        count[2] += not scan.frames.read(np.array([view]), saturated=saturated).any()
    mesh.sum(total, seen, count)
    mean = (total / seen.clamp(min=1)).float().cpu().numpy()
    scale = float(mean[scan.frames.mask].mean())
    if scale <= 0:
        raise FramesError(
            "Frames must have light in them.",
            got="zero in every good pixel of every frame.",
            remedy="check the shutter, the mask and the dark frames.",
        )
    return FrameStatistics(mean, scale, int(count[0]), int(count[1]), int(count[2]))
