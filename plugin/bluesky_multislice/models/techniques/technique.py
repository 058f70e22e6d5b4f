"""Definition of a technique: one object that contains everything specific to it.

The wave optics in the sample, the solvers, fidelities, regularisers, stopping rules and errors are common to all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.choices import OptimiserName
from bluesky_multislice.measurement import Regime, ScanField, ScanGeometry

Optics = Callable[[ScanGeometry, Tensor, Tensor], Tensor]
"""(geometry, fy (y, 1), fx (x,) in 1/m) → transfer function (y, x) of the optics between sample and detector."""


class FirstProbe(Protocol):
    """Function that estimates the initial probe (1, y, x) at z = 0 from the mean frame (y, x), zero if masked."""

    def __call__(
        self,
        geometry: ScanGeometry,
        mean_frame: NDArray,
        *,
        window: tuple[int, int],
        pixel_size_m: tuple[float, float],
    ) -> Tensor:
        """Return the initial probe on a window (y, x) with the pitch ``pixel_size_m`` (y, x)."""
        ...


@dataclass(frozen=True)
class FitDefaults:
    """Default fit settings of a technique, for options that the recipe leaves open.

    Attributes:
        refine_probe: whether the probe is refined.
        total_variation: weight of the total variation for several angles.
        momentum: momentum of accelerated descent for several angles of one magnification.
        constrain_vacuum: whether noise in vacuum is suppressed for several angles.
        gradient_floor: fraction of the first step's largest gradient below which Adam reduces its steps.
        single_angle_optimiser: optimiser of the object for one angle.
        epochs: number of epochs of accelerated descent for several angles.
        adam_epochs: number of epochs of Adam for several angles.
    """

    refine_probe: bool = False
    total_variation: float = 0.001
    momentum: float = 0.95
    constrain_vacuum: bool = False
    gradient_floor: float = 0.0
    single_angle_optimiser: OptimiserName = "adam"
    epochs: int = 25
    adam_epochs: int = 30


@dataclass(frozen=True)
class Technique:
    """One kind of measurement.

    Attributes:
        name: name in scans and recipes.
        first_probe: estimates the initial probe if the scan has none.
        overlapping: whether a probe is scanned over the sample, so that neighbouring views of an angle overlap. Such
            scans need positions, their frames record the intensity of the probe, and each angle has many frames.
        regime: default regime of a scan; None if every scan must state it.
        optics: transfer function of the optics between sample and detector; None for free space.
        imaged: whether a lens images the plane at a view's distance, before or behind the sample, onto the detector.
        fields: technique-specific numbers of a scan.
        fit: default fit settings.
    """

    name: str
    first_probe: FirstProbe
    overlapping: bool = False
    regime: Regime | None = "near_field"
    optics: Optics | None = None
    imaged: bool = False
    fields: tuple[ScanField, ...] = ()
    fit: FitDefaults = field(default_factory=FitDefaults)
