"""Misfit of every frame, from one pass over the frames after a fit."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.optics import on_device
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.fidelity import used_amplitude
from bluesky_multislice.solvers.misfit import expected_and_measured, own_views
from bluesky_multislice.solvers.unknowns import Unknowns
from bluesky_multislice.solvers.views import ViewSet


@dataclass(frozen=True, eq=False)
class FrameMisfits:
    """Sums over the pixels of each frame that are used, (view,) each; zero for views that were not evaluated.

    Intensities I are those of the normalised frames. The residual is √I_model − √I. Its structure is the sum of
    products of neighbouring pixels along x: noise that is independent in each pixel does not contribute to it on
    average.

    Attributes:
        residual: Σ|√I_model − √I|.
        amplitude: Σ√I.
        structure: Σ of the residual times that of the next pixel.
        structure_variance: variance of ``structure`` by independent noise, estimated by Σ of the squared products.
        intensity: ΣI.
    """

    residual: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    structure: NDArray[np.float64]
    structure_variance: NDArray[np.float64]
    intensity: NDArray[np.float64]

    @classmethod
    def of_sums(cls, sums: Tensor) -> "FrameMisfits":
        """Return the misfits of sums (view, 5) of ``frame_sums``."""
        return cls(*np.ascontiguousarray(sums.cpu().numpy().T))

    @property
    def r_factors(self) -> NDArray[np.float64]:
        """(view,) R-factor of each frame; NaN for views that were not evaluated, infinite for dark frames."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.residual / self.amplitude

    @property
    def r_factor(self) -> float | None:
        """R-factor of all evaluated frames, Σ|√I−√I_model|/Σ√I; None if there are none, or all are dark."""
        amplitude = float(self.amplitude.sum())
        return float(self.residual.sum()) / amplitude if amplitude else None

    @property
    def structure_error(self) -> float:
        """Standard deviation of the sum of all frames' ``structure`` by independent noise."""
        return float(self.structure_variance.sum()) ** 0.5

    def select(self, views: NDArray[np.intp] | NDArray[np.bool_]) -> "FrameMisfits":
        """Return the misfits of these views only."""
        return FrameMisfits(*(part[views] for part in vars(self).values()))

    def merge(self, others: "FrameMisfits") -> "FrameMisfits":
        """Return the misfits of these evaluated views and of others."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return FrameMisfits(*(own + other for own, other in pairs))


def frame_sums(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> Tensor:
    """Return the sums (view, 5) of ``FrameMisfits``, float64.

    Args:
        expected: (view, y, x) intensity of the model, of the normalised frames.
        measured_amplitude: (view, y, x) square root of the frames, NaN where a pixel is not used.
        mask: (y, x) 1 for good pixels, else 0.
    """
    good, amplitude = used_amplitude(measured_amplitude, mask)
    amplitude = good * amplitude
    residual = good * torch.sqrt(expected) - amplitude
    products = residual[..., 1:] * residual[..., :-1]
    parts = [residual.abs(), amplitude, products, products.square(), amplitude.square()]
    return torch.stack([part.sum((-2, -1)) for part in parts], -1).double()


@torch.no_grad()
def frame_misfits(unknowns: Unknowns, frames: ViewSet, mesh: Mesh) -> FrameMisfits:
    """Return the misfits of all ranks' frames.

    Args:
        unknowns: the unknowns to evaluate.
        frames: this rank's frames.
        mesh: the ranks.
    """
    total = torch.zeros((unknowns.views, 5), dtype=torch.float64, device=mesh.device)
    batches = frames.batches(unknowns.settings.batch_views, None)
    views = own_views(unknowns, frames, batches)
    for expected, measured in expected_and_measured(unknowns, frames, batches):
        total.index_add_(0, on_device(next(views), mesh.device), frame_sums(expected, measured, frames.mask))
        del expected, measured
    mesh.sum(total)
    return FrameMisfits.of_sums(total)
