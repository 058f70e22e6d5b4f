"""The tensors that are fitted, in units of their effect, and the optimisers that move them.

δ and β are kept in radians through the whole volume, the probe in its own root mean square, so that one step serves
every sample, energy and voxel. All steps shorten by a cosine; the probe's optimiser is Adam (Kingma & Ba 2015).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.models import ForwardModel
from bluesky_multislice.optics import propagate
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.solvers.fidelity import FidelityName
from bluesky_multislice.solvers.optimiser import ObjectOptimiser, OptimiserName
from bluesky_multislice.solvers.refinement import Refinement, RefinementSettings
from bluesky_multislice.solvers.regularisers import Priors, bound

_LAST_STEP = 0.02
"""Step of the last epoch, relative to the first's."""


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    Attributes:
        epochs: most passes over the frames.
        batch_views: views that a rank works on at once.
        object_step_rad: step of δ and β in radians of phase through the whole volume, of Adam and in differences.
        probe_step: step of the probe relative to its root mean square; 0 keeps it as it is.
        gradient_floor: part of the first step's largest gradient below which Adam moves voxels less.
        absorption: fit β; otherwise it stays 0.
        positivity: keep δ and β from going negative.
        seed: of the order of views.
        fidelity: name of a data fidelity in ``fidelity.FIDELITIES``.
        priors: regularisers and bounds.
        refinement: what is refined beside volume and probe.
        optimiser: what moves the object.
        step: factor on the object's step where that comes from the data.
    """

    epochs: int
    batch_views: int
    object_step_rad: float
    probe_step: float
    gradient_floor: float
    absorption: bool
    positivity: bool
    seed: int
    fidelity: FidelityName = "amplitude"
    priors: Priors = field(default_factory=Priors)
    refinement: RefinementSettings = field(default_factory=RefinementSettings)
    optimiser: OptimiserName = "nesterov"
    step: float = 1.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FitSettings":
        """Rebuild settings from ``dataclasses.asdict``, with or without JSON in between."""
        refinement = RefinementSettings.from_dict(values["refinement"])
        return cls(**{**values, "priors": Priors(**values["priors"]), "refinement": refinement})


class Unknowns:
    """δ, β and probe during a fit.

    Args:
        model: the forward model.
        probe: complex (mode, y, x) to start from.
        settings: how to fit.
        device: where they are kept.
        support: bool (z, y, x), True where there may be matter; None is everywhere.
    """

    def __init__(
        self,
        model: ForwardModel,
        probe: Tensor,
        settings: FitSettings,
        device: torch.device,
        support: Tensor | None = None,
    ) -> None:
        self._model, self._settings = model, settings
        self._support = None if support is None else support.to(device)
        self._unit = 1 / (wavenumber(model.wavelength_m) * model.grid.thickness_m)
        self._probe_unit = float(probe.abs().square().mean().sqrt())
        #: (2, z, y, x) δ and β in radians through the volume.
        self.object = torch.zeros((2, *model.grid.shape), device=device, requires_grad=True)
        parts = torch.view_as_real(probe.to(device) / self._probe_unit).contiguous()
        self._probe_parts = parts.requires_grad_(settings.probe_step > 0)
        #: moves the object.
        self.optimiser = ObjectOptimiser(
            self.object,
            name=settings.optimiser,
            factor=settings.step,
            adam_step=settings.object_step_rad,
            adam_floor=settings.gradient_floor,
            relative_step=self._relative_step,
        )
        # A step of 0 moves nothing, and a tensor that needs no gradient has none.
        self._adam = torch.optim.Adam(
            [self._probe_parts], lr=settings.probe_step, betas=(0.9, 0.99), eps=1e-12, fused=True
        )
        self._decay = torch.optim.lr_scheduler.LambdaLR(self._adam, self._relative_step)
        self._refinement = Refinement(
            model,
            settings.refinement,
            probe_refined=settings.probe_step > 0,
            relative_step=self._relative_step,
            device=device,
        )

    @property
    def delta(self) -> Tensor:
        """(z, y, x)."""
        return self.object[0] * self._unit

    @property
    def beta(self) -> Tensor:
        """(z, y, x)."""
        return self.object[1] * self._unit

    @property
    def probe(self) -> Tensor:
        """Complex (mode, y, x)."""
        probe = torch.view_as_complex(self._probe_parts) * self._probe_unit
        defocus_m = self._refinement.defocus_m
        if defocus_m is None:
            return probe
        return propagate(
            probe, distance_m=defocus_m, wavelength_m=self._model.wavelength_m, pixel_size_m=self._model.pixel_m
        )

    @property
    def differences(self) -> dict[str, Tensor]:
        """By name what was refined beside volume and probe, as in ``Solution``."""
        return {name: value.detach() for name, value in self._refinement.differences().items()}

    def expect(self, views: NDArray[np.intp]) -> Tensor:
        """Return the expected intensity (view, y, x)."""
        delta, beta = (self.object * self._unit).unbind(0)
        return self._model(delta, beta, self.probe, views, self._refinement.adjustments())

    @property
    def follows(self) -> bool:
        """Whether frames held back have values of their own, such as positions, that move."""
        return self._refinement.follows

    def follow(self, misfit: Tensor) -> None:
        """Add the gradients of frames held back to what belongs to their views alone, such as their positions."""
        self._refinement.follow(misfit)

    def gradients(self) -> list[Tensor]:
        """Return the gradient of each tensor that is fitted, zero before the first backward pass."""
        fitted = [self.object, self._probe_parts] if self._probe_parts.requires_grad else [self.object]
        for tensor in fitted:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        own = [tensor.grad for tensor in fitted if tensor.grad is not None]
        if not self._settings.absorption:
            own[0][1] = 0
        return own + self._refinement.gradients()

    @torch.no_grad()
    def step(self) -> None:
        """Move against the gradients, and set them to zero."""
        self.gradients()
        self.optimiser.step()
        self._adam.step()
        self._adam.zero_grad(set_to_none=False)
        self._refinement.step()
        bound(self.object, self._settings.priors, positivity=self._settings.positivity, support=self._support)

    def end_epoch(self) -> None:
        """Shorten the step."""
        self.optimiser.end_epoch()
        self._decay.step()
        self._refinement.end_epoch()

    def finite(self) -> bool:
        """Return whether every number is finite."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self._tensors)

    @property
    def _tensors(self) -> list[Tensor]:
        return [self.object, self._probe_parts, *self._refinement.tensors]

    def copy(self) -> list[Tensor]:
        """Return what ``restore`` takes."""
        return [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def restore(self, saved: list[Tensor]) -> None:
        """Go back to a copy."""
        for tensor, was in zip(self._tensors, saved, strict=True):
            tensor.copy_(was)

    def _relative_step(self, epoch: int) -> float:
        done = min(epoch / self._settings.epochs, 1)
        return _LAST_STEP + (1 - _LAST_STEP) * 0.5 * (1 + math.cos(math.pi * done))
