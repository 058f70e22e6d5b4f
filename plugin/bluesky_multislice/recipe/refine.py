"""What a recipe may choose about what is refined beside the volume: which quantities, and a schedule of each.

A schedule says from which epoch something moves, how strongly and how far. What it leaves out is shared or planned.
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
    """From which epoch something moves, and how strongly."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    from_epoch: int | None = Field(default=None, ge=1, le=10_000, description="First epoch in which it moves, from 1.")
    strength: float | None = Field(default=None, gt=0, le=100, description="Factor on its planned steps.")


class PixelSchedule(Schedule):
    """Of what is bounded in pixels."""

    bound: float | None = Field(default=None, gt=0, le=64, description="Furthest from the scan, pixels.")


class PartSchedule(Schedule):
    """Of what is bounded by a part of itself, or of something else."""

    bound: float | None = Field(default=None, gt=0, lt=1, description="Furthest from the scan, a part from 0 to 1.")


class DefocusSchedule(Schedule):
    """Of what is bounded in depths of field."""

    bound: float | None = Field(default=None, gt=0, le=1000, description="Furthest from the scan, depths of field.")


class ProbeSchedule(Schedule):
    """Of the probe, whose power the frames' light gives."""

    bound: float | None = Field(
        default=None, ge=1, le=1000, description="Factor, up and down, by which its power may leave the frames' light."
    )


class Schedules(BaseModel):
    """A schedule for each of what can be refined; what it leaves out is shared, or planned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    positions: PixelSchedule = Field(default=PixelSchedule(), description="Bound in pixels of the volume; 2.")
    axis_shift: PixelSchedule = Field(default=PixelSchedule(), description="Bound in pixels of the volume; 2.")
    intensity: PartSchedule = Field(default=PartSchedule(), description="Bound in parts of the intensity; 0.5.")
    distance: PartSchedule = Field(default=PartSchedule(), description="Bound in parts of the distance; 0.1.")
    distance_shift: PixelSchedule = Field(default=PixelSchedule(), description="Bound in pixels of the volume; 2.")
    distance_magnification: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels at the frames' edge; 10."
    )
    distance_rotation: PixelSchedule = Field(
        default=PixelSchedule(), description="Bound in pixels at the frames' edge; 10."
    )
    defocus: DefocusSchedule = Field(default=DefocusSchedule(), description="Bound in depths of field; 20.")
    angle: PixelSchedule = Field(default=PixelSchedule(), description="Bound in pixels at the volume's edge; 5.")
    tilt: PixelSchedule = Field(default=PixelSchedule(), description="Bound in pixels at the volume's edge; 20.")
    slice_spacing: PartSchedule = Field(default=PartSchedule(), description="Bound in parts of the spacing; 0.5.")
    background: PartSchedule = Field(
        default=PartSchedule(), description="Bound in parts of the frames' mean intensity; 1."
    )
    background_map: PartSchedule = Field(
        default=PartSchedule(), description="Bound in parts of the frames' mean intensity; 1."
    )
    probe: ProbeSchedule = Field(
        default=ProbeSchedule(),
        description="First epoch 1, or 2 where the optimiser is weighted; bound 4: a factor on the power that the "
        "frames' light gives.",
    )
    probe_variations: PartSchedule = Field(
        default=PartSchedule(),
        description="First epoch 3; bound of a shape's weight in parts of the probe's first mode; 1.",
    )

    @property
    def given(self) -> dict[Scheduled, dict[str, Any]]:
        """By name what is not left out."""
        return cast(dict[Scheduled, dict[str, Any]], self.model_dump(exclude_none=True, exclude_defaults=True))


class Refine(BaseModel):
    """What is refined beside the volume and the probe, where the scan does not know it well enough."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    quantities: tuple[Quantity, ...] = Field(
        default=(),
        description="positions of all views; axis_shift and intensity of every angle; distance to the detector, which "
        "sizes the object's pixels in the far field; in the near field distance_shift, distance_magnification and "
        "distance_rotation of a distance's frames against those of the first; defocus of the probe; rotation angles; "
        "tilt of the rotation axis; slice_spacing at one angle; a background that is one number, or a background_map.",
    )
    from_epoch: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="First epoch in which they move. None: the first, but after a quarter of the epochs where "
        "slice_spacing is among them and the optimiser is weighted.",
    )
    strength: float = Field(default=1.0, gt=0, le=100, description="Factor on their planned steps.")
    furthest_pixels: float = Field(
        default=2.0,
        gt=0,
        le=64,
        description="Most that positions, axis shifts and shifts of a distance may move, pixels.",
    )
    schedules: Schedules = Field(
        default=Schedules(),
        description="From which epoch, how strongly and how far one of them moves, or the probe or its variations, "
        "where it differs from what they share.",
    )

    @model_validator(mode="after")
    def _scheduled_are_refined(self) -> "Refine":
        idle = [name for name in self.schedules.given if name not in (*self.quantities, *_OF_THE_BEAM)]
        if idle:
            raise ValueError(f"schedules for what is not among the quantities: {', '.join(idle)}")
        return self
