"""The verdict on a reconstruction: one list of rules on its status, R-factor, single frames and validation.

The reference page docs/reference/verdict.md is made from the list.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.reconstruction.unfit_frames import (
    UNFIT_DEVIATIONS,
    UNFIT_FACTOR,
    UnfitFrames,
    find_unfit_frames,
)
from bluesky_multislice.solvers import FrameMisfits, Solution

Grade = Literal["good", "doubtful", "failed"]
"""Verdict on a reconstruction, from best to worst."""

_GRADES: tuple[Grade, ...] = ("good", "doubtful", "failed")

_HIGH_R_FACTOR = 0.5
"""R-factor above which a fit failed, unless noise explains it."""

_STRUCTURED = 0.2
"""Structured residual amplitude over the frames' amplitude, above which noise does not explain a high R-factor."""

_UNEXPLAINED = 0.15
"""Part of the sample's contrast that is left unexplained in a doubtful fit.

Good fits leave up to 0.1, measured with simulated scans of few photons and with real ones; holograms that are
misaligned by one pixel rms leave 0.3.
"""

_EMPTY = 0.8
"""Part of the sample's contrast that is left unexplained in a failed fit."""

_CERTAIN = 3.0
"""Number of standard deviations, due to noise, above which structure of residuals is certain."""

_MOST_UNFIT = 0.01
"""Part of the frames that may not fit in a good reconstruction."""

_MOST_LEFT_OUT = 0.1
"""Part of the frames that may be left out in a good reconstruction."""

_FALL = 0.1
"""Part by which the misfit falls in the last quarter of the epochs of a fit that has not ended."""

_FULL_TURN = 0.97
"""Part of 360° that the angles of a full turn span."""

_RISE, _EARLY = 1.5, 0.1
"""Ratio of validation misfits, last to best epoch, and the part of the epochs after which it counts as early."""

_SERIES = (
    "check that frames, angles and positions belong together, the orientation and the alignment of the frames, the "
    "rotation axis, and the energy and the distance"
)


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        grade: verdict on the reconstruction because of it; ``good`` for a remark.
        reason: what was found, with its numbers.
        advice: what to check or to change.
    """

    grade: Grade
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.advice}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a reconstruction.

    Attributes:
        findings: what the rules found.
    """

    findings: tuple[Finding, ...] = ()

    @property
    def grade(self) -> Grade:
        """The worst grade of the findings; ``good`` without any."""
        return _GRADES[max((_GRADES.index(finding.grade) for finding in self.findings), default=0)]

    def as_dict(self) -> dict[str, Any]:
        """Return grade and findings for JSON."""
        return {"verdict": self.grade, "findings": [asdict(finding) for finding in self.findings]}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the rules look at.

    Attributes:
        solution: the solution of the fit.
        geometry: the scan.
        held_back: (view,) whether it is a validation view.
        empty: misfits of some validation frames (of fitted frames if none are held back) with an empty sample; None if
            they are unknown.
    """

    solution: Solution
    geometry: ScanGeometry
    held_back: NDArray[np.bool_]
    empty: FrameMisfits | None

    @property
    def frames(self) -> FrameMisfits:
        """Misfit of each frame; of no frame if they are unknown."""
        nothing = np.zeros(self.geometry.views)
        return self.solution.frame_misfits or FrameMisfits(nothing, nothing, nothing, nothing, nothing)

    @property
    def unfit(self) -> UnfitFrames:
        """The frames that do not fit."""
        return find_unfit_frames(self.frames.r_factors, self.held_back, self.geometry)

    def compared(self) -> tuple[FrameMisfits, FrameMisfits] | None:
        """Return the misfits of the frames that were compared with an empty sample: of the fit, and empty."""
        if self.empty is None or self.solution.frame_misfits is None:
            return None
        views = self.empty.intensity > 0
        return self.frames.select(views), self.empty.select(views)


@dataclass(frozen=True)
class Rule:
    """A rule of the verdict.

    Attributes:
        name: its name.
        grade: verdict on a reconstruction to which it applies.
        applies: when it applies, for the reference page.
        advice: what to check or to change.
        reason: returns what was found; None if the rule does not apply.
    """

    name: str
    grade: Grade
    applies: str
    advice: str
    reason: Callable[[Evidence], str | None]


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict of all rules."""
    found = ((rule, rule.reason(evidence)) for rule in RULES)
    return Verdict(tuple(Finding(rule.grade, reason, rule.advice) for rule, reason in found if reason))


