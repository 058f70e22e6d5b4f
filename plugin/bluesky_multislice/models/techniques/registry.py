"""Registry of techniques: those of this package, and entry points of other installed packages."""

import functools
from collections.abc import Mapping

from bluesky_multislice.choices import TECHNIQUES_GROUP
from bluesky_multislice.errors import ScanError
from bluesky_multislice.extensions import with_extensions
from bluesky_multislice.measurement import ScanField, ScanGeometry
from bluesky_multislice.models.techniques.holography import HOLOGRAPHY
from bluesky_multislice.models.techniques.microscopy import MICROSCOPY
from bluesky_multislice.models.techniques.ptychography import PTYCHOGRAPHY
from bluesky_multislice.models.techniques.technique import Technique


@functools.cache
def techniques() -> Mapping[str, Technique]:
    """Return the techniques by name.

    Raises:
        ExtensionError: an entry point is not a ``Technique``, or its name is already in use.
    """
    own = {technique.name: technique for technique in (PTYCHOGRAPHY, HOLOGRAPHY, MICROSCOPY)}
    return with_extensions(
        own, group=TECHNIQUES_GROUP, rule="a Technique", accepts=lambda offered: isinstance(offered, Technique)
    )


def find_technique(name: str) -> Technique:
    """Return a technique.

    Raises:
        ScanError: there is no technique with this name.
    """
    try:
        return techniques()[name]
    except KeyError:
        raise ScanError(
            f"The technique must be one of {', '.join(techniques())}.",
            got=f"{name!r}.",
            remedy=f"correct the name, or install the package with its entry point in the group {TECHNIQUES_GROUP}.",
        ) from None


def technique_of(geometry: ScanGeometry) -> Technique:
    """Return the technique of a scan.

    Raises:
        ScanError: there is no such technique, the scan lacks one of its values, or the detector does not match.
    """
    technique, detector = find_technique(geometry.technique), geometry.detector
    if technique.imaged != detector.imaged:
        raise ScanError(
            f"The technique {technique.name} works {'with' if technique.imaged else 'without'} a lens.",
            got=f"a detector that is {'imaged by a lens' if detector.imaged else 'not imaged by a lens'}.",
            remedy="correct the technique in the scan's metadata.",
        )
    if technique.imaged and detector.regime == "far_field":
        raise ScanError(
            "A lens images onto the detector in the near field.",
            got=f"{technique.name} with a far-field detector.",
            remedy="correct the technique or the regime in the scan's metadata.",
        )
    missing = [field.name for field in technique.fields if field.name not in geometry.values]
    if missing:
        raise ScanError(
            f"A scan of {technique.name} needs the values {', '.join(field.name for field in technique.fields)}.",
            got=f"no {', '.join(missing)}.",
            remedy="set them in the recipe's [scan.values] table, the scan's metadata or the instrument file.",
        )
    return technique


def technique_fields() -> dict[str, ScanField]:
    """Return all technique-specific scan fields by name."""
    return {field.name: field for technique in techniques().values() for field in technique.fields}
