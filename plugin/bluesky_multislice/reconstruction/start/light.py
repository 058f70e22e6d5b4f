"""What the frames to fit show at a glance."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import Saturated, Scan
from bluesky_multislice.parallel import Mesh


@dataclass(frozen=True, eq=False)
class Light:
    """The light of the frames to fit.

    Attributes:
        mean_frame: (y, x), 0 where masked.
        scale: its mean over good pixels.
        saturated_pixels: how many are left out of all frames.
        dark_views: frames without any light.
        dark_judges: the same of those held back.
    """

    mean_frame: NDArray[np.float32]
    scale: float
    saturated_pixels: int
    dark_views: int
    dark_judges: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know about it."""
        found = []
        if self.dark_views:
            found.append(f"{self.dark_views} of the frames to fit have no light: leave them out of the scan")
        if self.dark_judges:
            found.append(
                f"{self.dark_judges} of the frames held back, which judge the fit, have no light: leave them out "
                "of the scan"
            )
        if self.saturated_pixels:
            found.append(f"{self.saturated_pixels} saturated pixels of the frames to fit are left out")
        return tuple(found)


def measure_light(
    scan: Scan, fitted: NDArray[np.intp], held: NDArray[np.intp], saturated: Saturated, mesh: Mesh
) -> Light:
    """Look at the frames of all ranks, one after the other; the mean is of those to fit, less saturated pixels.

    Args:
        scan: what was measured.
        fitted: this rank's share of the views to fit.
        held: its share of those held back.
        saturated: what a saturated pixel means.
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
    return Light(mean, scale, int(count[0]), int(count[1]), int(count[2]))
