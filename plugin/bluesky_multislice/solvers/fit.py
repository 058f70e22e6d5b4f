"""Fit of volume and probe to the measured frames, with the frames held back as the judge.

The unknowns are kept in units of their effect: δ and β in radians through the whole volume, the probe in its own root
mean square. So one step size serves every sample, energy and voxel (Adam, Kingma & Ba 2015; cosine decay).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.models import ForwardModel
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.fidelity import amplitude_misfit, amplitude_r_factor
from bluesky_multislice.solvers.regularisers import total_variation
from bluesky_multislice.solvers.solution import Epoch, Solution, Status, finite
from bluesky_multislice.solvers.views import ViewSet, endless_empty

_ADVICE: dict[Status, str] = {
    "converged": "",
    "epochs_spent": "",
    "overfitting_stopped": "",
    "diverged": "Try a smaller step; check energy, distance, positions' sign and unit, and the probe.",
}


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    Attributes:
        epochs: most passes over the frames.
        batch_views: views that a rank works on at once.
        object_step_rad: step of δ and β in radians of phase through the whole volume.
        probe_step: step of the probe relative to its root mean square; 0 keeps it as it is.
        absorption: fit β; otherwise it stays 0.
        positivity: keep δ and β from going negative.
        total_variation: weight of total variation.
        seed: of the order of views.
    """

    epochs: int
    batch_views: int
    object_step_rad: float
    probe_step: float
    absorption: bool
    positivity: bool
    total_variation: float
    seed: int


class _Unknowns:
    """The tensors that are fitted, and their way to δ, β and the probe."""

    def __init__(self, model: ForwardModel, probe: Tensor, settings: FitSettings, device: torch.device) -> None:
        self.settings = settings
        self.unit = 1 / (wavenumber(model.wavelength_m) * model.grid.thickness_m)
        self.object = torch.zeros((2, *model.grid.shape), device=device, requires_grad=True)
        self.probe_unit = float(probe.abs().square().mean().sqrt())
        parts = torch.view_as_real(probe.to(device) / self.probe_unit).contiguous()
        self.probe_parts = parts.requires_grad_(settings.probe_step > 0)
        groups = [{"params": [self.object], "lr": settings.object_step_rad}]
        if settings.probe_step > 0:
            groups.append({"params": [self.probe_parts], "lr": settings.probe_step})
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=True)
        self.decay = torch.optim.lr_scheduler.LambdaLR(
            self.adam, lambda epoch: 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(epoch / settings.epochs, 1)))
        )

    def expect(self, model: ForwardModel, views: NDArray[np.intp]) -> Tensor:
        delta, beta = self.object[0] * self.unit, self.object[1] * self.unit
        return model(delta, beta, self.probe, views)

    @property
    def probe(self) -> Tensor:
        return torch.view_as_complex(self.probe_parts) * self.probe_unit

    def gradients(self) -> list[Tensor]:
        found = [self.object, self.probe_parts] if self.probe_parts.requires_grad else [self.object]
        for tensor in found:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        return [tensor.grad for tensor in found if tensor.grad is not None]

    @torch.no_grad()
    def step(self) -> None:
        if not self.settings.absorption and self.object.grad is not None:
            self.object.grad[1] = 0
        self.adam.step()
        self.adam.zero_grad(set_to_none=False)
        if self.settings.positivity:
            self.object.clamp_(min=0)

    def copy(self) -> tuple[Tensor, Tensor]:
        return self.object.detach().clone(), self.probe_parts.detach().clone()

    @torch.no_grad()
    def restore(self, saved: tuple[Tensor, Tensor]) -> None:
        self.object.copy_(saved[0])
        self.probe_parts.copy_(saved[1])


