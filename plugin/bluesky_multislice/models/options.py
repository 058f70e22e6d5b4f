"""Options of the forward model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bluesky_multislice.choices import Edges, Interpolation, Kernel
from bluesky_multislice.measurement import ScanGeometry


@dataclass(frozen=True)
class ModelOptions:
    """Options of the forward model; geometry, grid and ranks are no options.

    Attributes:
        slices: number of slices into which the volume's planes are averaged along the beam; they need not divide the
            planes evenly. Projection uses one slice.
        propagation: name of a propagation in ``optics.PROPAGATIONS``.
        keywords: further keywords of that propagation.
        margin: pixels of the window around the field on every side, against wrap-around.
        edges: ``periodic``, or ``outgoing``: waves are absorbed at the window's edges, within ``margin`` or, without a
            margin, an eighth of the window.
        interpolation: interpolation of the rotation, see ``optics.rotate``.
        oversampling: pixels of the geometry per pixel of the computed frames, along each axis.
        point_spread_pixels: σ of the detector's Gaussian point spread, in pixels of the computed frames.
        way_to_detector: propagation kernel to a near-field detector; with a lens, the exact kernel is used. The scaling
            theorem of a cone beam requires Fresnel.
        precision: real floating-point type of the computation.
    """

    slices: int
    propagation: str = "multislice"
    keywords: Mapping[str, Any] = field(default_factory=dict)
    margin: int = 0
    edges: Edges = "periodic"
    interpolation: Interpolation = "linear"
    oversampling: int = 1
    point_spread_pixels: float = 0.0
    way_to_detector: Kernel = "fresnel"
    precision: torch.dtype = torch.float32


def way_to_detector(geometry: ScanGeometry) -> Kernel:
    """Return the most accurate propagator to the detector: exact for a parallel beam, paraxial for a cone beam."""
    parallel = geometry.detector.regime == "near_field" and (geometry.magnification == 1).all()
    return "angular_spectrum" if parallel else "fresnel"
