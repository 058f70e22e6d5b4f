"""Processing of the frames while they are read: region, centre, binning, zingers, rings."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bluesky_multislice.measurement import FrameSteps

_INTEGER = r"[+-]?\d+"
_NUMBER = r"[+-]?\d+(\.\d*)?"


def _joined(value: Any) -> Any:
    """Return numbers of a list as text: ``[128, 64]`` is ``128,64``, ``[[0, 128], [0, 64]]`` is ``0:128,0:64``."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (list, tuple)):
        return ",".join(":".join(map(str, part)) if isinstance(part, (list, tuple)) else str(part) for part in value)
    return re.sub(r"\s+", "", value) if isinstance(value, str) else value


_Region = Annotated[str, Field(pattern=rf"^{_INTEGER}:{_INTEGER},{_INTEGER}:{_INTEGER}$"), BeforeValidator(_joined)]
_Centre = Annotated[str, Field(pattern=rf"^(auto|{_NUMBER},{_NUMBER})$"), BeforeValidator(_joined)]
_Size = Annotated[str, Field(pattern=r"^\d+([x,]\d+)?$"), BeforeValidator(_joined)]


class FrameProcessing(BaseModel):
    """Part of the frames to read, and corrections of single pixels. Pixels are those of the stored frame."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    region: _Region | None = Field(
        default=None,
        description="Part of the frames, first row:end row,first column:end column, such as 100:356,80:336, before "
        "orientation. Pixels outside of the detector count as unmeasured.",
    )
    centre: _Centre | None = Field(
        default=None,
        description="Pixel that becomes the middle of the frames: row,column of the stored frame, or auto for the "
        "direct beam of far-field patterns.",
    )
    size: _Size | None = Field(
        default=None,
        description="Stored pixels around centre, before binning: one number, or rows x columns such as 256x512. None: "
        "as many as the detector has.",
    )
    binning: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Stored pixels per pixel and axis. Counts are summed; holograms stored as floating-point numbers "
        "are averaged.",
    )
    zingers: bool | None = Field(
        default=None,
        description="Replace single pixels of a frame that are over four times as bright as their neighbours. None: in "
        "holograms that have them.",
    )
    rings: bool | None = Field(
        default=None,
        description="Correct gain errors of single pixels that flats do not know, which make rings. None: in "
        "holographic tomograms where they are found with certainty.",
    )

    @model_validator(mode="after")
    def _one_region(self) -> "FrameProcessing":
        if self.region is not None and self.centre is not None:
            raise ValueError("region and centre exclude each other: give centre and size, or region")
        if self.size is not None and self.centre is None:
            raise ValueError("size needs centre: auto, or ROW,COLUMN")
        if self.region is not None and any(last <= first for first, last in _ranges(self.region)):
            raise ValueError("region needs an end after the first pixel, as in 100:356,80:336")
        if self.size is not None and 0 in _numbers(self.size):
            raise ValueError("size must be at least one pixel")
        return self

    @property
    def steps(self) -> FrameSteps:
        """The same in numbers."""
        centre: tuple[float, float] | Literal["auto"] | None = None
        if self.centre is not None:
            centre = "auto" if self.centre == "auto" else _pair([float(part) for part in self.centre.split(",")])
        return FrameSteps(
            region=None if self.region is None else _pair(_ranges(self.region)),
            centre=centre,
            size=None if self.size is None else _pair(_numbers(self.size)),
            binning=self.binning,
            zingers=self.zingers,
            rings=self.rings,
        )


def _ranges(region: str) -> list[tuple[int, int]]:
    return [_pair([int(number) for number in part.split(":")]) for part in region.split(",")]


def _numbers(size: str) -> list[int]:
    return [int(number) for number in re.split("[x,]", size)]


def _pair(values: list[Any]) -> tuple[Any, Any]:
    """Return two values; one value stands for both."""
    return values[0], values[-1]
