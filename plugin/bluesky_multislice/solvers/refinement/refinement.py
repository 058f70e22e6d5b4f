"""What is refined beside the volume and the probe: the geometry where it is not known well enough, and stray light.

Every quantity starts at no difference from the scan and is moved by Adam with a step in its own unit (``quantities``),
as its schedule says. What no frame depends on is taken out after every step: positions that move with the volume, for
instance.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bluesky_multislice.models import Adjustments, ForwardModel
from bluesky_multislice.solvers.optimisers import Adam, gradient_of, named, of_name
from bluesky_multislice.solvers.refinement.quantities import Refined, make_quantity
from bluesky_multislice.solvers.refinement.schedule import RefinementSettings, Schedule

_FLOOR = 0.02
"""Part of the first steps' largest gradient below which values move less."""


class _Moving:
    """A quantity that moves by a schedule.

    The first step is Adam's, but Adam does not remember it: the gradient in a background is endless at none, where dark
    pixels are.
    """

    def __init__(self, part: Refined, schedule: Schedule) -> None:
        self.part, self.schedule = part, schedule
        self.hold()
        self._adam = Adam(part.values, floor=0.0)
        self._steps = 0

    def hold(self) -> None:
        """Remember the values of this moment as those that the epoch begins with."""
        self._at_first = self.part.values.detach().clone()

    @property
    def at_first(self) -> Tensor:
        """What the epoch began with, in SI."""
        return self._at_first * self.part.unit

    def gradient(self) -> Tensor:
        """Return the gradient, zero before the first backward pass."""
        return gradient_of(self.part.values)

    def step(self, relative_step: float) -> None:
        """Move against the gradient, and set it to zero."""
        gradient, length = self.gradient(), self.part.step * self.schedule.strength * relative_step
        if self._steps < 2:
            self._adam.floor = max(_FLOOR * float(gradient.abs().max()), 1e-12)
        if self._steps == 0:
            self.part.values.sub_(length * gradient / (gradient.abs() + self._adam.floor))
            gradient.zero_()
        else:
            self._adam.step(length)
        self._steps += 1
        self.part.tidy()

    def state(self, name: str) -> dict[str, Tensor]:
        """Return values and what else is needed to go on, under names that begin with the quantity's."""
        numbers = torch.tensor([self._steps, self._adam.floor], dtype=torch.float64)
        own = {name: self.part.values, f"{name}/at_first": self._at_first, f"{name}/numbers": numbers}
        return own | named(name, self._adam.state())

    @torch.no_grad()
    def load(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        self.part.values.copy_(state[name])
        self._at_first.copy_(state[f"{name}/at_first"])
        steps, self._adam.floor = state[f"{name}/numbers"].tolist()
        self._steps = int(steps)
        self._adam.load(of_name(name, state))


class Refinement:
    """The quantities that are refined, and the optimiser that moves them.

    Args:
        model: the forward model.
        settings: what to refine, and how.
        probe_refined: whether the probe moves too: then it and some quantities can change without any frame changing.
        relative_step: epochs done → factor on the steps.
        device: where the values are kept.
    """

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
        self._moving: dict[str, _Moving] = {}
        for name in settings.quantities:
            schedule = settings.schedule_of(name)
            part = make_quantity(name, model, bound=schedule.bound, probe_refined=probe_refined, device=device)
            self._moving[name] = _Moving(part, schedule)
        self._prepare()

    @property
    def tensors(self) -> list[Tensor]:
        """The values of all quantities."""
        return [each.part.values for each in self._moving.values()]

    @property
    def _active(self) -> list[_Moving]:
        """The quantities that move in this epoch."""
        return [each for each in self._moving.values() if self._epochs_done + 1 >= each.schedule.from_epoch]

    def differences(self) -> dict[str, Tensor]:
        """Return by name how far each quantity is from the scan's, in SI; backgrounds in the frames' mean intensity."""
        return {name: each.part.difference for name, each in self._moving.items()}

    @property
    def defocus_m(self) -> Tensor | None:
        """How far downstream the probe is taken before it counts as the wave at z = 0."""
        return self.differences().get("defocus")

    def adjustments(self) -> Adjustments:
        """Return what the forward model takes."""
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

    def hold_windows(self, model: ForwardModel) -> None:
        """Keep a model's windows where they are now, whatever moves views from here on."""
        for each in self._moving.values():
            each.hold()
        self.hold_windows_again(model)

    def hold_windows_again(self, model: ForwardModel) -> None:
        """Keep a model's windows where they were when ``hold_windows`` was called, possibly before a restart."""
        found = {name: each.at_first for name, each in self._moving.items()}
        if found.keys() & {"positions", "axis_shift", "distance"}:
            position_m, shift_m = found.get("positions"), found.get("axis_shift")
            model.fix_windows(
                Adjustments(position_m=position_m, axis_shift_m=shift_m, distance_m=found.get("distance"))
            )

    def gradients(self) -> list[Tensor]:
        """Return the gradient of each quantity that moves, zero before the first backward pass."""
        return [each.gradient() for each in self._active]

    @property
    def follows(self) -> bool:
        """Whether frames held back have values of their own that move."""
        return bool(self.of_views)

    @property
    def of_views(self) -> list[Tensor]:
        """The values that move in this epoch and belong to the frames of a view or an angle alone."""
        return [each.part.values for each in self._active if each.part.of_views]

    @torch.no_grad()
    def step(self) -> None:
        """Move against the gradients, and set them to zero."""
        for each in self._active:
            each.step(self._relative_step(self._epochs_done))

    def end_epoch(self) -> None:
        """Shorten the steps, and start to move what it is time for."""
        self._epochs_done += 1
        self._prepare()

    def state(self) -> dict[str, Tensor]:
        """Return the values and what else is needed to go on, by name."""
        found = {"refined/epochs": torch.tensor(self._epochs_done)}
        for name, each in self._moving.items():
            found |= each.state(f"refined/{name}")
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        self._epochs_done = int(state["refined/epochs"])
        for name, each in self._moving.items():
            each.load(f"refined/{name}", state)
        self._prepare()

    def _prepare(self) -> None:
        for each in self._active:
            each.part.values.requires_grad_()
