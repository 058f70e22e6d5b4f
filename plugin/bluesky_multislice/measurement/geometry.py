"""The geometry of a scan: beam, detector, views and the grid of the volume. SI units throughout.

Conventions (frame, signs, origin) are defined in ``optics/conventions.py``. Arrays have one row per view; a view is one
frame with its angle, position and distance.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError

Regime = Literal["far_field", "near_field"]


@dataclass(frozen=True)
class Beam:
    """The illuminating beam.

    Attributes:
        wavelength_m: wavelength in vacuum.
        focus_distance_m: from the focus to z = 0, positive if the focus is upstream; one number, or one per view if
            the sample is moved along a near-field beam; None: parallel beam.
        source_size_m: σ of the Gaussian source in the focus of a cone beam, for holograms.
        divergence_rad: σ of the Gaussian angular distribution of a parallel beam: source size over distance.
    """

    wavelength_m: float
    focus_distance_m: float | tuple[float, ...] | None = None
    source_size_m: float = 0.0
    divergence_rad: float = 0.0


@dataclass(frozen=True)
class Detector:
    """The detector, in the oriented frame.

    Attributes:
        shape: pixels (y, x).
        pixel_size_m: pitch (y, x).
        regime: ``far_field`` (diffraction patterns) or ``near_field`` (holograms).
        imaged: whether a lens images onto the detector. Pixels and distances are then those of the detector's image at
            the sample, which may be upstream of the sample.
    """

    shape: tuple[int, int]
    pixel_size_m: tuple[float, float]
    regime: Regime
    imaged: bool = False


@dataclass(frozen=True)
class VolumeGrid:
    """A regular grid: voxel i of n sits at center + (i − (n−1)/2)·pitch.

    Attributes:
        shape: voxels (z, y, x).
        voxel_size_m: pitch (z, y, x).
        center_m: centre of the grid relative to the rotation axis, (z, y, x). z and x may differ from 0 only for a
            scan with one angle.
    """

    shape: tuple[int, int, int]
    voxel_size_m: tuple[float, float, float]
    center_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def thickness_m(self) -> float:
        """Extent along the beam."""
        return self.shape[0] * self.voxel_size_m[0]

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VolumeGrid":
        """Rebuild a grid from ``as_dict``."""
        return cls(**{name: tuple(value) for name, value in values.items()})


@dataclass(frozen=True, eq=False)
class ScanGeometry:
    """The positions of beam, sample and detector for every view.

    Attributes:
        technique: name of a technique, see ``models.techniques``.
        beam: the beam.
        detector: the detector.
        distance_m: (view,) from z = 0 to the detector.
        angle_rad: (view,) rotation of the sample about +y, from z towards x.
        position_m: (view, 2) centre of the probe relative to the rotation axis, (y, x).
        values: technique-specific numbers, by the names of the technique's ``fields``.
    """

    technique: str
    beam: Beam
    detector: Detector
    distance_m: NDArray[np.float64]
    angle_rad: NDArray[np.float64]
    position_m: NDArray[np.float64]
    values: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that array lengths are consistent and values are physical."""
        self._check_lengths()
        self._check_values()
        self._check_focus()
        self._check_coherence()

    def _check_lengths(self) -> None:
        views = len(self.angle_rad)
        if views == 0:
            raise ScanError(
                "A scan needs at least one view.",
                got="none.",
                remedy="check that the scan took frames and was not aborted before the first frame.",
            )
        shapes = self.angle_rad.shape, self.distance_m.shape, self.position_m.shape
        if shapes != ((views,), (views,), (views, 2)):
            raise ScanError(
                "Every view needs one angle, one distance and one position (y, x).",
                got="angles {}, distances {}, positions {}.".format(*shapes),
                remedy="check that the scan recorded all three for each frame.",
            )

    def _check_values(self) -> None:
        for name, values in (
            ("wavelength", np.asarray([self.beam.wavelength_m])),
            ("detector distance", np.ones(1) if self.detector.imaged else self.distance_m),
            ("detector pixel size", np.asarray(self.detector.pixel_size_m)),
        ):
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ScanError(
                    f"The {name} must be positive and finite.",
                    got=f"values from {np.min(values)} to {np.max(values)} m.",
                    remedy="correct it in the scan's metadata, the instrument file or the recipe's [scan] table.",
                )
        for name, values in (
            ("angle", self.angle_rad),
            ("position", self.position_m),
            ("distance", self.distance_m),
        ):
            bad = np.flatnonzero(~np.isfinite(values.reshape(self.views, -1)).all(axis=1))
            if bad.size:
                raise ScanError(
                    f"Every {name} must be a finite number.",
                    got=f"{bad.size} views without one, the first is view {bad[0]}.",
                    remedy="repair the scan's motor readings or omit those frames.",
                )

    def _check_focus(self) -> None:
        focus = self.focus_distance_m
        if focus is None:
            return
        per_view = isinstance(self.beam.focus_distance_m, tuple)
        if len(focus) != self.views or (per_view and self.detector.regime == "far_field"):
            raise ScanError(
                "The focus distance must be one number, or one for each view in the near field.",
                got=f"{focus.size} focus distances for {self.views} views in the "
                f"{self.detector.regime.replace('_', ' ')}.",
                remedy="correct focus_distance, or use one number for all views.",
            )
        if not (np.isfinite(focus).all() and (focus != 0).all()):
            raise ScanError(
                "The focus must lie at a finite distance from the rotation axis, not on it.",
                got=f"focus distances from {np.min(focus)} m to {np.max(focus)} m.",
                remedy="correct focus_distance: positive if the focus is upstream; omit it for a parallel beam.",
            )
        if not (self.magnification > 0).all():
            raise ScanError(
                "The focus must lie outside of the range from the rotation axis to a near-field detector.",
                got=f"focus distances from {np.min(focus)} m, with the detector at {np.max(self.distance_m)} m.",
                remedy="correct focus_distance: positive if the focus is upstream; omit it for a parallel beam.",
            )

    def _check_coherence(self) -> None:
        focus, size, divergence = self.focus_distance_m, self.beam.source_size_m, self.beam.divergence_rad
        near = self.detector.regime == "near_field"
        inapplicable = divergence if focus is not None else size
        if size == divergence == 0 or (near and inapplicable == 0 and 0 <= size + divergence < np.inf):
            return
        raise ScanError(
            "Holograms are blurred by the source size of a cone beam or by the divergence of a parallel one.",
            got=f"a source size of {size} m and a divergence of {divergence} rad in a "
            f"{'parallel' if focus is None else 'cone'} beam, {self.detector.regime.replace('_', ' ')}.",
            remedy="set only the value for this beam, not negative; in the far field, use several probe modes instead.",
        )

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self.angle_rad)

    @property
    def focus_distance_m(self) -> NDArray[np.float64] | None:
        """(view,) from the focus to z = 0; None: parallel beam."""
        focus = self.beam.focus_distance_m
        if focus is None:
            return None
        return np.array(focus) if isinstance(focus, tuple) else np.full(self.views, focus)

    @property
    def source_blur_m(self) -> NDArray[np.float64]:
        """(view,) σ of the blur on the detector by the source size or the divergence."""
        focus = self.focus_distance_m
        if focus is None:
            return self.beam.divergence_rad * np.abs(self.distance_m)
        return self.beam.source_size_m * self.distance_m / np.abs(focus)

    @property
    def magnification(self) -> NDArray[np.float64]:
        """(view,) magnification (z₁+z₂)/z₁ of holograms by a cone beam; 1 for a parallel beam and in the far field."""
        focus = self.focus_distance_m
        if focus is None or self.detector.regime == "far_field":
            return np.ones(self.views)
        return (focus + self.distance_m) / focus

    @property
    def effective_distance_m(self) -> NDArray[np.float64]:
        """(view,) propagation distance of the parallel beam that gives the same hologram (Fresnel scaling theorem)."""
        return self.distance_m / self.magnification

    @property
    def object_pixel_m(self) -> tuple[float, float]:
        """Pitch (y, x) at which the detector samples the object.

        Far field: λ·distance / (n·detector pixel). Near field: detector pixel / largest magnification.

        Raises:
            ScanError: far-field views do not share one pitch.
        """
        (ny, nx), (py, px) = self.detector.shape, self.detector.pixel_size_m
        if self.detector.regime == "near_field":
            m = float(self.magnification.max())
            return py / m, px / m
        if np.ptp(self.distance_m) > 1e-3 * self.distance_m[0]:
            raise ScanError(
                "All patterns of one reconstruction must sample the object with one pixel size.",
                got=f"distances that differ by a factor {np.max(self.distance_m) / np.min(self.distance_m):.4g}.",
                remedy="reconstruct the views of each distance separately.",
            )
        scale = self.beam.wavelength_m * float(self.distance_m[0])
        return scale / (ny * py), scale / (nx * px)

    @property
    def field_shape(self) -> tuple[int, int]:
        """Object pixels (y, x) of the least magnified frame, which contains all others; parity as on the detector."""
        excess = self.magnification.max() / self.magnification.min() - 1
        ny, nx = (n + 2 * math.ceil(n * excess / 2 - 1e-6) for n in self.detector.shape)
        return ny, nx

    def oversampled(self, factor: int) -> "ScanGeometry":
        """Return the geometry with each detector pixel split into ``factor`` × ``factor`` pixels."""
        (ny, nx), (py, px) = self.detector.shape, self.detector.pixel_size_m
        detector = replace(self.detector, shape=(ny * factor, nx * factor), pixel_size_m=(py / factor, px / factor))
        return replace(self, detector=detector)

    def coarser(self, factor: int) -> "ScanGeometry":
        """Return the geometry of frames that sample the object ``factor`` times coarser.

        Far field: the centre of each pattern. Near field: binned pixels; remaining pixels at the ends are dropped.
        """
        (ny, nx), (py, px) = self.detector.shape, self.detector.pixel_size_m
        wider = 1 if self.detector.regime == "far_field" else factor
        shape, pixel_size_m = (ny // factor, nx // factor), (wider * py, wider * px)
        return replace(self, detector=replace(self.detector, shape=shape, pixel_size_m=pixel_size_m))

    def select(self, views: NDArray[np.intp]) -> "ScanGeometry":
        """Return the geometry of a subset of the views."""
        focus = self.beam.focus_distance_m
        beam = self.beam
        if isinstance(focus, tuple):
            beam = replace(beam, focus_distance_m=tuple(np.array(focus)[views].tolist()))
        return replace(
            self,
            beam=beam,
            distance_m=self.distance_m[views],
            angle_rad=self.angle_rad[views],
            position_m=self.position_m[views],
        )


def depth_of_field_m(resolution_m: float, wavelength_m: float) -> float:
    """Return the depth of field 5.4·r²/λ of an image with resolution r (Tsai et al., Opt. Express 24, 29177, 2016)."""
    return 5.4 * resolution_m**2 / wavelength_m
