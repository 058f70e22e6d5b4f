"""Refinement options of a recipe: quantities to refine, and a schedule for each.

A schedule sets first epoch, strength and bound. Missing values are the shared values or planned defaults.
"""

from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

Quantity = Literal[
    "positions",
    "axis_shift",
    "intensity",
    "distance",
    "distance_shift",
    "distance_magnification",
    "distance_rotation",
    "defocus",
    "angle",
    "tilt",
    "slice_spacing",
    "background",
    "background_map",
]

Scheduled = Quantity | Literal["probe", "probe_variations"]

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


class Schedules(BaseModel):
    """A schedule for each refined quantity; missing values are shared or planned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    positions: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels of the volume, default furthest_pixels."
    )
    axis_shift: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels of the volume, default furthest_pixels."
    )
    intensity: PartSchedule = Field(default=PartSchedule(), description="Bound relative to the intensity, default 0.5.")
    distance: PartSchedule = Field(default=PartSchedule(), description="Bound relative to the distance, default 0.1.")
    distance_shift: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels of the volume, default furthest_pixels."
    )
    distance_magnification: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels at the frame's edge, default 10."
    )
    distance_rotation: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels at the frame's edge, default 10."
    )
    defocus: DefocusSchedule = Field(default=DefocusSchedule(), description="Bound in depths of field, default 20.")
    angle: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels at the volume's edge, default 5."
    )
    tilt: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels at the volume's edge, default 20."
    )
    slice_spacing: PartSchedule = Field(
        default=PartSchedule(), description="Bound relative to the spacing, default 0.5."
    )
    background: PartSchedule = Field(
        default=PartSchedule(), description="Bound relative to the frames' mean intensity, default 1."
    )
    background_map: PartSchedule = Field(
        default=PartSchedule(), description="Bound relative to the frames' mean intensity, default 1."
    )
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
