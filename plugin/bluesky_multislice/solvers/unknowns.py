"""The unknowns of a fit, in scaled units, and their optimisers.

δ and β are in radians of phase through the whole volume. The probe is in units of its root mean square. One step
length therefore suits every sample, energy and voxel size. All step lengths decrease along a cosine.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.choices import FidelityName, OptimiserName
from bluesky_multislice.models import ForwardModel, RotatedObject
from bluesky_multislice.optics import in_memory_order, propagate, with_y_last
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.parallel import Mesh, PlaneShares
from bluesky_multislice.solvers.optimisers import FusedStep, ObjectOptimiser, gradient_of
from bluesky_multislice.solvers.priors import Bounds, Priors, apply_bounds
from bluesky_multislice.solvers.refinement import ProbeOptimiser, ProbeVariation, Refinement, RefinementSettings

_LAST_STEP = 0.02
"""Step length of the last epoch relative to the first."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit.

    Attributes:
        epochs: maximum number of passes over the frames.
        batch_views: views that a rank computes at once.
        batches_per_lane: batches of each lane per step; their gradients are summed.
        object_step_rad: step of δ and β for Adam and for finite differences, in radians of phase through the whole
            volume.
        probe_step: step of the probe relative to its root mean square, or factor on its weighted step; 0 keeps the
            probe fixed.
        gradient_floor: gradient below which Adam moves voxels less, relative to the largest gradient of the first step.
        absorption: fit β; if False, β stays 0.
        positivity: constrain δ and β to values ≥ 0.
        seed: random seed of the order of views.
        fidelity: name of a data fidelity in ``fidelity.FIDELITIES``.
        priors: what is assumed of the object.
        beta_over_delta_min: lower bound on β/δ of a voxel; None: no bound.
        beta_over_delta_max: upper bound on β/δ of a voxel; None: no bound.
        refinement: quantities refined beside object and probe.
        optimiser: optimiser of the object.
        step: factor on the object's step, if the step is computed from the data.
        momentum: momentum of the object for Nesterov's method.
        polish: steps of conjugate gradients over all frames after the epochs.
        probe_variations: number of shapes by which the probe may change from view to view.
        probe_light: mean |probe|² per pixel that the frames' intensity implies; it bounds a refined probe. None: that
            of the initial probe.
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
    beta_over_delta_min: float | None = None
    beta_over_delta_max: float | None = None
    refinement: RefinementSettings = field(default_factory=RefinementSettings)
    optimiser: OptimiserName = "nesterov"
    step: float = 1.0
    momentum: float = 0.95
    polish: int = 0
    probe_variations: int = 0
    probe_light: float | None = None
    batches_per_lane: int = 1

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FitSettings":
        """Rebuild settings from ``dataclasses.asdict``, also after a JSON round trip."""
        refinement = RefinementSettings.from_dict(values["refinement"])
        return cls(**{**values, "priors": Priors.from_dict(values["priors"]), "refinement": refinement})


