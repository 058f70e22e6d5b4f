"""Instrument file: place and unit of each value of a scan at a facility.

Values are looked up in the recipe's ``[scan]`` table, the scan itself and the instrument file, in this order. Every
value keeps its source.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import SCAN_FIELDS, Combination, ScanField, lattice_spacing_m
from bluesky_multislice.recipe.toml_file import read_toml

Samples = Literal["mean", "interpolate"]
"""How several recorded samples per frame become one value."""


class FieldPlace(BaseModel):
    """Place of one value: a path in the scan's documents or a fixed value, with its unit.

    ``path`` is ``start:KEY.SUBKEY``, ``configuration:DEVICE.KEY`` or ``STREAM:DATA_KEY`` for Bluesky runs, and
    ``/GROUP/DATASET`` for HDF5 files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str | None = Field(default=None, description="Place of the value in the run's documents or the file.")
    value: float | str | None = Field(
        default=None, description="Fixed value, for a value that the instrument does not record."
    )
    unit: str | None = Field(default=None, description="Unit of the value, such as keV, mm or degree.")

    samples: Samples | None = Field(
        default=None,
        description="How several samples per frame become one value: mean of consecutive ones, or interpolate at the "
        "times of the frames.",
    )
    times: str | None = Field(default=None, description="Place of the times of the samples, s, for interpolation.")
    crystal: str | None = Field(
        default=None, description="Crystal and reflection, such as Si 111, if path is the Bragg angle of the energy."
    )

    @model_validator(mode="after")
    def _one_place(self) -> "FieldPlace":
        if (self.path is None) == (self.value is None):
            raise ValueError("set exactly one of path and value")
        if (self.times is None) != (self.samples != "interpolate"):
            raise ValueError("samples = interpolate and times belong together")
        if self.path is None and (self.samples or self.crystal):
            raise ValueError("samples and crystal need a path, not a value")
        if self.crystal is not None:
            lattice_spacing_m(self.crystal)
        return self


class Instrument(BaseModel):
    """An instrument file. Its field names are those of ``scan_fields``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(default="unnamed", description="Name of the beamline.")
    fields: Mapping[str, FieldPlace] = Field(default_factory=dict, description="Place of each field of a scan.")
    frames_per_view: Combination | None = Field(
        default=None, description="Use of several frames per event or position: mean, sum, or stack (each is a view)."
    )

    @model_validator(mode="after")
    def _known_fields(self) -> "Instrument":
        known = scan_fields()
        unknown = sorted(set(self.fields) - set(known))
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)}; known are {', '.join(known)}")
        arrays = [name for name, place in self.fields.items() if known[name].static_key and place.path is None]
        if arrays:
            raise ValueError(f"{', '.join(arrays)}: an array needs a path, not a value")
        crystals = [name for name, place in self.fields.items() if place.crystal and name != "energy"]
        sampled = [name for name, place in self.fields.items() if place.samples and not known[name].per_view]
        if crystals or sampled:
            raise ValueError(f"crystal is only for energy, samples only for values per view: {crystals + sampled}")
        return self


def scan_fields() -> dict[str, ScanField]:
    """Return the fields of a scan, including those of a single technique."""
    # Imported here because models import PyTorch, which options and their help do not need.
    from bluesky_multislice.models import technique_fields

    own = technique_fields().items()
    return dict(SCAN_FIELDS) | {name: replace(field, option=f"values.{name}", start_key=name) for name, field in own}


def read_instrument(path: Path) -> Instrument:
    """Read an instrument file.

    Raises:
        ScanError: the file is missing, is not valid TOML, or has unknown fields.
    """
    rule = "An instrument file must be readable TOML with known fields."
    return read_toml(path, Instrument, ScanError, rule=rule, remedy="correct it; deploy/instruments/ has examples.")