def rule_lines() -> Iterator[str]:
    """Yield the lines of the reference page's table in Markdown."""
    yield "| rule | verdict | applies if | advice |"
    yield "| --- | --- | --- | --- |"
    for rule in RULES:
        grade = "good, with a remark" if rule.grade == "good" else rule.grade
        yield f"| {rule.name} | {grade} | {rule.applies} | {rule.advice} |"


def _diverged(evidence: Evidence) -> str | None:
    return "the fit diverged" if evidence.solution.status == "diverged" else None


def _stalled(evidence: Evidence) -> str | None:
    if evidence.solution.status != "stalled":
        return None
    return "the frames are explained hardly better than by an empty volume"


def _high_r_factor(evidence: Evidence) -> str | None:
    r_factor, frames = evidence.solution.r_factor, evidence.frames
    if r_factor is None or r_factor <= _HIGH_R_FACTOR:
        return None
    structured = max(float(frames.structure.sum()), 0.0) > _STRUCTURED**2 * float(frames.intensity.sum())
    return f"the R-factor is {r_factor:.3g}, too high for noise" if structured else None


def _unexplained(evidence: Evidence) -> float | None:
    """Return the part of the sample's contrast that is certainly not explained; None if noise hides the contrast."""
    compared = evidence.compared()
    if compared is None:
        return None
    own, empty = compared
    contrast = float(empty.structure.sum())
    if contrast <= _CERTAIN * empty.structure_error:
        return None
    return (float(own.structure.sum()) - _CERTAIN * own.structure_error) / contrast


def _contrast_text(evidence: Evidence, unexplained: float) -> str:
    compared, kind = evidence.compared(), "validation" if evidence.held_back.any() else "fitted"
    own, empty = (misfits.r_factor or 0.0 for misfits in compared or ())
    return (
        f"{unexplained:.0%} of the contrast of the {kind} frames is not explained (R-factor {own:.3g}, with an empty "
        f"sample {empty:.3g})"
    )


def _no_better_than_empty(evidence: Evidence) -> str | None:
    unexplained = _unexplained(evidence)
    return None if unexplained is None or unexplained <= _EMPTY else _contrast_text(evidence, unexplained)


def _unexplained_contrast(evidence: Evidence) -> str | None:
    unexplained = _unexplained(evidence)
    if unexplained is None or not _UNEXPLAINED < unexplained <= _EMPTY or _fall(evidence):
        return None
    return f"{_contrast_text(evidence, unexplained)}: the frames contradict each other"


def _too_few_epochs(evidence: Evidence) -> str | None:
    unexplained, fall = _unexplained(evidence), _fall(evidence)
    if unexplained is None or unexplained <= _UNEXPLAINED or not fall:
        return None
    return (
        f"{_contrast_text(evidence, unexplained)}, and the misfit fell by {fall:.0%} in the last quarter of the epochs"
    )


