"""Refinement of uncertain geometry and stray light, together with object and probe.

Every quantity starts at zero difference from the scan. Adam updates it according to its schedule, with a step in its
own unit (``quantities``). After each step, changes that leave all frames unchanged are removed, such as positions that
move with the volume.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from bluesky_multislice.models import Adjustments, ForwardModel
from bluesky_multislice.solvers.kept_state import named_numbers, read_numbers
from bluesky_multislice.solvers.optimisers import Adam, gradient_of, with_prefix, without_prefix
from bluesky_multislice.solvers.refinement.quantities import RefinedQuantity, make_quantity
from bluesky_multislice.solvers.refinement.schedule import RefinementSettings, Schedule

_FLOOR = 0.02
"""Gradient below which values move less, relative to the largest gradient of the first steps."""


class _ScheduledQuantity:
    """A refined quantity with its schedule and optimiser.

    The first step has Adam's length but does not enter its moments: the gradient of a zero background diverges in dark
    pixels.
    """

    STATE_VERSION: ClassVar[int] = 2

    def __init__(self, quantity: RefinedQuantity, schedule: Schedule) -> None:
        self.quantity, self.schedule = quantity, schedule
        self.hold()
        self._adam = Adam(quantity.values, floor=0.0)
        self._steps = 0

    def start_from(self, difference: Tensor) -> None:
        """Set the initial difference from the scan, in SI."""
        self.quantity = self.quantity.start_from(difference)
        self.hold()

    def hold(self) -> None:
        """Store the present values as those at the start of the epoch."""
        self._epoch_start = self.quantity.values.detach().clone()

    @property
    def epoch_start(self) -> Tensor:
        """Values at the start of the epoch, in SI."""
        return self._epoch_start * self.quantity.unit

    def gradient(self) -> Tensor:
        """Return the gradient, zero before the first backward pass."""
        return gradient_of(self.quantity.values)

    def step(self, relative_step: float) -> None:
        """Take a step along the negative gradient, and set the gradient to zero."""
        gradient, length = self.gradient(), self.quantity.step * self.schedule.strength * relative_step
        if self._steps < 2:
            self._adam.floor = max(_FLOOR * float(gradient.abs().max()), 1e-12)
        if self._steps == 0:
            self.quantity.values.sub_(length * gradient / (gradient.abs() + self._adam.floor))
            gradient.zero_()
        else:
            self._adam.step(length)
        self._steps += 1
        self.quantity.apply_constraints()

    def reset(self) -> None:
        """Reset the moments. The next step is like the first."""
        self._adam.reset()
        self._steps = 0

    def state(self, name: str) -> dict[str, Tensor]:
        """Return the state by name, with the quantity's name as prefix."""
        own = named_numbers(name, self.STATE_VERSION, steps=self._steps, floor=self._adam.floor)
        own |= {name: self.quantity.values, f"{name}/epoch_start": self._epoch_start}
        return own | with_prefix(name, self._adam.state())

    @torch.no_grad()
    def load(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned; see ``Stateful``."""
        steps, self._adam.floor = read_numbers(state, name, self.STATE_VERSION, "steps", "floor")
        self.quantity.values.copy_(state[name])
        self._epoch_start.copy_(state[f"{name}/epoch_start"])
        self._steps = int(steps)
        self._adam.load(without_prefix(name, state))


class Refinement:
    """The refined quantities and their optimisers.

    Args:
        model: the forward model.
        settings: quantities to refine, and their schedules.
        probe_refined: whether the probe is also fitted; it then compensates changes of some quantities.
        relative_step: number of epochs done → factor on the steps.
        device: device of the values.
    """

    STATE_VERSION: ClassVar[int] = 2

    def __init__(
        self,
        model: ForwardModel,
        settings: RefinementSettings,
        *,
        probe_refined: bool,
        relative_step: Callable[[int], float],
        device: torch.device,
    ) -> None:
        self._relative_step, self._epochs_done = relative_step, 0
        self._quantities: dict[str, _ScheduledQuantity] = {}
        for name in settings.quantities:
            schedule = settings.schedule_of(name)
            quantity = make_quantity(name, model, bound=schedule.bound, probe_refined=probe_refined, device=device)
            self._quantities[name] = _ScheduledQuantity(quantity, schedule)
        self._prepare()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Values of all quantities by name."""
        return {f"refined/{name}": each.quantity.values for name, each in self._quantities.items()}

    @property
    def _active(self) -> dict[str, _ScheduledQuantity]:
        """Quantities that are refined in this epoch, by name."""
        number = self._epochs_done + 1
        return {name: each for name, each in self._quantities.items() if number >= each.schedule.from_epoch}

    def differences(self) -> dict[str, Tensor]:
        """Return the differences from the scan, in SI; backgrounds relative to the frames' mean intensity."""
        return {name: each.quantity.difference for name, each in self._quantities.items()}

    def start_from(self, differences: Mapping[str, Tensor]) -> None:
        """Set initial values as differences from the scan; names that are not among the quantities are ignored.

        Bounds that an initial value exceeds are widened to it.

        Args:
            differences: as from ``differences``.
        """
        for name in self._quantities.keys() & differences.keys():
            self._quantities[name].start_from(differences[name])

    @property
    def defocus_m(self) -> Tensor | None:
        """Distance by which the fitted probe is propagated downstream to give the wave at z = 0."""
        return self.differences().get("defocus")

    def adjustments(self) -> Adjustments:
        """Return the adjustments of the forward model."""
        found = self.differences()
        return Adjustments(
            position_m=found.get("positions"),
            axis_shift_m=found.get("axis_shift"),
            intensity=1 + found["intensity"] if "intensity" in found else None,
            distance_m=found.get("distance"),
            distance_shift_m=found.get("distance_shift"),
            distance_magnification=found.get("distance_magnification"),
            distance_rotation_rad=found.get("distance_rotation"),
            angle_rad=found.get("angle"),
            tilt_rad=found.get("tilt"),
            slice_thickness_m=found.get("slice_spacing"),
            background=found.get("background", found.get("background_map")),
        )

    def fix_windows(self, model: ForwardModel) -> None:
        """Fix the model's windows at the current positions, until the next call."""
        for each in self._quantities.values():
            each.hold()
        self.restore_fixed_windows(model)

    def restore_fixed_windows(self, model: ForwardModel) -> None:
        """Restore the windows of the last ``fix_windows``, also after a restart."""
        found = {name: each.epoch_start for name, each in self._quantities.items()}
        if found.keys() & {"positions", "axis_shift", "distance"}:
            position_m, shift_m = found.get("positions"), found.get("axis_shift")
            model.fix_windows(
                Adjustments(position_m=position_m, axis_shift_m=shift_m, distance_m=found.get("distance"))
            )

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient of each active quantity by name, zero before the first backward pass."""
        return {f"refined/{name}": each.gradient() for name, each in self._active.items()}

    @property
    def refines_views(self) -> bool:
        """Whether quantities of single views or angles are refined in this epoch."""
        return bool(self.per_view_values)

    @property
    def per_view_values(self) -> list[Tensor]:
        """Values refined in this epoch that affect the frames of a single view or angle only."""
        return [each.quantity.values for each in self._active.values() if each.quantity.per_view]

    @torch.no_grad()
    def step(self) -> None:
        """Take a step along the negative gradients, and set the gradients to zero."""
        for each in self._active.values():
            each.step(self._relative_step(self._epochs_done))

    def reset(self) -> None:
        """Reset the moments of the active quantities."""
        for each in self._active.values():
            each.reset()

    def end_epoch(self) -> None:
        """Shorten the steps, and activate the quantities that start in the next epoch."""
        self._epochs_done += 1
        self._prepare()

    def state(self) -> dict[str, Tensor]:
        """Return the state by name."""
        found = named_numbers("refinement", self.STATE_VERSION, epochs=self._epochs_done)
        for name, each in self._quantities.items():
            found |= each.state(f"refined/{name}")
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned; see ``Stateful``."""
        (epochs,) = read_numbers(state, "refinement", self.STATE_VERSION, "epochs")
        self._epochs_done = int(epochs)
        for name, each in self._quantities.items():
            each.load(f"refined/{name}", state)
        self._prepare()

    def _prepare(self) -> None:
        for each in self._active.values():
            each.quantity.values.requires_grad_()
