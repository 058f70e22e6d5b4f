"""A picture of a scan for a first look: mean frame, mask, positions and angles."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_SIDE, _TITLE, _EDGE = 360, 18, 12
"""Size of a panel, height of its title, and its margin, in pixels."""

_GREY, _RED, _BLUE = (128, 128, 128), (200, 30, 30), (30, 60, 200)


def write_inspection_picture(
    path: Path,
    mean: NDArray[np.floating] | None,
    mask: NDArray[np.bool_] | None,
    position_um: NDArray[np.floating] | None,
    angle_deg: NDArray[np.floating] | None,
) -> None:
    """Write four panels as a PNG file: mean frame, mask, positions and angles. Unknown panels say so.

    Args:
        path: the PNG file; it is replaced.
        mean: (y, x) mean frame.
        mask: (y, x) True for good pixels.
        position_um: (view, 2) positions (y, x) of the probe on the sample, µm.
        angle_deg: (view,) angles, degrees.
    """
    panels = [
        _frame_panel(mean, mask),
        _mask_panel(mask),
        _positions_panel(position_um),
        _angles_panel(angle_deg),
    ]
    picture = Image.new("RGB", (2 * _SIDE, 2 * (_SIDE + _TITLE)), "white")
    for number, panel in enumerate(panels):
        picture.paste(panel, (number % 2 * _SIDE, number // 2 * (_SIDE + _TITLE)))
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        picture.save(file, format="png", optimize=True)
    os.replace(part, path)


def _frame_panel(mean: NDArray[np.floating] | None, mask: NDArray[np.bool_] | None) -> Image.Image:
    """Return the mean frame in grey, masked pixels in red; by its logarithm if its range is large."""
    if mean is None:
        return _titled("mean frame: unknown")
    good = np.isfinite(mean) if mask is None else mask & np.isfinite(mean)
    values = mean[good] if good.any() else np.zeros(1)
    low, high = (float(value) for value in np.quantile(values, (0.001, 0.999)))
    logarithmic = high > 50 * max(float(np.median(values)), 1e-30) and low >= 0
    shown = np.log1p(np.where(good, np.maximum(mean, 0), 0)) if logarithmic else np.where(good, mean, low)
    if logarithmic:
        low, high = 0.0, float(np.log1p(high))
    grey = np.clip((shown - low) / ((high - low) or 1.0), 0, 1) * 255
    colours = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    colours[~good] = _RED
    scale = "logarithm" if logarithmic else f"{low:.4g} to {high:.4g}"
    return _with_image(f"mean frame {mean.shape[0]} x {mean.shape[1]}, {scale}", colours)


def _mask_panel(mask: NDArray[np.bool_] | None) -> Image.Image:
    if mask is None:
        return _titled("mask: unknown")
    colours = np.where(mask[:, :, None], np.uint8(255), np.array(_RED, np.uint8))
    return _with_image(f"mask: {int((~mask).sum())} of {mask.size} pixels masked", colours)


def _with_image(title: str, colours: NDArray[np.uint8]) -> Image.Image:
    """Return a panel with an image; large images are averaged, so that single masked pixels remain visible as tint."""
    panel, (ny, nx) = _titled(title), colours.shape[:2]
    side = _SIDE - 2 * _EDGE
    scale = side / max(ny, nx)
    size = max(1, round(nx * scale)), max(1, round(ny * scale))
    resized = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    panel.paste(resized, (_EDGE, _TITLE + _EDGE))
    ImageDraw.Draw(panel).rectangle(
        (_EDGE - 1, _TITLE + _EDGE - 1, _EDGE + size[0], _TITLE + _EDGE + size[1]), outline=_GREY
    )
    return panel


def _positions_panel(position_um: NDArray[np.floating] | None) -> Image.Image:
    """Return the positions with one scale for both axes; y grows downwards as in the frames."""
    title = "positions, micrometres (y downwards)"
    if position_um is None or not np.isfinite(position_um).all():
        return _titled(f"{title}: unknown")
    points = position_um[:, ::-1]
    middle, span = (points.min(0) + points.max(0)) / 2, max(float(np.ptp(points, axis=0).max()), 1e-9)
    return _plot(title, points, middle - span / 2, middle + span / 2, downwards=True)


def _angles_panel(angle_deg: NDArray[np.floating] | None) -> Image.Image:
    title = "angle of each view, degrees"
    if angle_deg is None or not np.isfinite(angle_deg).all():
        return _titled(f"{title}: unknown")
    points = np.stack([np.arange(len(angle_deg), dtype=float), angle_deg], axis=1)
    return _plot(title, points, points.min(0), points.max(0), downwards=False)


def _plot(
    title: str,
    points: NDArray[np.floating],
    low: NDArray[np.floating],
    high: NDArray[np.floating],
    *,
    downwards: bool,
) -> Image.Image:
    """Return a panel with points (n, 2), (x, y), between the limits of both axes."""
    panel = _titled(title)
    draw = ImageDraw.Draw(panel)
    left, top, side = 5 * _EDGE, _TITLE + _EDGE, _SIDE - 7 * _EDGE
    draw.rectangle((left, top, left + side, top + side), outline=_GREY)
    place = np.where(high > low, (points - low) / np.where(high > low, high - low, 1), 0.5)
    if not downwards:
        place[:, 1] = 1 - place[:, 1]
    for x, y in (6 + place * (side - 12)).tolist():
        draw.ellipse((left + x - 1.5, top + y - 1.5, left + x + 1.5, top + y + 1.5), fill=_BLUE)
    ends = (low[1], high[1]) if downwards else (high[1], low[1])
    _label(draw, (2, top), ends[0])
    _label(draw, (2, top + side - 12), ends[1])
    _label(draw, (left, top + side + 2), low[0])
    _label(draw, (left + side - 36, top + side + 2), high[0])
    return panel


def _label(draw: ImageDraw.ImageDraw, at: tuple[int, int], value: float) -> None:
    draw.text(at, f"{value:.4g}", fill="black")


def _titled(title: str, size: Sequence[int] = (_SIDE, _SIDE + _TITLE)) -> Image.Image:
    panel = Image.new("RGB", (size[0], size[1]), "white")
    ImageDraw.Draw(panel).text((_EDGE, 3), title, fill="black")
    return panel
