"""Crops, centres, pads and bins the frames of a scan, and removes zingers and rings, while frames are read.

Order: zingers are removed from the stored frame; then the window is cropped, padded and binned; darks and flats are
processed alike; gain errors of pixels are corrected; darks and flats are applied; the orientation comes last. Region
and centre therefore count stored pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement.direct_beam import find_direct_beam
from bluesky_multislice.measurement.frame_groups import CombinedFrames
from bluesky_multislice.measurement.frame_window import FrameWindow, WindowedFrames
from bluesky_multislice.measurement.frames import Frames, flipped_axes, unorient
from bluesky_multislice.measurement.geometry import ScanGeometry
from bluesky_multislice.measurement.pixel_gains import correct_gains
from bluesky_multislice.measurement.scan import Scan
from bluesky_multislice.measurement.zingers import ZingerFilter, photon_gain

_SAMPLE = 16
"""Number of frames that are looked at for the direct beam and for zingers."""


@dataclass(frozen=True)
class FrameSteps:
    """How frames are processed. Pixels are those of the stored frame, before orientation and binning.

    Attributes:
        region: ((first row, end row), (first column, end column)); pixels outside of the detector are unmeasured.
        centre: pixel (row, column) that becomes the middle; ``auto``: the direct beam; None: the detector's middle.
        size: pixels (rows, columns) around ``centre``; None: as many as the detector has.
        binning: stored pixels per pixel and axis.
        zingers: whether zingers are removed; None: from holograms that have them.
        rings: whether gain errors of pixels are corrected; None: in holographic tomograms that have them.
    """

    region: tuple[tuple[int, int], tuple[int, int]] | None = None
    centre: tuple[float, float] | Literal["auto"] | None = None
    size: tuple[int, int] | None = None
    binning: int = 1
    zingers: bool | None = None
    rings: bool | None = None


def process_frames(scan: Scan, steps: FrameSteps) -> Scan:
    """Return the scan with processed frames, the geometry of these frames, and warnings that say what was done.

    The middle of a frame is pixel n//2 of the oriented frame in the far field, where the direct beam must be. In the
    near field it is the middle of the frame; a hologram whose middle is elsewhere on the detector shows another part of
    the sample, so that its position changes.

    Args:
        scan: the scan.
        steps: what to do.

    Raises:
        FramesError: the direct beam is not found, the binning does not divide the size, or no good pixel is left.
    """
    zingers, notes = _zinger_filter(scan, steps)
    window, of_centre = _window(scan, steps)
    detector = scan.frames.stored_mask.shape
    whole = window == FrameWindow((0, 0), detector)
    frames = scan.frames if zingers is None and whole else _windowed(scan, window, zingers)
    frames, of_gains = correct_gains(frames, scan.geometry, steps.rings)
    if frames is scan.frames:
        return replace(scan, warnings=(*scan.warnings, *of_centre)) if of_centre else scan
    notes += of_centre
    if not whole:
        notes.append(_window_note(window, scan))
    notes += of_gains
    geometry, of_position = _geometry(scan.geometry, frames, window, detector)
    probe, of_probe = (scan.probe, []) if whole else _probe(scan, geometry)
    notes += of_position
    names = ("frames", "pixel_size") if window.binning > 1 else ("frames",)
    sources = {name: "; ".join([*filter(None, [scan.sources.get(name)]), *notes]) for name in names}
    return replace(
        scan,
        geometry=geometry,
        frames=frames,
        probe=probe,
        sources=scan.sources | sources,
        warnings=(*scan.warnings, *notes, *of_probe),
    )


def _windowed(scan: Scan, window: FrameWindow, zingers: ZingerFilter | None) -> Frames:
    frames = scan.frames
    good = window.good(frames.stored_mask)
    if not good.any():
        raise FramesError(
            "The region of the frames must contain good pixels.",
            got=f"pixel {window.start} and {window.size} pixels (rows, columns), binned by {window.binning}, on a "
            f"detector of {frames.stored_mask.shape}.",
            remedy="correct frames.region, frames.centre or frames.size, which count pixels of the stored frame; use "
            "less binning if many single pixels are masked.",
        )
    source = WindowedFrames(
        frames.source,
        window,
        average=_averages(scan),
        saturation=frames.saturation,
        correct=None if zingers is None else _correction(frames, window, zingers),
    )
    return frames.with_source(source, mask=good, saturation=source.saturation)


def _correction(
    frames: Frames, window: FrameWindow, zingers: ZingerFilter
) -> Callable[[NDArray, int], NDArray[np.float32]]:
    """Return the function that removes zingers from a part of a stored frame. Darks have no light, and are kept."""
    y, x = window.inside(frames.stored_mask.shape)
    good, darks = frames.stored_mask[y, x], frozenset(frames.dark_rows)
    return lambda part, row: part.astype(np.float32) if row in darks else zingers.find(part, good)[1]


def _averages(scan: Scan) -> bool:
    """Return whether binned pixels are means: holograms that were divided by flats already are no counts."""
    source = scan.frames.source
    stored = source.stored if isinstance(source, CombinedFrames) else source
    return scan.geometry.detector.regime == "near_field" and stored.dtype.kind == "f"


def _window(scan: Scan, steps: FrameSteps) -> tuple[FrameWindow, list[str]]:
    """Return the window and notes about its centre."""
    detector, n = scan.frames.stored_mask.shape, steps.binning
    if steps.region is not None:
        size = tuple(end - first for first, end in steps.region)
        _check_divides(size, n, "frames.region")
        return FrameWindow((steps.region[0][0], steps.region[1][0]), (size[0], size[1]), n), []
    far_field = scan.geometry.detector.regime == "far_field"
    flipped = flipped_axes(scan.frames.orientation)
    if steps.size is not None:
        _check_divides(steps.size, n, "frames.size")
    size = [pixels - pixels % n for pixels in steps.size or detector]
    if not all(size):
        raise FramesError(
            "A frame must have at least one binned pixel.",
            got=f"a binning of {n} for frames of {detector}.",
            remedy="use less binning.",
        )
    centre, notes = _centre(scan, steps)
    if centre is None:
        centre = [
            _middle(pixels, flip) if far_field else (pixels - 1) / 2
            for pixels, flip in zip(detector, flipped, strict=True)
        ]
    start = [
        _start(c, pixels, n, flip) if far_field else round(c - (pixels - 1) / 2)
        for c, pixels, flip in zip(centre, size, flipped, strict=True)
    ]
    if steps.centre is None:
        start = [min(max(0, first), all_ - pixels) for first, all_, pixels in zip(start, detector, size, strict=True)]
    return FrameWindow((start[0], start[1]), (size[0], size[1]), n), notes


def _start(centre: float, pixels: int, binning: int, flipped: bool) -> int:
    """Return the first pixel of a window along an axis, so that the binned pixel n//2 of the oriented frame is centred.

    Args:
        centre: pixel index of the direct beam, with fractions.
        pixels: size of the window.
        binning: stored pixels per binned pixel.
        flipped: whether the orientation flips the axis.
    """
    first = centre - _middle(pixels // binning, flipped) * binning - (binning - 1) / 2
    return int(np.ceil(first - 0.5) if flipped else np.floor(first + 0.5))


def _middle(pixels: int, flipped: bool) -> int:
    """Return the index of the stored pixel that has the index n//2 in the oriented frame."""
    return pixels - 1 - pixels // 2 if flipped else pixels // 2


