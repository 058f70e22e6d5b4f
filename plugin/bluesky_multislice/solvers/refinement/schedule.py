"""What is refined beside the volume: from which epoch, how strongly, how far, each by its own or by shared numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bluesky_multislice.solvers.refinement.quantities import PIXELS_OF_THE_VOLUME, Quantity, planned_bound

Scheduled = Quantity | Literal["probe", "probe_variations"]

_FIRST_OF_VARIATIONS = 3
"""First epoch in which the probe may change along the scan: before, it would take over what the object explains."""

_POWER_FACTOR = 4.0
"""Bound of the probe: samples take up light, but no more than three quarters of it where they are looked through."""

_LARGEST_WEIGHT = 1.0
"""Bound of the weight that a variation of the probe has in a view, relative to the probe."""


@dataclass(frozen=True)
class Schedule:
    """When something moves, and how.

    Attributes:
        from_epoch: first epoch in which it moves, from 1.
        strength: factor on its steps.
        bound: of the probe the factor, up and down, by which its power may differ from what the frames' light gives; of
            its variations the largest weight; of others the most that they may differ from the scan, in their unit.
    """

    from_epoch: int
    strength: float
    bound: float


@dataclass(frozen=True)
class RefinementSettings:
    """What to refine, and how.

    Attributes:
        quantities: their names; none by default.
        from_epoch: first epoch in which they move, from 1.
        strength: factor on their steps.
        furthest_pixels: most that positions, axis shifts and shifts of a distance may move, in pixels of the volume.
        schedules: by name, of what has one of its own, the probe and its variations included.
    """

    quantities: tuple[Quantity, ...] = ()
    from_epoch: int = 1
    strength: float = 1.0
    furthest_pixels: float = 2.0
    schedules: Mapping[Scheduled, Schedule] = field(default_factory=dict)

    def schedule_of(self, name: Scheduled) -> Schedule:
        """Return the schedule of a quantity, the probe or its variations; shared numbers do not hold for the probe."""
        if name in self.schedules:
            return self.schedules[name]
        if name == "probe":
            return Schedule(1, 1.0, _POWER_FACTOR)
        if name == "probe_variations":
            return Schedule(max(self.from_epoch, _FIRST_OF_VARIATIONS), self.strength, _LARGEST_WEIGHT)
        bound = self.furthest_pixels if name in PIXELS_OF_THE_VOLUME else planned_bound(name)
        return Schedule(self.from_epoch, self.strength, bound)

    @property
    def of_the_probe(self) -> "RefinementSettings":
        """For a fit that moves volume and probe alone."""
        return RefinementSettings(schedules={name: own for name, own in self.schedules.items() if name == "probe"})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RefinementSettings":
        """Rebuild settings from plain lists and numbers."""
        schedules = {name: Schedule(**own) for name, own in values["schedules"].items()}
        return cls(**{**values, "quantities": tuple(values["quantities"]), "schedules": schedules})