def fit(
    model: ForwardModel,
    probe: Tensor,
    fitted: ViewSet,
    held_back: ViewSet,
    mask: Tensor,
    angles: NDArray[np.float64],
    settings: FitSettings,
    mesh: Mesh,
    report: Callable[[Epoch], None],
) -> Solution:
    """Fit δ, β and the probe.

    Args:
        model: the forward model.
        probe: complex (mode, y, x) to start from, in the root of the scaled frames' units.
        fitted: this rank's frames to fit.
        held_back: this rank's frames to judge by.
        mask: (y, x) 1 where a pixel is good.
        angles: (view,) of the whole scan.
        settings: how to fit.
        mesh: the ranks.
        report: called after every epoch.

    Returns:
        the unknowns of the epoch that explained the held-back frames best, with the status; a fit that diverges
        returns the last finite unknowns and says so.
    """
    unknowns = _Unknowns(model, probe, settings, mesh.device)
    shuffle = np.random.default_rng([settings.seed, mesh.rank])
    steps = mesh.largest(len(fitted.batches(angles, settings.batch_views, None)))
    began, history, best, best_epoch, best_loss = time.monotonic(), [], unknowns.copy(), 0, math.inf
    status: Status = "epochs_spent"
    for number in range(1, settings.epochs + 1):
        batches = fitted.batches(angles, settings.batch_views, shuffle)
        loss = _epoch(model, unknowns, fitted, mask, batches, steps, settings, mesh)
        judged = _judge(model, unknowns, held_back, mask, angles, settings, mesh)
        history.append(Epoch(number, loss, judged, time.monotonic() - began))
        report(history[-1])
        measure = loss if judged is None else judged
        if not (math.isfinite(measure) and finite(unknowns.object, unknowns.probe_parts)):
            status = "diverged"
            break
        if measure < best_loss:
            best, best_epoch, best_loss = unknowns.copy(), number, measure
        elif number - best_epoch >= max(8, settings.epochs // 4):
            status = "overfitting_stopped" if judged is not None else "converged"
            break
        unknowns.decay.step()
    unknowns.restore(best)
    return Solution(
        delta=best[0][0] * unknowns.unit,
        beta=best[0][1] * unknowns.unit,
        probe=unknowns.probe.detach(),
        status=status,
        advice=_ADVICE[status],
        best_epoch=best_epoch,
        history=tuple(history),
        r_factor=_r_factor(model, unknowns, fitted, mask, angles, settings, mesh) or math.nan,
        held_back_r_factor=_r_factor(model, unknowns, held_back, mask, angles, settings, mesh),
    )


def _epoch(
    model: ForwardModel,
    unknowns: _Unknowns,
    fitted: ViewSet,
    mask: Tensor,
    batches: list[NDArray[np.intp]],
    steps: int,
    settings: FitSettings,
    mesh: Mesh,
) -> float:
    total = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for batch in endless_empty(batches, steps):
        tally = torch.zeros(2, device=mesh.device)
        if batch is not None:
            expected = unknowns.expect(model, fitted.views[batch])
            misfit = amplitude_misfit(expected, fitted.amplitude[batch], mask)
            misfit.backward()
            tally[0], tally[1] = misfit.detach(), len(batch) * float(mask.sum())
        gradients = unknowns.gradients()
        mesh.sum(tally, *gradients)
        for gradient in gradients:
            gradient /= tally[1]
        if settings.total_variation > 0:
            (settings.total_variation * total_variation(unknowns.object, settings.object_step_rad)).backward()
        unknowns.step()
        total += tally
    return float(total[0] / total[1])


@torch.no_grad()
def _judge(
    model: ForwardModel,
    unknowns: _Unknowns,
    held: ViewSet,
    mask: Tensor,
    angles: NDArray,
    settings: FitSettings,
    mesh: Mesh,
) -> float | None:
    total = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for batch in held.batches(angles, settings.batch_views, None):
        total[0] += amplitude_misfit(unknowns.expect(model, held.views[batch]), held.amplitude[batch], mask)
        total[1] += len(batch) * mask.sum()
    mesh.sum(total)
    return float(total[0] / total[1]) if total[1] > 0 else None


@torch.no_grad()
def _r_factor(
    model: ForwardModel,
    unknowns: _Unknowns,
    held: ViewSet,
    mask: Tensor,
    angles: NDArray,
    settings: FitSettings,
    mesh: Mesh,
) -> float | None:
    total = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for batch in held.batches(angles, settings.batch_views, None):
        expected = unknowns.expect(model, held.views[batch])
        total += torch.stack(amplitude_r_factor(expected, held.amplitude[batch], mask))
    mesh.sum(total)
    return float(total[0] / total[1]) if total[1] > 0 else None
