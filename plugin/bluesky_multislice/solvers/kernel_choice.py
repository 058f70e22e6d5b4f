"""Which kernels a job computes with: fused ones where they agree with the general ones on its device."""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

from bluesky_multislice.errors import JobError
from bluesky_multislice.optics import KernelChoice, Kernels, Part, kernels_in_use, use_kernels
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.kernel_cases import CASES, Pairs, largest_difference

_log = logging.getLogger(__name__)

AGREEMENT = 1e-5
"""Largest relative difference from the general kernels, in values and gradients, at which fused ones serve.

Rounding makes some 1e-7 to 1e-6.
"""

_SOURCES = (
    "optics/triton_slices.py",
    "optics/triton_turns.py",
    "optics/graphs.py",
    "solvers/optimisers/triton_descent.py",
)


def choose_kernels(asked: Kernels, mesh: Mesh) -> KernelChoice:
    """Choose the kernels of this process, and use them from now on; every rank calls it, and all choose alike.

    The first time on a device, small random cases are computed by both; their differences are kept in the user's cache
    folder for the next time.

    Args:
        asked: what the recipe says.
        mesh: the ranks.

    Raises:
        JobError: fused kernels are asked for, and Triton or an accelerator is missing or they do not agree.
    """
    device = mesh.device
    if (kernels_in_use().asked, kernels_in_use().device_type) != (asked, device.type):
        use_kernels(_choice(asked, device, mesh.largest))
        _log.info("kernels: %s", kernels_in_use())
    return kernels_in_use()


def _choice(asked: Kernels, device: torch.device, largest: Callable[[float], float]) -> KernelChoice:
    missing = _missing(device)
    if asked == "general":
        return KernelChoice(asked, (), "asked for", device.type)
    if missing or (asked == "auto" and device.type == "cpu"):
        if asked == "fused":
            raise JobError(
                "Fused kernels need Triton and an accelerator that it compiles for.",
                got=f"{missing}.",
                remedy="ask for kernels auto or general, or install triton beside torch's build for the accelerator.",
            )
        return KernelChoice(asked, (), missing or "the job computes on processors", device.type)
    own = kept_or_compared(device, _compared)
    # All ranks see the largest of their differences, and choose alike.
    return of_differences(asked, {part: largest(difference) for part, difference in own.items()}, device.type)


def of_differences(
    asked: Literal["auto", "fused"], differences: Mapping[Part, float], device_type: str
) -> KernelChoice:
    """Return the choice where fused kernels differ so much, by part, from the general ones.

    Raises:
        JobError: fused kernels are asked for and do not agree. Graphs, which they can do without, may fail.
    """
    listed = ", ".join(f"{difference:.1e} ({part})" for part, difference in differences.items())
    agreeing: tuple[Part, ...] = tuple(part for part in differences if differences[part] <= AGREEMENT)
    if asked == "fused" and not {*agreeing, "graphs"} >= differences.keys():
        raise JobError(
            "Fused kernels agree with the general ones where they are asked for.",
            got=f"relative differences of {listed}; {AGREEMENT:g} is allowed.",
            remedy="ask for kernels auto or general, and report this with the versions of driver, torch and triton.",
        )
    reason = f"relative differences from the general kernels are {listed}; {AGREEMENT:g} is allowed"
    return KernelChoice(asked, agreeing, reason, device_type, dict(differences))


def _missing(device: torch.device) -> str:
    """Return what fused kernels lack on a device; nothing where they can be compiled for it."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from triton import knobs

    return "there is no accelerator" if device.type == "cpu" and not knobs.runtime.interpret else ""


def kept_or_compared(device: torch.device, compare: Callable[[torch.device], dict[Part, float]]) -> dict[Part, float]:
    """Return by part how far fused kernels are from the general ones, as it is kept of an earlier start, or compared.

    Args:
        device: where.
        compare: returns it.
    """
    key, file = _key(device), _cache_file()
    kept = _read(file).get(key)
    cases = _cases(device)
    if isinstance(kept, dict) and kept.keys() == cases.keys():
        return {part: float(kept[part]) for part in cases}
    found = compare(device)
    if max(found.values()) < float("inf"):
        _write(file, key, found)
    return found


def _cases(device: torch.device) -> dict[Part, Callable[[torch.device], Pairs]]:
    """Return what is compared on a device: graphs are captured by accelerators only."""
    return {part: cases for part, cases in CASES.items() if part != "graphs" or device.type != "cpu"}


def _compared(device: torch.device) -> dict[Part, float]:
    """Return by part how far fused kernels are from the general ones; infinitely where they fail."""
    before, found = kernels_in_use(), {}
    try:
        for part, cases in _cases(device).items():
            found[part] = _difference(part, cases, device)
            agreeing = tuple(each for each, difference in found.items() if difference <= AGREEMENT)
            use_kernels(KernelChoice("fused", agreeing, "being compared", device.type))
    finally:
        use_kernels(before)
    return found


def _difference(part: Part, cases: Callable[[torch.device], Pairs], device: torch.device) -> float:
    try:
        return largest_difference(cases(device))
    except Exception as error:  # Whatever a compiler or driver raises, the general kernels serve.
        _log.warning("fused kernels for %s cannot be compared: %s: %s", part, type(error).__name__, error)
        return float("inf")


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return "Triton's interpreter"
    return torch.get_device_module(device).get_device_properties(device).name


def _driver(device: torch.device) -> str:
    """Return the version of the driver, as far as it is to be known."""
    own = (
        ""
        if device.type == "cpu"
        else getattr(torch.get_device_module(device).get_device_properties(device), "driver_version", "")
    )
    found = [str(own)]
    for module in ("nvidia", "amdgpu"):
        with suppress(OSError):
            found.append(Path(f"/sys/module/{module}/version").read_text().strip())
    return " ".join(part for part in found if part)


def _key(device: torch.device) -> str:
    """Return what an agreement depends on: device, driver, versions, and the kernels' text."""
    package = Path(__file__).parents[1]
    sources = hashlib.sha256(b"".join((package / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "triton", "bluesky-multislice"))
    return "; ".join((_name(device), f"driver {_driver(device)}", *versions, f"kernels {sources}"))


def _cache_file() -> Path | None:
    """Return where differences are kept: in the user's cache folder, where there is one."""
    folder = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):
        return Path(folder or Path.home() / ".cache") / "bluesky-multislice" / "kernels.json"
    return None


def _read(file: Path | None) -> dict:
    """Return what is kept; nothing where the file is missing, torn or not ours."""
    with suppress(OSError, ValueError):
        kept = json.loads(file.read_text()) if file else {}
        return kept if isinstance(kept, dict) else {}
    return {}


def _write(file: Path | None, key: str, differences: Mapping[Part, float]) -> None:
    """Keep differences; a folder that cannot be written only costs the comparison next time."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Put in its place whole: another rank may read it meanwhile.
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
            json.dump(_read(file) | {key: dict(differences)}, new)
        os.replace(new.name, file)