class Unknowns:
    """Object and probe during a fit.

    Args:
        model: the forward model.
        probe: initial probe, complex (mode, y, x).
        settings: fit settings.
        device: device of the tensors.
        support: bool (z, y, x), True where matter is allowed, for the stored rows; None: everywhere.
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
        #: rows of the volume that this rank stores.
        self.slab = model.slab
        self._support = None if support is None else with_y_last(support.to(device))
        self._unit = 1 / (wavenumber(model.wavelength_m) * model.grid.thickness_m)
        self._probe_unit = float(probe.abs().square().mean().sqrt())
        depth, _, width = model.grid.shape
        held = (depth, self.slab.rows.stop - self.slab.rows.start, width)
        #: (part, z, y, x) δ and, if fitted, β, in radians through the volume; the stored rows, y contiguous in memory.
        self.object = with_y_last(torch.zeros((1 + settings.absorption, *held), device=device)).requires_grad_()
        self.object.grad = torch.zeros_like(self.object)
        # Views of the object and its gradient: backward passes accumulate in place without a copy.
        self._volumes = [part.detach().requires_grad_() for part in self.object]
        for volume, gradient in zip(self._volumes, self.object.grad, strict=True):
            volume.grad = gradient
        self._probe_parts = torch.view_as_real(probe.to(device) / self._probe_unit).contiguous()
        # The callbacks hold no reference to ``self``, so that the tensors are freed as soon as their owner drops them.
        relative_step = functools.partial(_relative_step, settings.epochs)
        weighted = settings.optimiser == "weighted"
        # A single angle has few planes, and weighted descent needs all of them on every rank.
        self._shares = PlaneShares(self.slab.mesh, depth, divided=not weighted)
        self._moved = self.object
        if self.shares_planes:
            self._moved = with_y_last(self._shares.part_of(self.object.detach()).clone()).requires_grad_()
            self._moved.grad = torch.zeros_like(self._moved)
        #: optimiser of the object, or of this rank's planes if ranks share them.
        self.optimiser = ObjectOptimiser(
            self._moved,
            name=settings.optimiser,
            factor=settings.step,
            adam_step=settings.object_step_rad,
            adam_floor=settings.gradient_floor,
            momentum=settings.momentum,
            relative_step=relative_step,
            largest=self._largest,
        )
        self._illumination = with_y_last(torch.zeros(held[1:], device=device)) if weighted else None
        intensity = settings.probe_light
        self._probe_optimiser = ProbeOptimiser(
            self._probe_parts,
            weighted=weighted,
            step=settings.probe_step,
            schedule=settings.refinement.schedule_of("probe"),
            power=None if intensity is None else intensity * probe.numel() / len(probe) / self._probe_unit**2,
            relative_step=relative_step,
        )
        self._refinement = Refinement(
            model,
            settings.refinement,
            probe_refined=settings.probe_step > 0,
            relative_step=relative_step,
            device=device,
        )
        self._refinement.fix_windows(model)
        self._variation: ProbeVariation | None = None
        if settings.probe_variations:
            self._variation = ProbeVariation(
                torch.view_as_complex(self._probe_parts.detach())[0],
                views=len(model.angle_of),
                number=settings.probe_variations,
                schedule=settings.refinement.schedule_of("probe_variations"),
                relative_step=relative_step,
            )

    @torch.no_grad()
    def start_from(self, delta: Tensor, beta: Tensor) -> None:
        """Set the initial guess of δ and β (z, y, x) for the stored rows, clipped to the bounds."""
        for part, given in zip(self.object, (delta, beta), strict=False):
            part.copy_(given).div_(self._unit)
        self.move(torch.zeros((), device=self.object.device))

    @property
    def _largest(self) -> Callable[[Tensor], Tensor]:
        """Function that returns the maximum of a number over all ranks that update different voxels."""
        return self.slab.mesh.largest_value if self.shares_planes else self.slab.largest_value

    @property
    def empty(self) -> bool:
        """Whether the object is zero everywhere."""
        return self.slab.largest(float(self.object.any())) == 0

    @property
    def delta(self) -> Tensor:
        """δ (z, y, x) of the stored rows."""
        return self.object[0] * self._unit

    @property
    def beta(self) -> Tensor:
        """β (z, y, x) of the stored rows."""
        return self.object[1] * self._unit if self._settings.absorption else torch.zeros_like(self.object[0])

    @property
    def probe(self) -> Tensor:
        """Probe at z = 0, complex (mode, y, x)."""
        probe = torch.view_as_complex(self._probe_parts) * self._probe_unit
        defocus_m = self._refinement.defocus_m
        if defocus_m is None:
            return probe
        return propagate(
            probe, distance_m=defocus_m, wavelength_m=self._model.wavelength_m, pixel_size_m=self._model.pixel_m
        )

    @property
    def differences(self) -> dict[str, Tensor]:
        """Refined quantities beside object and probe, by name, as in ``Solution``."""
        found = {name: value.detach() for name, value in self._refinement.differences().items()}
        if self._variation is not None:
            self._variation.orthogonalise()
            found["probe_variations"] = self._variation.shapes.detach() * self._probe_unit
            found["variation_of_view"] = self._variation.weights.detach()
        return found

    def computes(self, views: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which of these views this rank computes (bool)."""
        return self.slab.computes(views)

    def rotate(self, views: NDArray[np.intp]) -> RotatedObject | None:
        """Start to rotate the object to the angle of these views; return None if this rank stores the whole object."""
        if self.slab.whole:
            return None
        return self._model.rotate_object(*self._delta_and_beta, views, self._refinement.adjustments())

    def expected_intensity(self, views: NDArray[np.intp], turned: RotatedObject | None = None) -> Tensor:
        """Return the expected intensity (view, y, x) of the views that this rank computes.

        Args:
            views: indices of the views.
            turned: rotated object from ``rotate`` for these views.
        """
        adjustments = self._refinement.adjustments()
        if self._variation is not None:
            shapes, weights = self._variation.shapes * self._probe_unit, self._variation.weights
            adjustments = replace(adjustments, variations=shapes, variation_of_view=weights)
        return self._model(*self._delta_and_beta, self.probe, views, adjustments, unit=self._unit, rotated=turned)

    @property
    def _delta_and_beta(self) -> tuple[Tensor, Tensor | None]:
        return self._volumes[0], self._volumes[1] if self._settings.absorption else None

    @property
    def refines_views(self) -> bool:
        """Whether quantities of single views, such as positions, are refined in this epoch."""
        varies = self._variation is not None and self._variation.active
        return varies or self._refinement.refines_views

    def add_view_gradients(self, misfit: Tensor, views: NDArray[np.intp]) -> None:
        """Add the gradients of validation frames to the quantities of their own views, such as positions.

        Otherwise these views would keep their initial positions, and the validation misfit would measure those.
        """
        inputs = self._refinement.per_view_values if self._refinement.refines_views else []
        if self._variation is not None and self._variation.active:
            inputs = [*inputs, self._variation.weights]
            self._variation.count_views(self.slab.counts(views))
        misfit.backward(inputs=inputs)

    def add_illumination(self, views: NDArray[np.intp]) -> None:
        """Add the illumination of views whose gradients are summed, if the optimiser is preconditioned by it."""
        if self._illumination is not None:
            self._illumination += self._model.summed_illumination(self.probe.detach(), views)
        if self._variation is not None:
            self._variation.count_views(self.slab.counts(views))

    def sum_small_gradients(self, mesh: Mesh, sums: Tensor) -> None:
        """Sum ``sums`` and all gradients except the object's over the ranks, in place.

        Args:
            mesh: the ranks.
            sums: misfit, pixels, …; after the sum, the gradients are divided by the pixels.
        """
        others = self.gradients()[1:]
        if self._illumination is None or mesh.slabs == 1:
            mesh.sum(sums, *others)
        else:
            mesh.sum(sums, *(tensor for tensor in others if tensor is not self._illumination))
            mesh.sum_over_angles(self._illumination)
        for gradient in others:
            gradient /= sums[1]

    def sum_object_gradient(self, mesh: Mesh, divisor: Tensor | None) -> None:
        """Sum the object's gradient over the ranks that store the same rows, in place.

        If ranks share the planes, each rank has the sum for its own planes only; see ``gather_gradient``.

        Args:
            mesh: the ranks.
            divisor: divisor of the sum; None: the caller divides.
        """
        gradient = gradient_of(self._moved)
        if self.shares_planes:
            self._shares.sum(gradient_of(self.object), gradient)
        else:
            mesh.sum_over_angles(gradient)
        if divisor is not None:
            gradient /= divisor

    def gather_gradient(self) -> None:
        """Give every rank the gradient of all its stored rows, after ``sum_object_gradient``."""
        if self.shares_planes:
            self._shares.gather(gradient_of(self._moved), gradient_of(self.object))

    def weighted_gradient(self, weight: Tensor) -> Tensor:
        """Return the weighted gradient of the stored rows, after ``sum_object_gradient``.

        If ranks share planes, it overwrites the gradient; each rank keeps the gradient of its own planes.

        Args:
            weight: (z, y, x) factor on the gradient of each voxel.
        """
        if not self.shares_planes:
            return weight * gradient_of(self.object)
        self.gather_gradient()
        return gradient_of(self.object).mul_(weight)

    def slope(self, direction: Tensor) -> float:
        """Return Σ gradient·direction over the whole volume, after ``sum_object_gradient``.

        Args:
            direction: (part, z, y, x) for the stored rows.
        """
        if not self.shares_planes:
            return self.dot(gradient_of(self.object), direction)
        pairs = zip(gradient_of(self._moved), self._shares.part_of(direction), strict=True)
        slope = torch.stack([(ours * theirs).sum(dtype=torch.float64) for ours, theirs in pairs]).sum()
        self.slab.mesh.sum(slope)
        return float(slope)

    def initialise_optimiser(self, minimising_step: float, weight: Tensor) -> None:
        """Set the length of the first steps; see ``ObjectOptimiser.start``."""
        own = self._shares.part_of(weight)
        self.optimiser.start(minimising_step, with_y_last(own.clone()) if self.shares_planes else own)

    @property
    def shares_planes(self) -> bool:
        """Whether ranks that store the same rows each update a share of the planes."""
        return self._shares.divided

    @torch.no_grad()
    def gather(self) -> None:
        """Give every rank the planes that other ranks update."""
        if self.shares_planes:
            self._shares.gather(self._moved, self.object)

    def dot(self, one: Tensor, other: Tensor) -> float:
        """Return Σ one·other over the whole volume, for tensors shaped like the object."""
        planes = zip(one.flatten(0, 1), other.flatten(0, 1), strict=True)
        return self.slab.total(float(sum((ours * theirs).sum(dtype=torch.float64) for ours, theirs in planes)))

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the fitted tensors, zero before the first backward pass, and the illumination."""
        fitted = [self.object, self._probe_parts] if self._probe_parts.requires_grad else [self.object]
        own = [gradient_of(tensor) for tensor in fitted]
        illumination = [] if self._illumination is None else [self._illumination]
        return own + illumination + self._held_back_gradients

    def exposure(self, views: NDArray[np.intp]) -> Tensor:
        """Return the exposure (z, y, x) of each stored voxel in these views; see ``ForwardModel.exposure``."""
        return self._model.exposure(self.probe.detach(), views)

    @torch.no_grad()
    def move(self, change: Tensor) -> None:
        """Add a change to the object and clip it to the bounds."""
        self.object += change
        apply_bounds(self.object, self._bounds(self._support))
        self._take_own()

    def _take_own(self) -> None:
        """Copy this rank's planes of the object to the tensor that the optimiser updates."""
        if self.shares_planes:
            self._moved.detach().copy_(self._shares.part_of(self.object))

    def zero_gradients(self) -> None:
        """Set the gradients to zero."""
        for gradient in (gradient_of(self._moved), *self.gradients()):
            gradient.zero_()

    @torch.no_grad()
    def step(self, fused: FusedStep | None = None) -> None:
        """Update the unknowns along their gradients, and set the gradients to zero.

        Args:
            fused: update, regularise and bound the object in one pass; see ``ObjectOptimiser.fused_step``.
        """
        self.gradients()
        if self._illumination is not None:
            self.optimiser.precondition(self._illumination, in_step=fused is not None)
            self._probe_optimiser.precondition(self.slab.total_value(self._illumination.sum()))
            self._illumination.zero_()
        if fused is None:
            self.optimiser.step()
            apply_bounds(self._moved, self._bounds(self._own_support))
        else:
            self._fused_step(fused)
        self._probe_optimiser.step()
        if self._variation is not None:
            self._variation.step()
        self._refinement.step()
        if self.shares_planes:
            gradient_of(self.object).zero_()
        self.gather()

    def _fused_step(self, fused: FusedStep) -> None:
        no_rows = self._moved[..., :0, :]
        alone = fused.weights is None or self.slab.whole
        around = (no_rows, no_rows) if alone else self.slab.rows_around(self.object)
        self.optimiser.fused_step(fused, around, self._bounds(self._own_support))
        if self.shares_planes:
            return
        # The object and its gradient have exchanged their memory.
        for part, volume, gradient in zip(self._volumes, self.object, gradient_of(self.object), strict=True):
            part.data, gradient_of(part).data = volume, gradient

    def _bounds(self, support: Tensor | None) -> Bounds:
        settings = self._settings
        return Bounds(settings.positivity, support, settings.beta_over_delta_min, settings.beta_over_delta_max)

    @property
    def _own_support(self) -> Tensor | None:
        """Support in the planes that this rank updates."""
        return None if self._support is None else self._shares.part_of(self._support)

    def end_epoch(self) -> None:
        """Shorten the steps for the next epoch."""
        self.optimiser.end_epoch()
        self._probe_optimiser.end_epoch()
        if self._variation is not None:
            self._variation.end_epoch()
        self._refinement.end_epoch()
        self._refinement.fix_windows(self._model)

    def halve_steps(self) -> None:
        """Reset the momentum and halve the step lengths."""
        self.optimiser.halve_steps()
        self._probe_optimiser.halve_steps()

    def finite(self) -> bool:
        """Return whether every unknown is finite."""
        extremes = (torch.stack(torch.aminmax(in_memory_order(tensor.detach()))) for tensor in self._tensors)
        return not self._somewhere(not all(bool(torch.isfinite(pair).all()) for pair in extremes))

    def _somewhere(self, here: bool) -> bool:
        """Return whether the condition holds on any rank that updates other voxels; collective call."""
        ranks = self.slab.mesh if self.shares_planes else self.slab
        return ranks.largest(float(here)) > 0

    @property
    def _tensors(self) -> list[Tensor]:
        variation = [] if self._variation is None else self._variation.tensors
        return [self._moved, self._probe_parts, *variation, *self._refinement.tensors]

    @torch.no_grad()
    def copy(self, over: list[Tensor | None] | None = None) -> list[Tensor | None]:
        """Return a copy for ``restore``; an empty volume is stored as None.

        Args:
            over: earlier copy whose memory is reused.
        """
        buffers = [None] * len(self._tensors) if over is None else over
        return [
            None
            if tensor is self._moved and not tensor.any()
            else (torch.empty_like(tensor) if buffer is None else buffer).copy_(tensor)
            for tensor, buffer in zip(self._tensors, buffers, strict=True)
        ]

    @torch.no_grad()
    def restore(self, saved: list[Tensor | None]) -> None:
        """Restore a copy from ``copy``."""
        for tensor, values in zip(self._tensors, saved, strict=True):
            tensor.zero_() if values is None else tensor.copy_(values)
        self.gather()
        self._refinement.fix_windows(self._model)

    def state(self, best: list[Tensor | None], mesh: Mesh) -> dict[str, Tensor]:
        """Return the tensors from which a fit resumes, by name, without copying them.

        Tensors named ``volume/…`` are distributed over the ranks like the object. Those named ``planes/…`` are
        distributed like the planes that the optimiser updates. All others are equal on every rank.

        Args:
            best: from ``copy``.
            mesh: the ranks; collective call.
        """
        found = {"volume/object": self.object, "probe/parts": self._probe_parts}
        found["probe/unit"] = torch.tensor(self._probe_unit, dtype=torch.float64)
        found |= {self._named(name): tensor for name, tensor in self.optimiser.state().items()}
        found |= self._probe_optimiser.state() | self._refinement.state()
        if self._variation is not None:
            found |= self._variation.state()
        gradients = [gradient.clone() for gradient in self._held_back_gradients]
        mesh.sum(*gradients)
        found |= {f"waiting/{number}": gradient for number, gradient in enumerate(gradients)}
        best_name, (volume, *_) = self._named("volume/best"), best or [None]
        if self._somewhere(volume is not None):
            # Some slabs or planes may be empty although the volume is not.
            best = [torch.zeros_like(self._moved) if volume is None else volume, *best[1:]]
        kept = ((number, tensor) for number, tensor in enumerate(best) if tensor is not None)
        return found | {f"best/{number}" if number else best_name: tensor for number, tensor in kept}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], mesh: Mesh) -> list[Tensor | None]:
        """Restore what ``state`` returned; return the best unknowns that it contains."""
        self.object.copy_(state["volume/object"])
        self._take_own()
        self._probe_parts.copy_(state["probe/parts"])
        self._probe_unit = float(state["probe/unit"])
        moved = self._moved_part_of(state)
        self.optimiser.load(moved)
        self._probe_optimiser.load(state)
        self._refinement.load(state)
        self._refinement.restore_fixed_windows(self._model)
        if self._variation is not None:
            self._variation.load(state)
        for number, gradient in enumerate(self._held_back_gradients if mesh.rank == 0 else []):
            gradient.copy_(state.get(f"waiting/{number}", torch.zeros(())))
        return [moved.get(f"best/{number}" if number else "volume/best") for number in range(len(self._tensors))]

    def _named(self, name: str) -> str:
        """Return the checkpoint name of an optimiser tensor: ``planes/…`` if ranks share planes."""
        return name.replace("volume/", "planes/") if self.shares_planes else name

    def _moved_part_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state restricted to this rank's planes, whether or not the ranks that wrote it shared planes."""
        found = {}
        for name, tensor in state.items():
            whole = name.startswith("volume/")
            own = with_y_last(self._shares.part_of(tensor)) if whole else tensor
            found[name.replace("planes/", "volume/")] = own
        return found

    @property
    def _held_back_gradients(self) -> list[Tensor]:
        """Gradients that ``add_view_gradients`` adds to after an epoch, and that the next step uses."""
        variation = [] if self._variation is None else self._variation.gradients()
        return variation + self._refinement.gradients()


def _relative_step(epochs: int, done: int) -> float:
    """Return the step length after ``done`` of ``epochs`` epochs, relative to the first."""
    part = min(done / epochs, 1)
    return _LAST_STEP + (1 - _LAST_STEP) * 0.5 * (1 + math.cos(math.pi * part))
