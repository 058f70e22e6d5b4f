"""Schedules of refined quantities: first epoch, strength and bound, individual or shared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bluesky_multislice.measurement import REFINED_QUANTITIES, Quantity, Scheduled

_FIRST_OF_VARIATIONS = 3
"""First epoch in which the probe may vary along the scan; earlier it would absorb the object's contrast."""

_POWER_FACTOR = 4.0
"""Bound on the factor of the probe's power: a sample transmits at least a quarter of the beam."""

_LARGEST_WEIGHT = 1.0
"""Bound on the weight of a probe variation in a view, relative to the probe."""


@dataclass(frozen=True)
class Schedule:
    """When and how a quantity is refined.

    Attributes:
        from_epoch: first epoch of the refinement, from 1.
        strength: factor on the steps.
        bound: for the probe, the largest factor between its power and that of the frames; for probe variations, the
            largest weight; for other quantities, the largest difference from the scan, in their unit.
    """

    from_epoch: int
    strength: float
    bound: float


@dataclass(frozen=True)
class RefinementSettings:
    """Which quantities to refine, and how.

    Attributes:
        quantities: names of the quantities.
        from_epoch: first epoch of their refinement, from 1.
        strength: factor on their steps.
        furthest_pixels: bound on positions, axis shifts and distance shifts, in pixels of the volume.
        schedules: individual schedules by name, including those of the probe and its variations.
    """

    quantities: tuple[Quantity, ...] = ()
    from_epoch: int = 1
    strength: float = 1.0
    furthest_pixels: float = 2.0
    schedules: Mapping[Scheduled, Schedule] = field(default_factory=dict)

    def schedule_of(self, name: Scheduled) -> Schedule:
        """Return the schedule of a quantity, the probe or its variations; shared values do not apply to the probe."""
        if name in self.schedules:
            return self.schedules[name]
        if name == "probe":
            return Schedule(1, 1.0, _POWER_FACTOR)
        if name == "probe_variations":
            return Schedule(max(self.from_epoch, _FIRST_OF_VARIATIONS), self.strength, _LARGEST_WEIGHT)
        row = REFINED_QUANTITIES[name]
        bound = self.furthest_pixels if row.shares_bound else row.bound
        return Schedule(self.from_epoch, self.strength, bound)

    @property
    def probe_only(self) -> "RefinementSettings":
        """Settings of a fit of object and probe without other quantities."""
        return RefinementSettings(schedules={name: own for name, own in self.schedules.items() if name == "probe"})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RefinementSettings":
        """Rebuild settings from plain lists and numbers."""
        schedules = {name: Schedule(**own) for name, own in values["schedules"].items()}
        return cls(**{**values, "quantities": tuple(values["quantities"]), "schedules": schedules})
