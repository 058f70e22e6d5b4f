"""What a technique is: everything in which one kind of measurement differs from another, in one object.

The wave optics in the sample, the solvers, fidelities, regularisers, stopping and errors are the same for all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import Regime, ScanGeometry

Optics = Callable[[ScanGeometry, Tensor, Tensor], Tensor]
"""(geometry, fy (y, 1), fx (x,) in 1/m) → factor (y, x) on the spectrum of the exit wave on its way to the detector."""


class FirstProbe(Protocol):
    """The first probe (1, y, x) at z = 0 from the mean frame (y, x), which is zero where masked."""

    def __call__(
        self,
        geometry: ScanGeometry,
        mean_frame: NDArray,
        *,
        window: tuple[int, int],
        pixel_size_m: tuple[float, float],
    ) -> Tensor:
        """Return it on a window (y, x) of this pitch."""
        ...


@dataclass(frozen=True)
class ScanField:
    """A number that the scans of a technique have and others have not.

    Attributes:
        name: its name in the recipe's ``[scan.values]``, the start document and the instrument file.
        unit: the unit of the model, None where it has none.
        place: where the interchange file has it, below ``/entry_1``.
        description: what it is.
    """

    name: str
    unit: str | None
    place: str
    description: str


@dataclass(frozen=True)
class FitDefaults:
    """How to fit where a recipe leaves it open.

    Attributes:
        refine_probe: whether the probe moves.
        total_variation: weight of total variation at several angles, which leave gaps.
        constrain_vacuum: whether vacuum is held against noise at several angles.
        gradient_floor: part of the first step's largest gradient below which Adam moves voxels less.
        single_angle_optimiser: what moves the object at one angle.
        epochs: of accelerated descent at several angles.
        adam_epochs: of Adam at several angles.
    """

    refine_probe: bool = False
    total_variation: float = 0.001
    constrain_vacuum: bool = False
    gradient_floor: float = 0.0
    single_angle_optimiser: Literal["adam", "weighted"] = "adam"
    epochs: int = 25
    adam_epochs: int = 30


@dataclass(frozen=True)
class Technique:
    """One kind of measurement.

    Attributes:
        name: as scans and recipes say it.
        first_probe: what makes the first probe where the scan has none.
        overlapping: whether a probe is scanned over the sample, so that neighbouring views of an angle overlap:
            positions are needed then, frames count the light of the probe, and each angle holds many of them.
        regime: of a scan that does not say it; None where it must.
        optics: what stands between sample and detector; None is free space.
        imaged: whether a lens images the plane at a view's distance, which may lie anywhere, onto the detector.
        fields: numbers that its scans have and others have not.
        fit: how to fit where a recipe leaves it open.
    """

    name: str
    first_probe: FirstProbe
    overlapping: bool = False
    regime: Regime | None = "near_field"
    optics: Optics | None = None
    imaged: bool = False
    fields: tuple[ScanField, ...] = ()
    fit: FitDefaults = field(default_factory=FitDefaults)
