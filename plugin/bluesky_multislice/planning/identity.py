"""Identity of a checkpoint: digests of the scan, and of the plan's volume and fits."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from bluesky_multislice.measurement import Scan
from bluesky_multislice.planning.plan import Plan

_MACHINE_DEPENDENT = (
    "ranks",
    "slabs",
    "lanes",
    "whole_angles",
    "device",
    "memory_bytes",
    "frames_in",
    "batches_ahead",
    "angles_at_once",
    "frame_tiles",
    "gradient",
    "notes",
    "checkpoint_every",
    "kernels",
    "batch_views",
    "batches_per_lane",
    "earlier",
)
"""Fields of a plan that may differ between machines without changing the volume.

Exceptions are the order of sums and the accuracy of tile halos.
"""


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
    geometry = asdict(scan.geometry)
    return {
        "scan": _digest([geometry, list(source.shape), frames.hexdigest()]),
        "plan": _digest([_essence(stage.as_dict()) for stage in (*plan.earlier, plan)]),
    }


def _essence(plan: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in plan.items() if name not in _MACHINE_DEPENDENT}
    return kept | {"fit": {name: value for name, value in plan["fit"].items() if name not in _MACHINE_DEPENDENT}}


def _digest(values: list[Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=np.ndarray.tolist)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