def _fall(evidence: Evidence) -> float | None:
    """Return by which part the misfit fell in the last quarter of the epochs; None if the fit had nearly ended."""
    history = evidence.solution.history
    if evidence.solution.status != "epochs_spent" or len(history) < 2:
        return None
    losses = [epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss for epoch in history]
    fall = 1 - losses[-1] / losses[-1 - max(1, len(losses) // 4)]
    return fall if fall > _FALL else None


def _half_acquisition(evidence: Evidence) -> str | None:
    angles_rad, position_m = np.unique(evidence.geometry.angle_rad), evidence.geometry.position_m
    full_turn = len(angles_rad) > 1 and np.ptp(angles_rad) + np.diff(angles_rad).max() >= _FULL_TURN * 2 * np.pi
    if not full_turn or np.ptp(position_m, axis=0).any():
        return None
    unexplained = _no_better_than_empty(evidence) or _unexplained_contrast(evidence) or _too_few_epochs(evidence)
    if not (unexplained or _stalled(evidence)):
        return None
    return "the angles span a full turn: the rotation axis may be near the edge of the frames (half acquisition)"


def _many_unfit(evidence: Evidence) -> str | None:
    unfit = evidence.unfit
    if len(unfit.views) <= _MOST_UNFIT * evidence.geometry.views:
        return None
    return f"{len(unfit.views)} of {evidence.geometry.views} frames do not fit: {unfit.text}"


def _few_unfit(evidence: Evidence) -> str | None:
    unfit = evidence.unfit
    if not len(unfit.views) or _many_unfit(evidence):
        return None
    return f"{len(unfit.views)} of {evidence.geometry.views} frames do not fit: {unfit.text}"


def _many_left_out(evidence: Evidence) -> str | None:
    left_out = int(np.isnan(evidence.frames.r_factors).sum())
    if evidence.solution.frame_misfits is None or left_out <= _MOST_LEFT_OUT * evidence.geometry.views:
        return None
    return f"{left_out} of {evidence.geometry.views} frames are left out, because they are dark or far too bright"


def _rising_validation(evidence: Evidence) -> str | None:
    history = evidence.solution.history
    losses = [epoch.held_back_loss for epoch in history if epoch.held_back_loss is not None]
    best = evidence.solution.best_epoch
    if not losses or best > _EARLY * len(history) or losses[-1] <= _RISE * min(losses):
        return None
    return f"the validation misfit rises from epoch {best} on, to {losses[-1] / min(losses):.3g} times its least"


RULES = (
    Rule(
        "divergence",
        "failed",
        "the fit diverged",
        "reduce the step; check energy, distance, positions and probe",
        _diverged,
    ),
    Rule(
        "stall",
        "failed",
        "the best misfit is above 0.9 of that of an empty volume",
        "check that the sample is in the beam; check exposure, energy, distance and orientation, and the sign and unit "
        "of the positions",
        _stalled,
    ),
    Rule(
        "R-factor",
        "failed",
        f"the R-factor is above {_HIGH_R_FACTOR:g}, and the residuals of neighbouring pixels are alike, unlike noise",
        f"{_SERIES}; check the single frames' R-factors",
        _high_r_factor,
    ),
    Rule(
        "empty sample",
        "failed",
        f"over {_EMPTY:.0%} of the contrast of the validation frames (of the fitted ones if none are held back) is not "
        "explained. Contrast is the sum of products of neighbouring pixels' residuals, less what noise may contribute; "
        "100% is that of the residuals with an empty sample",
        _SERIES,
        _no_better_than_empty,
    ),
    Rule(
        "contrast",
        "doubtful",
        f"over {_UNEXPLAINED:.0%} of this contrast is not explained",
        _SERIES,
        _unexplained_contrast,
    ),
    Rule(
        "epochs",
        "doubtful",
        f"over {_UNEXPLAINED:.0%} of this contrast is not explained, and the misfit fell by over {_FALL:.0%} in the "
        "last quarter of the epochs; then the rule contrast does not apply",
        f"use more epochs, also with this result as start_from; if the misfit ends as high, {_SERIES}",
        _too_few_epochs,
    ),
    Rule(
        "half acquisition",
        "doubtful",
        "the rule stall, empty sample, contrast or epochs applies, the angles span a full turn, and no view is "
        "translated from the others",
        "check the rotation axis in the notes and warnings; give its position along x from the middle of the frames, "
        "in pixels, as scan.axis_pixels in the recipe (docs/interchange.md, The rotation axis)",
        _half_acquisition,
    ),
    Rule(
        "frames that do not fit",
        "doubtful",
        f"over {_MOST_UNFIT:.0%} of the frames have an R-factor over {UNFIT_FACTOR:g} times the median and "
        f"{UNFIT_DEVIATIONS:g} robust standard deviations (of its logarithm) above it",
        "look at these frames; correct their angle or position, or omit them from the scan",
        _many_unfit,
    ),
    Rule(
        "a few frames that do not fit",
        "good",
        "fewer frames have such an R-factor",
        "look at these frames; they have little influence on the volume",
        _few_unfit,
    ),
    Rule(
        "frames left out",
        "doubtful",
        f"over {_MOST_LEFT_OUT:.0%} of the frames are left out of the fit",
        "check shutter, beam and detector during the scan",
        _many_left_out,
    ),
    Rule(
        "validation",
        "doubtful",
        f"the validation misfit is least in the first {_EARLY:.0%} of the epochs and ends over {_RISE:g} times higher",
        f"the volume hardly fits frames that it has not seen; {_SERIES}, or increase the regularisation",
        _rising_validation,
    ),
)
"""The rules of the verdict."""
