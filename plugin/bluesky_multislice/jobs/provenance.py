"""Provenance of a reconstruction: input files, recipe, plan, software and machine."""

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bluesky_multislice.files import file_record, frame_files
from bluesky_multislice.optics import kernels_in_use
from bluesky_multislice.optics.accelerator import device_name
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.reconstruction import Reconstruction

_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def software() -> dict[str, str]:
    """Return the software versions that can affect a reconstruction, by package name."""
    versions = {name: version(name) for name in ("bluesky-multislice", "torch", "numpy", "h5py")}
    return versions | {"python": platform.python_version()}


@dataclass(frozen=True)
class JobRun:
    """How a job ran.

    Attributes:
        mesh: the ranks.
        seconds: duration of the job, s.
        peak_memory_bytes: largest memory use of any rank; the plan contains the predicted value.
        events: checkpoint events: resumed epochs and warnings.
    """

    mesh: Mesh
    seconds: float
    peak_memory_bytes: int
    events: Sequence[Mapping[str, Any]] = ()


def make_provenance(job: Mapping[str, Any], result: Reconstruction, *, frames: Path, run: JobRun) -> dict[str, Any]:
    """Return the provenance of a reconstruction as a record that JSON can store.

    Args:
        job: content of ``job.json``: recipe, plan and the scan's origin.
        result: the reconstruction.
        frames: the interchange file that the job read.
        run: how the job ran.
    """
    warnings = [event["warning"] for event in run.events if "warning" in event]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "origin": job["origin"],
        "recipe": job["recipe"],
        "plan": job["plan"],
        "inputs": [file_record(path) for path in frame_files(frames)],
        "software": software(),
        "machine": _machine(run),
        "warnings": [*result.warnings, *warnings],
        "notes": list(result.plan.notes),
        "figures": _figures(result) | {"seconds": run.seconds},
    }


def _machine(run: JobRun) -> dict[str, Any]:
    resumed, device = [event["resumed"] for event in run.events if "resumed" in event], run.mesh.device
    return {
        "host": socket.gethostname(),
        "device": device_name(device) or platform.machine(),
        "device_type": device.type,
        "ranks": run.mesh.size,
        "threads_per_rank": torch.get_num_threads(),
        "kernels": kernels_in_use().as_dict(),
        "peak_memory_bytes": run.peak_memory_bytes,
        # Neither count is complete: a restart may find no checkpoint, and a manual restart sets no variable.
        "restarts": max(len(resumed), sum(int(os.environ.get(name, "0")) for name in _RESTARTS)),
        "resumed": resumed,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _figures(result: Reconstruction) -> dict[str, Any]:
    solution, agreement = result.solution, result.shell_correlation
    return {
        "model": result.plan.propagation,
        **result.verdict.as_dict(),
        "status": solution.status,
        "advice": solution.advice,
        "epochs": len(solution.history),
        "best_epoch": solution.best_epoch,
        "r_factor": solution.r_factor,
        "held_back_r_factor": solution.held_back_r_factor,
        "saturated_pixels": result.saturated_pixels,
        "depth_of_field_m": result.plan.grid.thickness_m / result.plan.depths_of_field,
        "depths_of_field": result.plan.depths_of_field,
        "half_bit_resolution_m": agreement.resolution_m if agreement else None,
        "start": result.start,
        "probe_modes": len(solution.probe),
        "total_variation": result.plan.fit.priors.weight_of("total_variation"),
        "penalties": dict(solution.penalties),
        "aligned_pixels": result.alignment.largest_pixels if result.alignment else None,
        "axis_pixels": result.axis_pixels,
        "refined": {name: _size(value) for name, value in solution.differences.items()},
    }


def _size(difference: Tensor) -> dict[str, float]:
    """Return the size of the difference between a refined quantity and the scan's value."""
    return {"rms": float(difference.square().mean().sqrt()), "largest": float(difference.abs().max())}
