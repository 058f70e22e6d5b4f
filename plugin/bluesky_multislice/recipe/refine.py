"""Refinement options of a recipe: quantities to refine, and a schedule for each.

A schedule sets first epoch, strength and bound. Missing values are the shared values or planned defaults.
"""

from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from bluesky_multislice.measurement import REFINED_QUANTITIES, Quantity, RefinedQuantityRow, Scheduled

_OF_THE_BEAM = ("probe", "probe_variations")


class Schedule(BaseModel):
    """First epoch and strength of a refinement."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    from_epoch: int | None = Field(default=None, ge=1, le=10_000, description="First epoch of the refinement, from 1.")
    strength: float | None = Field(default=None, gt=0, le=100, description="Factor on the planned steps.")


class PixelSchedule(Schedule):
    """Schedule of a quantity with a bound in pixels."""

    bound: float | None = Field(default=None, gt=0, le=64, description="Largest difference from the scan, pixels.")


class PartSchedule(Schedule):
    """Schedule of a quantity with a relative bound."""

    bound: float | None = Field(default=None, gt=0, lt=1, description="Largest relative difference from the scan.")


class DefocusSchedule(Schedule):
    """Schedule of a quantity with a bound in depths of field."""

    bound: float | None = Field(
        default=None, gt=0, le=1000, description="Largest difference from the scan, depths of field."
    )


class ProbeSchedule(Schedule):
    """Schedule of the probe, with a bound on its power."""

    bound: float | None = Field(
        default=None, ge=1, le=1000, description="Largest ratio of the probe's power to the frames', or its inverse."
    )


_SCHEDULES: dict[str, type[Schedule]] = {
    "pixels": PixelSchedule,
    "fraction": PartSchedule,
    "depths_of_field": DefocusSchedule,
}
"""Unit of a quantity's bound → class of its schedule."""


def _schedule_of(row: RefinedQuantityRow) -> tuple[type[Schedule], Any]:
    """Return class and field of a quantity's schedule."""
    kind, bound = _SCHEDULES[row.unit], "furthest_pixels" if row.shares_bound else f"{row.bound:g}"
    return kind, Field(default=kind(), description=f"Bound {row.measured}, default {bound}.")


_OF_QUANTITIES: Any = {name: _schedule_of(row) for name, row in REFINED_QUANTITIES.items()}


class Schedules(create_model("Schedules", __config__=ConfigDict(frozen=True, extra="forbid"), **_OF_QUANTITIES)):
    """A schedule for each refined quantity; missing values are shared or planned."""

    probe: ProbeSchedule = Field(
        default=ProbeSchedule(),
        description="First epoch: default 1, or 2 for the weighted optimiser. Bound: factor on the power that the "
        "frames imply, default 4.",
    )
    probe_variations: PartSchedule = Field(
        default=PartSchedule(),
        description="First epoch: default 3. Bound: weight of a shape relative to the probe's first mode, default 1.",
    )

    @property
    def given(self) -> dict[Scheduled, dict[str, Any]]:
        """The schedules that the user set, by name."""
        return cast(dict[Scheduled, dict[str, Any]], self.model_dump(exclude_none=True, exclude_defaults=True))


class Refine(BaseModel):
    """Quantities to refine together with object and probe, if the scan's values are not accurate enough."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    quantities: tuple[Quantity, ...] = Field(
        default=(),
        description="Quantities to refine, such as positions, angle, tilt, defocus, slice_spacing (one angle only) "
        "or background. distance_shift, distance_magnification and distance_rotation correct near-field distances "
        "relative to the first.",
    )
    from_epoch: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="First epoch of the refinement. None: 1, or after a quarter of the epochs for slice_spacing with "
        "the weighted optimiser.",
    )
    strength: float = Field(default=1.0, gt=0, le=100, description="Factor on the planned steps of the quantities.")
    furthest_pixels: float = Field(
        default=2.0,
        gt=0,
        le=64,
        description="Largest change of positions, axis shifts and distance shifts, pixels of the volume.",
    )
    schedules: Schedules = Field(
        default=Schedules(),
        description="Individual first epoch, strength and bound of a quantity, the probe or its variations, in place "
        "of the shared values.",
    )

    @model_validator(mode="after")
    def _scheduled_are_refined(self) -> "Refine":
        idle = [name for name in self.schedules.given if name not in (*self.quantities, *_OF_THE_BEAM)]
        if idle:
            raise ValueError(f"schedules need refined quantities; not refined: {', '.join(idle)}")
        return self
