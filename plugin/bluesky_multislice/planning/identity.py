"""Identity of a checkpoint: digests of the scan, and of the parts of the plan that determine the numbers."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from bluesky_multislice.measurement import Scan
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.planning.plan_parts import IDENTITY_PARTS, STEP_SIZES


def identity(scan: Scan, plan: Plan) -> dict[str, str]:
    """Return digests of the scan and of the plan, independent of the machine.

    The digest includes only the first, the middle and the last stored frame, because reading all would take too long.

    Args:
        scan: the scan.
        plan: the plan.
    """
    source = scan.frames.source
    rows = sorted({0, source.shape[0] // 2, source.shape[0] - 1})
    frames = hashlib.sha256(np.ascontiguousarray(scan.frames.mask).tobytes())
    for row in rows:
        frames.update(np.ascontiguousarray(source[row : row + 1]).tobytes())
    if scan.probe is not None:
        frames.update(np.ascontiguousarray(scan.probe).tobytes())
    if scan.former is not None:
        frames.update(scan.former.digest.encode())
    geometry = asdict(scan.geometry)
    return {
        "scan": _digest([geometry, list(source.shape), frames.hexdigest()]),
        "plan": _digest([_changes_numbers(stage) for stage in (*plan.earlier, plan)]),
    }


def _changes_numbers(plan: Plan) -> dict[str, Any]:
    """Return the fields of a plan that determine the reconstructed numbers."""
    parts = plan.as_dict()
    kept = {name: value for part in IDENTITY_PARTS for name, value in parts[part.part].items()}
    return kept | {"fit": {name: value for name, value in kept["fit"].items() if name not in STEP_SIZES}}


def _digest(values: list[Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=np.ndarray.tolist)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