def _centre(scan: Scan, steps: FrameSteps) -> tuple[list[float] | None, list[str]]:
    """Return the given or found centre (row, column), None if there is none, and notes about it."""
    if steps.centre is None:
        return None, []
    if steps.centre != "auto":
        return list(steps.centre), []
    if scan.geometry.detector.regime != "far_field":
        raise FramesError(
            "Only far-field patterns have a direct beam to be centred on.",
            got='frames.centre = "auto" for holograms.',
            remedy="give frames.region, or frames.centre as ROW,COLUMN.",
        )
    mean, count = _mean_frame(scan.frames)
    beam = find_direct_beam(mean, scan.frames.stored_mask)
    return list(beam.centre), [
        f"frames: the direct beam is at row {beam.centre[0]:.1f}, column {beam.centre[1]:.1f} of the mean of {count} "
        f"frames (similarity to its inversion {beam.symmetry:.2f})"
    ]


def _mean_frame(frames: Frames) -> tuple[NDArray[np.float64], int]:
    """Return the mean (y, x) of evenly spaced frames in the stored orientation, and their number."""
    total, count, first_error = np.zeros(frames.shape), 0, None
    for view in np.unique(np.linspace(0, frames.views - 1, _SAMPLE).round().astype(int)):
        try:
            frame = frames.read(np.array([view]), saturated="mask")[0]
        except FramesError as error:
            first_error = first_error or error
            continue
        # A saturated pixel is bright: the direct beam may be saturated in all frames.
        total += np.where(np.isnan(frame), frames.saturation or 0.0, frame)
        count += 1
    if first_error is not None and not count:
        raise first_error
    return unorient(total / max(count, 1), frames.orientation), count


