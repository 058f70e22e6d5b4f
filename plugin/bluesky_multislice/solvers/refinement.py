"""What is refined beside the volume and the probe: the geometry where it is not known well enough, and stray light.

Every quantity starts at no difference from the scan and is moved by Adam with a step and a bound in its own unit
(``quantities``). What no frame depends on is taken out after every step: positions that move with the volume, for
instance.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bluesky_multislice.models import Adjustments, ForwardModel
from bluesky_multislice.solvers.quantities import Quantity, Refined, make_quantity

_FLOOR = 0.02
"""Part of the first steps' largest gradient below which values move less."""


@dataclass(frozen=True)
class RefinementSettings:
    """What to refine, and how.

    Attributes:
        quantities: their names; none by default.
        from_epoch: first epoch in which they move, from 1.
        strength: factor on their steps.
        furthest_pixels: most that positions, axis shifts and shifts of a distance may move, in pixels of the volume.
    """

    quantities: tuple[Quantity, ...] = ()
    from_epoch: int = 1
    strength: float = 1.0
    furthest_pixels: float = 2.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RefinementSettings":
        """Rebuild settings from plain lists and numbers."""
        return cls(**{**values, "quantities": tuple(values["quantities"])})


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
        self._settings, self._relative_step = settings, relative_step
        self._refined: dict[str, Refined] = {
            name: make_quantity(
                name, model, furthest_pixels=settings.furthest_pixels, probe_refined=probe_refined, device=device
            )
            for name in settings.quantities
        }
        groups = [{"params": [part.values], "eps": 0.0} for part in self._refined.values()]
        self._adam = torch.optim.Adam(groups, betas=(0.9, 0.99)) if groups else None
        self._epochs_done, self._steps = 0, 0
        self._prepare()

    @property
    def tensors(self) -> list[Tensor]:
        """The values of all quantities."""
        return [part.values for part in self._refined.values()]

    @property
    def active(self) -> bool:
        """Whether the quantities move in this epoch."""
        return bool(self._refined) and self._epochs_done + 1 >= self._settings.from_epoch

    def differences(self) -> dict[str, Tensor]:
        """Return by name how far each quantity is from the scan's, in SI; backgrounds in the frames' mean intensity."""
        return {name: part.difference for name, part in self._refined.items()}

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

    def gradients(self) -> list[Tensor]:
        """Return the gradient of each quantity that moves, zero before the first backward pass."""
        if not self.active:
            return []
        for values in self.tensors:
            if values.grad is None:
                values.grad = torch.zeros_like(values)
        return [values.grad for values in self.tensors if values.grad is not None]

    @property
    def follows(self) -> bool:
        """Whether frames held back have values of their own that move."""
        return self.active and bool(self.of_views)

    @property
    def of_views(self) -> list[Tensor]:
        """The values that belong to the frames of a view or an angle alone."""
        return [part.values for part in self._refined.values() if part.of_views]

    @torch.no_grad()
    def step(self) -> None:
        """Move against the gradients, and set them to zero.

        The first step is Adam's, but Adam does not remember it: the gradient in a background is endless at none, where
        dark pixels are.
        """
        if self._adam is None or not self.active:
            return
        parts = list(zip(self._adam.param_groups, self._refined.values(), self.gradients(), strict=True))
        for group, part, gradient in parts:
            group["lr"] = part.step * self._settings.strength * self._relative_step(self._epochs_done)
            if self._steps < 2:
                group["eps"] = max(_FLOOR * float(gradient.abs().max()), 1e-12)
            if self._steps == 0:
                part.values.sub_(group["lr"] * gradient / (gradient.abs() + group["eps"]))
        if self._steps > 0:
            self._adam.step()
        self._steps += 1
        self._adam.zero_grad(set_to_none=False)
        for _, part, _ in parts:
            part.tidy()

    def end_epoch(self) -> None:
        """Shorten the steps, and start to move when it is time."""
        self._epochs_done += 1
        self._prepare()

    def _prepare(self) -> None:
        for values in self.tensors:
            values.requires_grad_(self.active)
