"""What may differ from what the scan says, beside the volume and the probe."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Adjustments:
    """Differences from the geometry of a scan, and what the detector sees besides; None is no difference.

    ``angle`` and ``distance`` number the model's distinct ``angles_rad`` and ``effective_distances_m``.

    Attributes:
        position_m: (view, 2) added to each view's position (y, x), metres.
        axis_shift_m: (angle, 2) added to the position (y, x) of all views at an angle, metres.
        intensity: (angle,) factor on the expected intensity of all views at an angle.
        distance_m: (distance,) added to each effective distance, metres. In the far field the object's pixel grows with
            the distance, and positions in pixels shrink; light on its way through the sample is left as it is.
        distance_shift_m: (distance, 2) by which the frames of a distance are moved (y, x), metres at the object.
        distance_magnification: (distance,) part by which the frames of a distance are larger about their middle.
        distance_rotation_rad: (distance,) turn of the frames of a distance about their middle, from x towards y.
        angle_rad: (angle,) added to each rotation angle, radians.
        tilt_rad: (2,) tilt (α, γ) of the rotation axis, radians, see ``optics.rotate``.
        slice_thickness_m: () or (slice,) added to the thickness of the slices, metres; the volume's middle stays.
        variations: complex (variation, y, x) shapes that are added to the first mode of the probe at z = 0.
        variation_of_view: (view, variation) how much of each shape a view's probe has.
        background: () or (y, x) intensity that is no light of the probe, in the units of |probe|².
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
"""The scan as its geometry says."""