def _check_divides(size: tuple[int, ...], binning: int, name: str) -> None:
    if any(pixels % binning for pixels in size):
        larger = " x ".join(str(-(-pixels // binning) * binning) for pixels in size)
        raise FramesError(
            "The binning must divide the size of the region.",
            got=f"{name} of {' x '.join(map(str, size))} pixels (rows x columns), frames.binning = {binning}.",
            remedy=f"use {larger} pixels or another binning.",
        )


def _window_note(window: FrameWindow, scan: Scan) -> str:
    detector = scan.frames.stored_mask.shape
    (y, x), (ny, nx) = window.start, window.size
    text = f"frames: rows {y}:{y + ny} and columns {x}:{x + nx} of {detector[0]} x {detector[1]} stored pixels"
    if window.binning > 1:
        text += f", binned by {window.binning} ({'means' if _averages(scan) else 'sums'})"
    text += f": {window.shape[0]} x {window.shape[1]} pixels"
    rows, columns = window.inside(detector)
    outside = ny * nx - (rows.stop - rows.start) * (columns.stop - columns.start)
    if outside:
        text += f"; {outside / (ny * nx):.1%} of the region are outside of the detector and masked"
    return text


def _geometry(
    geometry: ScanGeometry, frames: Frames, window: FrameWindow, detector: tuple[int, ...]
) -> tuple[ScanGeometry, list[str]]:
    """Return the geometry of the processed frames, and a note if positions change."""
    pitch = geometry.detector.pixel_size_m
    processed = replace(
        geometry.detector, shape=frames.shape, pixel_size_m=(window.binning * pitch[0], window.binning * pitch[1])
    )
    changed = replace(geometry, detector=processed)
    if geometry.detector.regime == "far_field":
        return changed, []
    stored = [
        (first + (size - 1) / 2 - (pixels - 1) / 2) * (-1 if flip else 1)
        for first, size, pixels, flip in zip(
            window.start, window.size, detector, flipped_axes(frames.orientation), strict=True
        )
    ]
    pixels = np.array(stored[::-1] if frames.orientation.startswith("transpose") else stored)
    if not pixels.any():
        return changed, []
    position_m = geometry.position_m + pixels * np.array(pitch) / geometry.magnification[:, None]
    return replace(changed, position_m=position_m), [
        f"positions: moved by {pixels[0]:+g} detector pixels in y and {pixels[1]:+g} in x, from the middle of the "
        "detector to that of the region"
    ]


def _probe(scan: Scan, geometry: ScanGeometry) -> tuple[NDArray[np.complex64] | None, list[str]]:
    """Return the scan's probe if it can belong to the processed frames, and a note about it."""
    if scan.probe is None:
        return None, []
    shape = scan.probe.shape[-2:]
    fits = all(n <= m for n, m in zip(shape, geometry.detector.shape, strict=True))
    if fits and geometry.detector.regime == "far_field":
        return scan.probe, [f"the scan's probe of {shape} pixels is taken to be sampled as the processed frames are"]
    return None, [f"the scan's probe of {shape} pixels does not belong to the processed frames: it is not used"]


def _zinger_filter(scan: Scan, steps: FrameSteps) -> tuple[ZingerFilter | None, list[str]]:
    """Return the filter if the recipe asks for it, or if a sample of holograms has zingers; and a note."""
    holograms = scan.geometry.detector.regime == "near_field"
    if steps.zingers is False or (steps.zingers is None and not holograms):
        return None, []
    good, gains, count = scan.frames.stored_mask, list[float](), 0
    for frame in _stored_sample(scan.frames):
        gain = photon_gain(frame, good)
        if gain is not None:
            gains.append(gain)
            count += int(ZingerFilter(gain).find(frame, good)[0].sum())
    if not gains or (steps.zingers is None and not count):
        return None, []
    return ZingerFilter(float(np.median(gains))), [
        "frames: zingers (single pixels over four times as bright as their neighbours) are replaced by the mean of "
        f"these; {count} in the {len(gains)} frames that were looked at"
    ]


def _stored_sample(frames: Frames) -> Iterator[NDArray]:
    """Yield evenly spaced stored frames (y, x) of the sample that can be read."""
    for view in np.unique(np.linspace(0, frames.views - 1, _SAMPLE).round().astype(int)):
        row = int(frames.rows[view])
        try:
            yield from np.asarray(frames.source[row : row + 1])
        except OSError:  # The frame is read again for the fit, which reports the error.
            continue
