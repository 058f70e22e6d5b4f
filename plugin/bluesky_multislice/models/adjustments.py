"""Corrections of the scan's geometry and additional intensity on the detector."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Adjustments:
    """Corrections of a scan's geometry, and intensity that does not come from the probe; None is no correction.

    The axes ``angle`` and ``distance`` index the model's ``angles_rad`` and ``effective_distances_m``.

    Attributes:
        position_m: (view, 2) added to each view's position (y, x), metres.
        axis_shift_m: (angle, 2) added to the position (y, x) of all views at an angle, metres.
        intensity: (angle,) factor on the expected intensity of all views at an angle.
        distance_m: (distance,) added to each effective distance, metres. In the far field the object's pixel grows with
            the distance, so positions in pixels shrink; the propagation through the sample does not change.
        distance_shift_m: (distance, 2) shift (y, x) of the frames at a distance, metres at the object.
        distance_magnification: (distance,) relative magnification of the frames at a distance about their centre.
        distance_rotation_rad: (distance,) rotation of the frames at a distance about their centre, from x towards y.
        angle_rad: (angle,) added to each rotation angle, radians.
        tilt_rad: (2,) tilt (α, γ) of the rotation axis, radians, see ``optics.rotate``.
        slice_thickness_m: () or (slice,) added to the slice thickness, metres; the centre of the volume stays.
        variations: complex (variation, y, x) shapes that are added to the first mode of the probe at z = 0.
        variation_of_view: (view, variation) weight of each shape in a view's probe.
        background: () or (y, x) intensity that does not come from the probe, in the units of |probe|².
    """

    position_m: Tensor | None = None
    axis_shift_m: Tensor | None = None
    intensity: Tensor | None = None
    distance_m: Tensor | None = None
    distance_shift_m: Tensor | None = None
    distance_magnification: Tensor | None = None
    distance_rotation_rad: Tensor | None = None
    angle_rad: Tensor | None = None
    tilt_rad: Tensor | None = None
    slice_thickness_m: Tensor | None = None
    variations: Tensor | None = None
    variation_of_view: Tensor | None = None
    background: Tensor | None = None


NO_ADJUSTMENTS = Adjustments()
"""The geometry without corrections."""
