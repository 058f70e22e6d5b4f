"""The fields of a scan: one table for file formats, Bluesky runs, instrument files, errors and the reference page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScanField:
    """One value of a scan, and the places where it can be recorded.

    Attributes:
        name: name in instrument files, in ``Scan.sources`` and in errors.
        unit: unit in the model; None for a word, an array or a dimensionless number.
        place: path in a scan file below its entry; the interchange file is written there. Empty: not in files.
        description: meaning, for documentation and forms.
        kind: a number, a word, or anything else (``other``: an array, or the name of one).
        per_view: whether each view can have its own value.
        shape: shape in a scan file.
        stored_unit: unit at ``place`` without a ``units`` attribute; None: ``unit``.
        other_places: further paths in a scan file in order of search, each with its unit without an attribute.
        column: column of the array at ``place``; None: the whole array.
        option: name in the recipe's ``[scan]`` table; None: not there.
        option_unit: unit in the recipe; None: ``unit``.
        start_key: key of a run's start document; None: not there.
        start_unit: unit in the start document; None: ``unit``.
        event_key: default data key in the events of the stream ``primary``; None: not there.
        event_key_from: key of the start document that names another data key; None: there is none.
        static_key: data key in the event of the stream ``static``; None: not there.
        name_parts: parts of the names that facilities give it, by which its place can be suggested.
    """

    name: str
    unit: str | None
    place: str
    description: str
    kind: Literal["number", "word", "other"] = "number"
    per_view: bool = False
    shape: str = "()"
    stored_unit: str | None = None
    other_places: tuple[tuple[str, str | None], ...] = ()
    column: int | None = None
    option: str | None = None
    option_unit: str | None = None
    start_key: str | None = None
    start_unit: str | None = None
    event_key: str | None = None
    event_key_from: str | None = None
    static_key: str | None = None
    name_parts: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[tuple[str, str | None], ...]:
        """All paths in a scan file in order of search, each with the unit of a number without a ``units`` attribute."""
        return ((self.place, self.stored_unit or self.unit), *self.other_places) if self.place else ()

    @property
    def label(self) -> str:
        """Name in sentences."""
        return self.name.replace("_", " ")


_DETECTOR, _SOURCE = "instrument_1/detector_1", "instrument_1/source_1"
_TRANSLATION = "sample_1/geometry_1/translation"
_OTHER_TRANSLATIONS: tuple[tuple[str, str | None], ...] = (("data_1/translation", "m"), ("sample_1/translation", "m"))
_OTHER_ENERGIES = (
    ("instrument_1/beam_1/incident_beam_energy", "J"),
    ("instrument_1/beam_1/incident_energy", "keV"),
    ("instrument_1/beam_1/energy", "keV"),
    ("beam_1/incident_beam_energy", "J"),
    ("beam_1/incident_energy", "keV"),
    ("sample_1/beam_1/incident_energy", "keV"),
    ("sample_1/incident_energy", "keV"),
    ("instrument_1/monochromator_1/energy", "keV"),
    (f"{_SOURCE}/wavelength", "m"),
    ("instrument_1/beam_1/incident_wavelength", "m"),
    ("beam_1/incident_wavelength", "m"),
    ("sample_1/beam_1/incident_wavelength", "m"),
    ("instrument_1/monochromator_1/wavelength", "m"),
)
"""Places of photon energy or wavelength. CXI's are in joule; NXtomo's are in keV, as the facilities write it."""

_FIELDS = (
    ScanField(
        "technique",
        None,
        "technique",
        "`ptychography`, `holography`, `microscopy`, or [one from another package](adding-a-technique.md), which "
        "defines the places of its own values",
        kind="word",
        option="technique",
        start_key="technique",
    ),
    ScanField(
        "regime",
        None,
        f"{_DETECTOR}/regime",
        "`far_field` or `near_field`",
        kind="word",
        option="regime",
        start_key="detector_regime",
    ),
    ScanField(
        "energy",
        "eV",
        f"{_SOURCE}/energy",
        "photon energy, or a wavelength where the place is one; values outside of X-rays (−1, the energy of the "
        "storage ring) are passed over",
        stored_unit="J",
        other_places=_OTHER_ENERGIES,
        option="energy_ev",
        start_key="energy_ev",
        name_parts=("energy", "wavelength", "mono"),
    ),
    ScanField(
        "distance",
        "m",
        f"{_DETECTOR}/distance",
        "from z = 0 (the rotation axis) to the detector, or to the plane that a lens images onto it (0 = in focus); "
        "for flats the distance at which they were taken",
        per_view=True,
        shape="() or (row,)",
        option="distance_m",
        start_key="detector_distance_m",
        event_key="detector_distance",
        event_key_from="distance_key",
        name_parts=("distance", "detector_z", "det_z", "camera_length"),
    ),
    ScanField(
        "pixel_size",
        "m",
        f"{_DETECTOR}/{{axis}}_pixel_size",
        "pitch of the detector's pixels in y and x; in Bluesky one number, or two for the oriented frames (y, x)",
        option="pixel_size_um",
        option_unit="um",
        start_key="detector_pixel_size_m",
        name_parts=("pixel", "pitch"),
    ),
    ScanField(
        "focus_distance",
        "m",
        f"{_SOURCE}/focus_distance",
        "from the focus to z = 0, positive if the focus is upstream; absent = parallel beam",
        per_view=True,
        shape="() or (view,)",
        option="focus_distance_mm",
        option_unit="mm",
        start_key="focus_distance_m",
        event_key="focus_distance",
        event_key_from="focus_distance_key",
        name_parts=("focus",),
    ),
    ScanField(
        "source_size",
        "m",
        f"{_SOURCE}/source_size",
        "σ of the focal spot of a cone beam; it blurs holograms by σ·z₂/z₁ on the detector; absent = 0",
        option="source_size_um",
        option_unit="um",
        start_key="source_size_m",
    ),
    ScanField(
        "divergence",
        "radian",
        f"{_SOURCE}/divergence",
        "σ of the beam directions of a parallel beam; it blurs holograms by σ·distance; absent = 0",
        option="divergence_urad",
        option_unit="urad",
        start_key="divergence_rad",
    ),
    ScanField(
        "orientation",
        None,
        f"{_DETECTOR}/basis_vectors",
        "directions of the stored rows and columns; in Bluesky one of the eight orientations by name; absent = the "
        "index grows with y and x",
        kind="word",
        shape="(3, 2) or (2, 3)",
        option="orientation",
        start_key="detector_orientation",
    ),
    ScanField(
        "detector_rotation",
        "radian",
        f"{_DETECTOR}/basis_vectors",
        "rotation of the oriented detector in its plane, from x towards y, at most 10 degrees; positions are then "
        "expressed along the detector's axes; absent = 0",
        shape="(3, 2) or (2, 3)",
        option="detector_rotation_deg",
        option_unit="degree",
        start_key="detector_rotation_deg",
        start_unit="degree",
    ),
    ScanField(
        "saturation",
        None,
        f"{_DETECTOR}/saturation_value",
        "smallest stored value of a saturated pixel; absent = maximum of the integer type",
        option="saturation",
        start_key="detector_saturation",
    ),
    ScanField(
        "angle",
        "radian",
        "sample_1/rotation_angle",
        "rotation of the sample about +y, from z towards x; absent in a file = 0",
        per_view=True,
        shape="() or (view,)",
        stored_unit="degree",
        other_places=(("data_1/rotation_angle", "degree"),),
        option="angle_deg",
        option_unit="degree",
        start_key="rotation_angle_deg",
        start_unit="degree",
        event_key="rotation_angle",
        event_key_from="angle_key",
        name_parts=("angle", "theta", "omega", "phi", "rot"),
    ),
    ScanField(
        "position_x",
        "m",
        _TRANSLATION,
        "first column: the **sample's** translation in x; the probe's position on the sample is its negative",
        per_view=True,
        shape="(view, 3)",
        other_places=_OTHER_TRANSLATIONS,
        column=0,
        event_key="sample_x",
        event_key_from="position_x_key",
        name_parts=("translation", "position", "sample_x", "samx", "stage_x", "_x"),
    ),
    ScanField(
        "position_y",
        "m",
        _TRANSLATION,
        "second column: the **sample's** translation in y",
        per_view=True,
        shape="(view, 3)",
        other_places=_OTHER_TRANSLATIONS,
        column=1,
        event_key="sample_y",
        event_key_from="position_y_key",
        name_parts=("translation", "position", "sample_y", "samy", "stage_y", "_y"),
    ),
    ScanField(
        "rotation_axis",
        None,
        f"{_DETECTOR}/x_rotation_axis_pixel_position",
        "position of the rotation axis along x from the middle of the oriented frames, in pixels of the frames, for "
        "frames of the whole sample; added to the position from the translation; absent = 0",
        other_places=((f"{_DETECTOR}/estimated_cor_from_motor", None),),
        option="axis_pixels",
        start_key="rotation_axis_pixels",
    ),
    ScanField(
        "frames",
        None,
        f"{_DETECTOR}/data",
        "frames as the detector stored them, real numbers; in Bluesky the data key of the frames, by default the only "
        "image of the stream",
        kind="other",
        shape="(row, y, x) or (row, 1, y, x)",
        other_places=(("data_1/data", None),),
        start_key="detector_image",
        name_parts=("data", "image", "frames"),
    ),
    ScanField(
        "image_key",
        None,
        f"{_DETECTOR}/image_key",
        "0 frame, 1 flat, 2 dark, 3 not used; absent = all 0",
        per_view=True,
        shape="(row,)",
        other_places=(("data_1/image_key", None),),
        event_key="image_key",
    ),
    ScanField(
        "image_key_control",
        None,
        f"{_DETECTOR}/image_key_control",
        "as `image_key`; rows with −1 (alignment frames of an NXtomo) are not used",
        per_view=True,
        shape="(row,)",
    ),
    ScanField(
        "mask",
        None,
        f"{_DETECTOR}/mask",
        "CXI bits or booleans, 0 = good",
        kind="other",
        shape="(y, x)",
        static_key="detector_mask",
    ),
    ScanField(
        "probe",
        None,
        f"{_SOURCE}/probe",
        "complex, at z = 0, optional initial guess, in the square root of the frames' units; for a cone beam without "
        "the spherical phase",
        kind="other",
        shape="(mode, y, x)",
        static_key="probe",
    ),
    ScanField(
        "exposure",
        "s",
        f"{_DETECTOR}/count_time",
        "exposure time; darks and flats must have the same as the frames; absent = not compared",
        per_view=True,
        shape="() or (row,)",
        start_key="exposure_time_s",
        event_key="exposure_time",
        event_key_from="exposure_key",
        name_parts=("exposure", "count_time", "acquire_time"),
    ),
    ScanField(
        "frame_times",
        "s",
        f"{_DETECTOR}/start_time",
        "time of each stored frame; absent = in the order of the rows; in Bluesky the times of the events",
        per_view=True,
        shape="(row,)",
        other_places=(("instrument_1/NDAttributes/NDArrayTimeStamp", "s"),),
    ),
    ScanField(
        "frame_numbers",
        None,
        f"{_DETECTOR}/frame_numbers",
        "number of the trigger of each stored frame, which tells the dropped frames if there are fewer frames than "
        "positions; for a run also searched in the detector's file",
        per_view=True,
        shape="(row,)",
        other_places=(("instrument_1/NDAttributes/NDArrayUniqueId", None),),
    ),
    ScanField("darks", None, "", "stream with darks, for instrument files: `STREAM:DATA_KEY`", kind="other"),
    ScanField("flats", None, "", "stream with flats, for instrument files: `STREAM:DATA_KEY`", kind="other"),
    ScanField("dark_run", None, "", "unique identifiers of runs with darks, for instrument files", kind="other"),
    ScanField("flat_run", None, "", "unique identifiers of runs with flats, for instrument files", kind="other"),
)

SCAN_FIELDS: Mapping[str, ScanField] = {field.name: field for field in _FIELDS}
"""Field name → field, for scans of any technique. A technique adds its own."""
