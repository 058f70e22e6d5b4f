"""The unknowns of a fit, in scaled units, and their optimisers.

δ and β are in radians of phase through the whole volume. The probe is in units of its root mean square. One step
length therefore suits every sample, energy and voxel size. All step lengths decrease along a cosine.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.models import ForwardModel, RotatedObject
from bluesky_multislice.optics import in_memory_order, propagate, with_y_last
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.fit_settings import FitSettings
from bluesky_multislice.solvers.kept_state import Stateful, named_numbers, read_numbers
from bluesky_multislice.solvers.optimisers import DescentSettings, FusedStep, ObjectOptimiser, gradient_of
from bluesky_multislice.solvers.priors import Bounds, apply_bounds
from bluesky_multislice.solvers.refinement import ProbeOptimiser, ProbeVariation, Refinement
from bluesky_multislice.solvers.stored_volume import StoredVolume


class Unknowns:
    """Object and probe during a fit.

    Args:
        model: the forward model.
        probe: initial probe, complex (mode, y, x).
        settings: fit settings.
        device: device of the tensors.
        support: bool (z, y, x), True where matter is allowed, for the stored rows; None: everywhere.
    """

    STATE_VERSION: ClassVar[int] = 2

    def __init__(
        self,
        model: ForwardModel,
        probe: Tensor,
        settings: FitSettings,
        device: torch.device,
        support: Tensor | None = None,
    ) -> None:
        self._model = model
        #: fit settings.
        self.settings = settings
        #: rows of the volume that this rank stores.
        self.slab = model.slab
        self._support = None if support is None else with_y_last(support.to(device))
        self._unit = 1 / (wavenumber(model.wavelength_m) * model.grid.thickness_m)
        self._probe_unit = float(probe.abs().square().mean().sqrt())
        weighted = settings.optimiser == "weighted"
        depth, _, width = model.grid.shape
        rows = self.slab.rows.stop - self.slab.rows.start
        #: δ and, if fitted, β. A single angle has few planes, and weighted descent needs all of them on every rank.
        self.volume = StoredVolume(
            self.slab, (1 + settings.absorption, depth, rows, width), device, divided=not weighted
        )
        self._probe_parts = torch.view_as_real(probe.to(device) / self._probe_unit).contiguous()
        #: optimiser of the object, or of this rank's planes if ranks share them.
        self.optimiser = _object_optimiser(self.volume, settings)
        self._illumination = with_y_last(torch.zeros((rows, width), device=device)) if weighted else None
        self._probe_optimiser = self._make_probe_optimiser()
        self._refinement = Refinement(
            model,
            settings.refinement,
            probe_refined=settings.probe_step > 0,
            relative_step=settings.relative_step,
            device=device,
        )
        self._refinement.fix_windows(model)
        self._variation = self._make_variation() if settings.probe_variations else None

    def _make_probe_optimiser(self) -> ProbeOptimiser:
        settings, probe_light = self.settings, self.settings.probe_light
        modes, values = len(self._probe_parts), self._probe_parts[..., 0].numel()
        return ProbeOptimiser(
            self._probe_parts,
            weighted=settings.optimiser == "weighted",
            step=settings.probe_step,
            schedule=settings.refinement.schedule_of("probe"),
            power=None if probe_light is None else probe_light * values / modes / self._probe_unit**2,
            relative_step=settings.relative_step,
        )

    def _make_variation(self) -> ProbeVariation:
        return ProbeVariation(
            torch.view_as_complex(self._probe_parts.detach())[0],
            views=self.views,
            number=self.settings.probe_variations,
            schedule=self.settings.refinement.schedule_of("probe_variations"),
            relative_step=self.settings.relative_step,
        )

    @torch.no_grad()
    def start_from(self, delta: Tensor, beta: Tensor) -> None:
        """Set the initial guess of δ and β (z, y, x) for the stored rows, clipped to the bounds."""
        for part, given in zip(self.object, (delta, beta), strict=False):
            part.copy_(given).div_(self._unit)
        self.move(torch.zeros((), device=self.object.device))

    @torch.no_grad()
    def start_refinement_from(self, differences: Mapping[str, Tensor]) -> None:
        """Set the initial values of refined quantities, as in ``Solution.differences``; others are ignored."""
        self._refinement.start_from(differences)
        self._refinement.fix_windows(self._model)
        if self._variation is not None and "probe_variations" in differences:
            shapes = differences["probe_variations"] / self._probe_unit
            self._variation.start_from(shapes, differences["variation_of_view"])

    @property
    def views(self) -> int:
        """Number of views of the scan."""
        return len(self._model.angle_of)

    @property
    def object(self) -> Tensor:
        """δ and, if fitted, β, (part, z, y, x) of the stored rows, radians of phase through the whole volume."""
        return self.volume.values

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
        return self.object[1] * self._unit if self.settings.absorption else torch.zeros_like(self.object[0])

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
        delta, *beta = self.volume.parts
        return delta, beta[0] if beta else None

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

    def initialise_optimiser(self, minimising_step: float, weight: Tensor) -> None:
        """Set the length of the first steps; see ``ObjectOptimiser.start``."""
        own = self.volume.own_planes(weight)
        self.optimiser.start(minimising_step, with_y_last(own.clone()) if self.volume.shares_planes else own)

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the fitted tensors, zero before the first backward pass, and the illumination."""
        fitted = [self.object, self._probe_parts] if self._probe_parts.requires_grad else [self.object]
        own = [gradient_of(tensor) for tensor in fitted]
        illumination = [] if self._illumination is None else [self._illumination]
        return own + illumination + list(self._held_back_gradients.values())

    def exposure(self, views: NDArray[np.intp]) -> Tensor:
        """Return the exposure (z, y, x) of each stored voxel in these views; see ``ForwardModel.exposure``."""
        return self._model.exposure(self.probe.detach(), views)

    @torch.no_grad()
    def move(self, change: Tensor) -> None:
        """Add a change to the object and clip it to the bounds."""
        self.object.add_(change)
        apply_bounds(self.object, self._bounds(self._support))
        self.volume.take_own()

    def zero_gradients(self) -> None:
        """Set the gradients to zero."""
        for gradient in (gradient_of(self.volume.moved), *self.gradients()):
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
            apply_bounds(self.volume.moved, self._bounds(self._own_support))
        else:
            self._fused_step(fused)
        self._probe_optimiser.step()
        if self._variation is not None:
            self._variation.step()
        self._refinement.step()
        if self.volume.shares_planes:
            gradient_of(self.object).zero_()
        self.volume.gather()

    def _fused_step(self, fused: FusedStep) -> None:
        no_rows = self.volume.moved[..., :0, :]
        alone = fused.weights is None or self.slab.whole
        around = (no_rows, no_rows) if alone else self.slab.rows_around(self.object)
        self.optimiser.fused_step(fused, around, self._bounds(self._own_support))
        self.volume.follow_exchange()

    def _bounds(self, support: Tensor | None) -> Bounds:
        settings = self.settings
        return Bounds(settings.positivity, support, settings.beta_over_delta_min, settings.beta_over_delta_max)

    @property
    def _own_support(self) -> Tensor | None:
        """Support in the planes that this rank updates."""
        return None if self._support is None else self.volume.own_planes(self._support)

    def end_epoch(self) -> None:
        """Shorten the steps for the next epoch."""
        self.optimiser.end_epoch()
        self._probe_optimiser.end_epoch()
        if self._variation is not None:
            self._variation.end_epoch()
        self._refinement.end_epoch()
        self._refinement.fix_windows(self._model)

    def halve_steps(self) -> None:
        """Reset the momentum and halve the step lengths of object and probe."""
        self.optimiser.halve_steps()
        self._probe_optimiser.halve_steps()

    def reset_refinement(self) -> None:
        """Reset the moments of the refined quantities, which may not be finite."""
        self._refinement.reset()

    def finite(self) -> bool:
        """Return whether every unknown is finite."""
        extremes = (torch.stack(torch.aminmax(in_memory_order(each.detach()))) for each in self._tensors.values())
        return not self.volume.somewhere(not all(bool(torch.isfinite(pair).all()) for pair in extremes))

    @property
    def _tensors(self) -> dict[str, Tensor]:
        """The unknowns by name; the object's planes that this rank updates."""
        variation = {} if self._variation is None else self._variation.tensors
        return {"object": self.volume.moved, "probe": self._probe_parts, **variation, **self._refinement.tensors}

    @torch.no_grad()
    def copy(self, over: Mapping[str, Tensor | None] | None = None) -> dict[str, Tensor | None]:
        """Return a copy by name for ``restore``; an empty volume is stored as None.

        Args:
            over: earlier copy whose memory is reused.
        """
        found: dict[str, Tensor | None] = {}
        for name, tensor in self._tensors.items():
            buffer = None if over is None else over.get(name)
            empty = tensor is self.volume.moved and not tensor.any()
            found[name] = None if empty else (torch.empty_like(tensor) if buffer is None else buffer).copy_(tensor)
        return found

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor | None]) -> None:
        """Restore a copy from ``copy``."""
        for name, tensor in self._tensors.items():
            values = saved[name]
            tensor.zero_() if values is None else tensor.copy_(values)
        self.volume.gather()
        self._refinement.fix_windows(self._model)

    def state(self, best: Mapping[str, Tensor | None], mesh: Mesh) -> dict[str, Tensor]:
        """Return the tensors from which a fit resumes, by name, without copying them.

        Tensors named ``volume/…`` are distributed over the ranks like the object. Those named ``planes/…`` are
        distributed like the planes that the optimiser updates. All others are equal on every rank.

        Args:
            best: from ``copy``; empty: none.
            mesh: the ranks; collective call.
        """
        found = named_numbers("unknowns", self.STATE_VERSION, probe_unit=self._probe_unit)
        found |= {"volume/object": self.object, "unknowns/probe": self._probe_parts}
        found |= self.volume.stored_names(self.optimiser.state())
        for part in self._others:
            found |= part.state()
        waiting = {name: gradient.clone() for name, gradient in self._held_back_gradients.items()}
        mesh.sum(*waiting.values())
        found |= {f"waiting/{name}": gradient for name, gradient in waiting.items()}
        volume = best.get("object")
        if self.volume.somewhere(volume is not None):
            # Some slabs or planes may be empty although the volume is not.
            kept = torch.zeros_like(self.volume.moved) if volume is None else volume
            found |= self.volume.stored_names({"volume/best": kept})
        rest = {name: tensor for name, tensor in best.items() if name != "object" and tensor is not None}
        return found | {f"best/{name}": tensor for name, tensor in rest.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], mesh: Mesh) -> dict[str, Tensor | None]:
        """Restore what ``state`` returned; return the best unknowns that it contains.

        Raises:
            JobError: the state has another version.
        """
        (self._probe_unit,) = read_numbers(state, "unknowns", self.STATE_VERSION, "probe_unit")
        self.object.copy_(state["volume/object"])
        self.volume.take_own()
        self._probe_parts.copy_(state["unknowns/probe"])
        own = self.volume.own_state(state)
        self.optimiser.load(own)
        for part in self._others:
            part.load(state)
        self._refinement.restore_fixed_windows(self._model)
        for name, gradient in self._held_back_gradients.items() if mesh.rank == 0 else ():
            gradient.copy_(state.get(f"waiting/{name}", torch.zeros(())))
        return {name: own.get("volume/best" if name == "object" else f"best/{name}") for name in self._tensors}

    @property
    def _others(self) -> list[Stateful]:
        """What is fitted beside the object."""
        variation = [] if self._variation is None else [self._variation]
        return [self._probe_optimiser, self._refinement, *variation]

    @property
    def _held_back_gradients(self) -> dict[str, Tensor]:
        """Gradients that ``add_view_gradients`` adds to after an epoch, and that the next step uses."""
        variation = {} if self._variation is None else self._variation.gradients()
        return variation | self._refinement.gradients()


def _object_optimiser(volume: StoredVolume, settings: FitSettings) -> ObjectOptimiser:
    # The callbacks hold no reference to the unknowns, so that these are freed as soon as their owner drops them.
    steps = DescentSettings(
        settings.optimiser,
        factor=settings.step,
        adam_step=settings.object_step_rad,
        adam_floor=settings.gradient_floor,
        momentum=settings.momentum,
    )
    return ObjectOptimiser(volume.moved, steps, settings.relative_step, largest=volume.largest)
