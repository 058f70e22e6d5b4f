"""Description of a scan whose frames are files without a geometry, such as TIFF: a TOML file beside them.

Its fields are those of the instrument file, which describes all scans of a beamline; this one describes one scan.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import Combination
from bluesky_multislice.recipe.instrument import scan_fields
from bluesky_multislice.recipe.toml_file import read_toml

FRAME_FILES = ("frames", "darks", "flats")
"""Fields whose paths name files with frames."""

_OF_RUNS = ("dark_run", "flat_run")
"""Fields that only Bluesky runs have."""


class DescribedValue(BaseModel):
    """A value of one scan: numbers, a word, or the file that contains them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str | None = Field(
        default=None,
        description="File beside the description: .csv, .txt, .npy or .npz with numbers; .tif, .npy or .npz with "
        "frames.",
    )
    value: float | str | tuple[float, ...] | None = Field(
        default=None, description="A number, a word, or one number per frame."
    )
    unit: str | None = Field(default=None, description="Unit of the numbers, such as keV, mm or degree.")

    @model_validator(mode="after")
    def _one_place(self) -> "DescribedValue":
        if (self.path is None) == (self.value is None):
            raise ValueError("set exactly one of path and value")
        return self


class ScanDescription(BaseModel):
    """A scan in files that contain frames only. Its field names are those of ``scan_fields``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fields: Mapping[str, DescribedValue] = Field(description="Value or file of each field of the scan.")
    frames_per_view: Combination | None = Field(
        default=None, description="Use of several frames per position: mean, sum, or stack (each is a view)."
    )

    @model_validator(mode="after")
    def _known_fields(self) -> "ScanDescription":
        known = [name for name in scan_fields() if name not in _OF_RUNS]
        unknown = sorted(set(self.fields) - set(known))
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)}; known are {', '.join(known)}")
        arrays = [
            name for name in (*FRAME_FILES, "mask", "probe") if name in self.fields and not self.fields[name].path
        ]
        if arrays:
            raise ValueError(f"{', '.join(arrays)}: an array needs a path, not a value")
        if "image_key" in self.fields and {"darks", "flats"} & set(self.fields):
            raise ValueError(
                "image_key is for darks and flats among the frames; it excludes the fields darks and flats"
            )
        return self


def read_description(path: Path) -> ScanDescription:
    """Read the description of a scan.

    Raises:
        ScanError: the file is missing, is not valid TOML, or has unknown fields.
    """
    rule = "The description of a scan must be readable TOML with known fields."
    remedy = "correct it; docs/how-to/describe-a-scan.md has examples."
    return read_toml(path, ScanDescription, ScanError, rule=rule, remedy=remedy)
