"""The tensors that are fitted, in units of their effect, and the optimisers that move them.

δ and β are kept in radians through the whole volume, the probe in its own root mean square, so that one step serves
every sample, energy and voxel. All steps shorten by a cosine.
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

from bluesky_multislice.models import ForwardModel, RotatedObject
from bluesky_multislice.optics import in_memory_order, propagate, with_y_last
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.parallel import Mesh, PlaneShares
from bluesky_multislice.solvers.fidelity import FidelityName
from bluesky_multislice.solvers.optimisers import ObjectOptimiser, OnePass, OptimiserName, gradient_of
from bluesky_multislice.solvers.priors import Bounds, Priors, bound
from bluesky_multislice.solvers.refinement import ProbeOptimiser, ProbeVariation, Refinement, RefinementSettings

_LAST_STEP = 0.02
"""Step of the last epoch, relative to the first's."""


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    Attributes:
        epochs: most passes over the frames.
        batch_views: views that a rank works on at once.
        batches_per_lane: batches of each lane that a step adds up.
        object_step_rad: step of δ and β in radians of phase through the whole volume, of Adam and in differences.
        probe_step: step of the probe relative to its root mean square, or factor on its weighted step; 0 keeps it as it
            is.
        gradient_floor: part of the first step's largest gradient below which Adam moves voxels less.
        absorption: fit β; otherwise it stays 0.
        positivity: keep δ and β from going negative.
        seed: of the order of views.
        fidelity: name of a data fidelity in ``fidelity.FIDELITIES``.
        priors: regularisers and bounds.
        refinement: what is refined beside volume and probe.
        optimiser: what moves the object.
        step: factor on the object's step where that comes from the data.
        momentum: of the object, where Nesterov's method moves it.
        polish: steps of conjugate gradients over all frames after the epochs.
        probe_variations: shapes by which the probe may change from view to view.
        probe_light: mean |probe|² a pixel that the frames' light gives, which bounds a refined probe; None: that of the
            probe to start from.
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
    momentum: float = 0.95
    polish: int = 0
    probe_variations: int = 0
    probe_light: float | None = None
    batches_per_lane: int = 1

    @property
    def floor_rad(self) -> float:
        """Length of a difference of δ, in radians through the volume, below which total variation turns quadratic."""
        return self.priors.floor * self.object_step_rad

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
        support: bool (z, y, x), True where there may be matter, in the rows held; None is everywhere.
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
        #: which rows of the volume are held here.
        self.slab = model.slab
        self._support = None if support is None else with_y_last(support.to(device))
        self._unit = 1 / (wavenumber(model.wavelength_m) * model.grid.thickness_m)
        self._probe_unit = float(probe.abs().square().mean().sqrt())
        depth, _, width = model.grid.shape
        held = (depth, self.slab.rows.stop - self.slab.rows.start, width)
        #: (part, z, y, x) δ and, where it is fitted, β in radians through the volume; the rows held, y last in memory.
        self.object = with_y_last(torch.zeros((1 + settings.absorption, *held), device=device)).requires_grad_()
        self.object.grad = torch.zeros_like(self.object)
        # Views of the object and its gradient: what backward passes add goes where it belongs without a copy.
        self._volumes = [part.detach().requires_grad_() for part in self.object]
        for volume, gradient in zip(self._volumes, self.object.grad, strict=True):
            volume.grad = gradient
        self._probe_parts = torch.view_as_real(probe.to(device) / self._probe_unit).contiguous()
        # Nothing in here holds the unknowns themselves: their memory is free as soon as nobody else does.
        relative_step = functools.partial(_relative_step, settings.epochs)
        weighted = settings.optimiser == "weighted"
        # One angle has few planes, and weighted descent counts all of them.
        self._shares = PlaneShares(self.slab.mesh, depth, divided=not weighted)
        self._moved = self.object
        if self.shares_planes:
            self._moved = with_y_last(self._shares.part_of(self.object.detach()).clone()).requires_grad_()
            self._moved.grad = torch.zeros_like(self._moved)
        #: moves the object, this rank's planes of it where ranks share them.
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
        self._light = with_y_last(torch.zeros(held[1:], device=device)) if weighted else None
        light = settings.probe_light
        self._probe_optimiser = ProbeOptimiser(
            self._probe_parts,
            weighted=weighted,
            step=settings.probe_step,
            schedule=settings.refinement.schedule_of("probe"),
            power=None if light is None else light * probe.numel() / len(probe) / self._probe_unit**2,
            relative_step=relative_step,
        )
        self._refinement = Refinement(
            model,
            settings.refinement,
            probe_refined=settings.probe_step > 0,
            relative_step=relative_step,
            device=device,
        )
        self._refinement.hold_windows(model)
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
        """Take δ and β (z, y, x), the rows held, to start from, brought within their bounds; empty without."""
        for part, given in zip(self.object, (delta, beta), strict=False):
            part.copy_(given).div_(self._unit)
        self.move(torch.zeros((), device=self.object.device))

    @property
    def _largest(self) -> Callable[[Tensor], Tensor]:
        """What returns the largest of a number over all ranks that move other voxels."""
        return self.slab.mesh.largest_value if self.shares_planes else self.slab.largest_value

    @property
    def empty(self) -> bool:
        """Whether there is no matter anywhere."""
        return self.slab.largest(float(self.object.any())) == 0

    @property
    def delta(self) -> Tensor:
        """(z, y, x), the rows held."""
        return self.object[0] * self._unit

    @property
    def beta(self) -> Tensor:
        """(z, y, x), the rows held."""
        return self.object[1] * self._unit if self._settings.absorption else torch.zeros_like(self.object[0])

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
        found = {name: value.detach() for name, value in self._refinement.differences().items()}
        if self._variation is not None:
            self._variation.tidy()
            found["probe_variations"] = self._variation.shapes.detach() * self._probe_unit
            found["variation_of_view"] = self._variation.weights.detach()
        return found

    def computes(self, views: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which of some views this rank computes."""
        return self.slab.computes(views)

    def turn(self, views: NDArray[np.intp]) -> RotatedObject | None:
        """Turn the object for views at one angle; return what is on its way, None where this rank holds it all."""
        if self.slab.whole:
            return None
        return self._model.rotate_object(*self._delta_and_beta, views, self._refinement.adjustments())

    def expect(self, views: NDArray[np.intp], turned: RotatedObject | None = None) -> Tensor:
        """Return the expected intensity (view, y, x) of the views that this rank computes.

        Args:
            views: which views.
            turned: from ``turn`` for these.
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
    def follows(self) -> bool:
        """Whether frames held back have values of their own, such as positions, that move."""
        varies = self._variation is not None and self._variation.active
        return varies or self._refinement.follows

    def follow(self, misfit: Tensor, views: NDArray[np.intp]) -> None:
        """Add the gradients of frames held back to what belongs to their views alone, such as their positions.

        Without it these frames would keep the positions that were wrong, and judge a fit by these.
        """
        inputs = self._refinement.of_views if self._refinement.follows else []
        if self._variation is not None and self._variation.active:
            inputs = [*inputs, self._variation.weights]
            self._variation.see(self.slab.counts(views))
        misfit.backward(inputs=inputs)

    def add_light(self, views: NDArray[np.intp]) -> None:
        """Add the light of views whose gradients are taken, where the optimiser weighs by it."""
        if self._light is not None:
            self._light += self._model.summed_illumination(self.probe.detach(), views)
        if self._variation is not None:
            self._variation.see(self.slab.counts(views))

    def sum_small_gradients(self, mesh: Mesh, sums: Tensor) -> None:
        """Replace numbers, and all gradients but the object's, by sums over the ranks, in few messages.

        Args:
            mesh: the ranks.
            sums: (number,), of which the second is the count of pixels that gradients are divided by.
        """
        others = self.gradients()[1:]
        if self._light is None or mesh.slabs == 1:
            mesh.sum(sums, *others)
        else:
            mesh.sum(sums, *(tensor for tensor in others if tensor is not self._light))
            mesh.sum_over_angles(self._light)
        for gradient in others:
            gradient /= sums[1]

    def sum_object_gradient(self, mesh: Mesh, over: Tensor | None) -> None:
        """Replace the object's gradient by its sum over the ranks of the same rows.

        Where ranks share the object's planes, each has the sum in its own; ``gather_gradient`` gives it the others.

        Args:
            mesh: the ranks.
            over: what the sum is divided by; None leaves it as it is.
        """
        gradient = gradient_of(self._moved)
        if self.shares_planes:
            self._shares.sum(gradient_of(self.object), gradient)
        else:
            mesh.sum_over_angles(gradient)
        if over is not None:
            gradient /= over

    def gather_gradient(self) -> None:
        """Give every rank the whole gradient of the rows held, after ``sum_object_gradient``."""
        if self.shares_planes:
            self._shares.gather(gradient_of(self._moved), gradient_of(self.object))

    def uphill(self, weight: Tensor) -> Tensor:
        """Return the weighted gradient of the rows held, after ``sum_object_gradient``.

        Where ranks share planes it takes the place of the gradient, of which each keeps its own planes.

        Args:
            weight: (z, y, x) factor on each voxel's gradient.
        """
        if not self.shares_planes:
            return weight * gradient_of(self.object)
        self.gather_gradient()
        return gradient_of(self.object).mul_(weight)

    def slope(self, direction: Tensor) -> float:
        """Return Σ gradient·direction over the whole volume, after ``sum_object_gradient``.

        Args:
            direction: (part, z, y, x) of the rows held.
        """
        if not self.shares_planes:
            return self.dot(gradient_of(self.object), direction)
        pairs = zip(gradient_of(self._moved), self._shares.part_of(direction), strict=True)
        slope = torch.stack([(ours * theirs).sum(dtype=torch.float64) for ours, theirs in pairs]).sum()
        self.slab.mesh.sum(slope)
        return float(slope)

    def start_optimiser(self, way_to_the_bottom: float, weight: Tensor) -> None:
        """Set the length of the first steps; see ``ObjectOptimiser.start``."""
        own = self._shares.part_of(weight)
        self.optimiser.start(way_to_the_bottom, with_y_last(own.clone()) if self.shares_planes else own)

    @property
    def shares_planes(self) -> bool:
        """Whether this rank moves its share of the object's planes, and gets the others from those that move them."""
        return self._shares.divided

    @torch.no_grad()
    def gather(self) -> None:
        """Give every rank the planes that others move."""
        if self.shares_planes:
            self._shares.gather(self._moved, self.object)

    def dot(self, one: Tensor, other: Tensor) -> float:
        """Return Σ one·other over the whole volume of tensors that are shaped like the object."""
        planes = zip(one.flatten(0, 1), other.flatten(0, 1), strict=True)
        return self.slab.total(float(sum((ours * theirs).sum(dtype=torch.float64) for ours, theirs in planes)))

    def gradients(self) -> list[Tensor]:
        """Return the gradient of each tensor that is fitted, zero before the first backward pass, and their light."""
        fitted = [self.object, self._probe_parts] if self._probe_parts.requires_grad else [self.object]
        own = [gradient_of(tensor) for tensor in fitted]
        light = [] if self._light is None else [self._light]
        return own + light + self._waiting

    def exposure(self, views: NDArray[np.intp]) -> Tensor:
        """Return the light (z, y, x) that each voxel held gets in some views, see ``ForwardModel.exposure``."""
        return self._model.exposure(self.probe.detach(), views)

    @torch.no_grad()
    def move(self, change: Tensor) -> None:
        """Add a change to the object and bring it within its bounds."""
        self.object += change
        bound(self.object, self._settings.priors, positivity=self._settings.positivity, support=self._support)
        self._take_own()

    def _take_own(self) -> None:
        """Take this rank's planes of the object to move them from there."""
        if self.shares_planes:
            self._moved.detach().copy_(self._shares.part_of(self.object))

    def forget_gradients(self) -> None:
        """Set the gradients to zero."""
        for gradient in (gradient_of(self._moved), *self.gradients()):
            gradient.zero_()

    @torch.no_grad()
    def step(self, one_pass: OnePass | None = None) -> None:
        """Move against the gradients, and set them to zero.

        Args:
            one_pass: has the object moved, penalised and bounded in one pass, see ``ObjectOptimiser``.
        """
        self.gradients()
        if self._light is not None:
            self.optimiser.weigh(self._light, in_step=one_pass is not None)
            self._probe_optimiser.weigh(self.slab.total_value(self._light.sum()))
            self._light.zero_()
        if one_pass is None:
            self.optimiser.step()
            positivity = self._settings.positivity
            bound(self._moved, self._settings.priors, positivity=positivity, support=self._own_support)
        else:
            self._step_in_one_pass(one_pass)
        self._probe_optimiser.step()
        if self._variation is not None:
            self._variation.step()
        self._refinement.step()
        if self.shares_planes:
            gradient_of(self.object).zero_()
        self.gather()

    def _step_in_one_pass(self, one_pass: OnePass) -> None:
        settings, nothing = self._settings, self._moved[..., :0, :]
        least, most = settings.priors.beta_over_delta_min, settings.priors.beta_over_delta_max
        alone = one_pass.weights is None or self.slab.whole
        around = (nothing, nothing) if alone else self.slab.rows_around(self.object)
        bounds = Bounds(settings.positivity, self._own_support, least, most)
        self.optimiser.step_in_one_pass(one_pass, around, bounds)
        if self.shares_planes:
            return
        # The object lies where its gradient was, and the other way round.
        for part, volume, gradient in zip(self._volumes, self.object, gradient_of(self.object), strict=True):
            part.data, gradient_of(part).data = volume, gradient

    @property
    def _own_support(self) -> Tensor | None:
        """The support in the planes that this rank moves."""
        return None if self._support is None else self._shares.part_of(self._support)

    def end_epoch(self) -> None:
        """Shorten the step."""
        self.optimiser.end_epoch()
        self._probe_optimiser.end_epoch()
        if self._variation is not None:
            self._variation.end_epoch()
        self._refinement.end_epoch()
        self._refinement.hold_windows(self._model)

    def halve_steps(self) -> None:
        """Go on from rest, with steps half as long."""
        self.optimiser.halve_steps()
        self._probe_optimiser.halve_steps()

    def finite(self) -> bool:
        """Return whether every number is finite."""
        extremes = (torch.stack(torch.aminmax(in_memory_order(tensor.detach()))) for tensor in self._tensors)
        return not self._somewhere(not all(bool(torch.isfinite(pair).all()) for pair in extremes))

    def _somewhere(self, here: bool) -> bool:
        """Return whether something is true on any of the ranks that move other voxels; all of them call it."""
        ranks = self.slab.mesh if self.shares_planes else self.slab
        return ranks.largest(float(here)) > 0

    @property
    def _tensors(self) -> list[Tensor]:
        variation = [] if self._variation is None else self._variation.tensors
        return [self._moved, self._probe_parts, *variation, *self._refinement.tensors]

    @torch.no_grad()
    def copy(self, over: list[Tensor | None] | None = None) -> list[Tensor | None]:
        """Return what ``restore`` takes; an empty volume takes no memory.

        Args:
            over: a former copy whose memory may be used.
        """
        rooms = [None] * len(self._tensors) if over is None else over
        return [
            None
            if tensor is self._moved and not tensor.any()
            else (torch.empty_like(tensor) if room is None else room).copy_(tensor)
            for tensor, room in zip(self._tensors, rooms, strict=True)
        ]

    @torch.no_grad()
    def restore(self, saved: list[Tensor | None]) -> None:
        """Go back to a copy."""
        for tensor, was in zip(self._tensors, saved, strict=True):
            tensor.zero_() if was is None else tensor.copy_(was)
        self.gather()
        self._refinement.hold_windows(self._model)

    def state(self, best: list[Tensor | None], mesh: Mesh) -> dict[str, Tensor]:
        """Return all that a fit needs to go on, by name; they are no copies.

        What is called ``volume/…`` lies on the ranks as the object does, ``planes/…`` as what the optimiser moves of
        it, all else is the same on every rank.

        Args:
            best: from ``copy``.
            mesh: the ranks, which all call this.
        """
        found = {"volume/object": self.object, "probe/parts": self._probe_parts}
        found["probe/unit"] = torch.tensor(self._probe_unit, dtype=torch.float64)
        found |= {self._named(name): tensor for name, tensor in self.optimiser.state().items()}
        found |= self._probe_optimiser.state() | self._refinement.state()
        if self._variation is not None:
            found |= self._variation.state()
        waiting = [gradient.clone() for gradient in self._waiting]
        mesh.sum(*waiting)
        found |= {f"waiting/{number}": gradient for number, gradient in enumerate(waiting)}
        best_name, (volume, *_) = self._named("volume/best"), best or [None]
        if self._somewhere(volume is not None):
            # A slab, or some planes, may be empty and the volume not.
            best = [torch.zeros_like(self._moved) if volume is None else volume, *best[1:]]
        kept = ((number, tensor) for number, tensor in enumerate(best) if tensor is not None)
        return found | {f"best/{number}" if number else best_name: tensor for number, tensor in kept}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], mesh: Mesh) -> list[Tensor | None]:
        """Go on from what ``state`` returned; return the copy that it held."""
        self.object.copy_(state["volume/object"])
        self._take_own()
        self._probe_parts.copy_(state["probe/parts"])
        self._probe_unit = float(state["probe/unit"])
        moved = self._moved_part_of(state)
        self.optimiser.load(moved)
        self._probe_optimiser.load(state)
        self._refinement.load(state)
        self._refinement.hold_windows_again(self._model)
        if self._variation is not None:
            self._variation.load(state)
        for number, gradient in enumerate(self._waiting if mesh.rank == 0 else []):
            gradient.copy_(state.get(f"waiting/{number}", torch.zeros(())))
        return [moved.get(f"best/{number}" if number else "volume/best") for number in range(len(self._tensors))]

    def _named(self, name: str) -> str:
        """Return the name under which a part of the optimiser's state is kept: it says whether ranks share planes."""
        return name.replace("volume/", "planes/") if self.shares_planes else name

    def _moved_part_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state that has this rank's planes, whether those that kept it shared them or not."""
        found = {}
        for name, tensor in state.items():
            whole = name.startswith("volume/")
            own = with_y_last(self._shares.part_of(tensor)) if whole else tensor
            found[name.replace("planes/", "volume/")] = own
        return found

    @property
    def _waiting(self) -> list[Tensor]:
        """The gradients that frames held back add to after an epoch (``follow``), and that the next step takes."""
        variation = [] if self._variation is None else self._variation.gradients()
        return variation + self._refinement.gradients()


def _relative_step(epochs: int, done: int) -> float:
    """Return the step after so many epochs of so many, relative to the first one's."""
    part = min(done / epochs, 1)
    return _LAST_STEP + (1 - _LAST_STEP) * 0.5 * (1 + math.cos(math.pi * part))
