"""Choice of a job's kernels: fused kernels if they agree with the general ones on its device."""

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

from bluesky_multislice.choices import Kernels
from bluesky_multislice.errors import JobError
from bluesky_multislice.optics import KernelChoice, Part, kernels_in_use, use_kernels
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.kernel_cases import CASES, Pairs, largest_difference

_log = logging.getLogger(__name__)

AGREEMENT = 1e-5
"""Largest relative difference from the general kernels, in values and gradients, at which fused kernels are used.

Rounding causes differences of 1e-7 to 1e-6.
"""

_SOURCES = (
    "optics/triton_slices.py",
    "optics/triton_rotation.py",
    "optics/graphs.py",
    "solvers/optimisers/triton_descent.py",
)


def choose_kernels(asked: Kernels, mesh: Mesh) -> KernelChoice:
    """Choose the kernels of this process; collective call, with the same result on all ranks.

    At the first start on a device, both sets of kernels compute small random cases. Their differences are cached in the
    user's cache folder.

    Args:
        asked: the recipe's ``kernels``.
        mesh: the ranks.

    Raises:
        JobError: the recipe requires fused kernels, but Triton or an accelerator is missing, or the kernels disagree.
    """
    device = mesh.device
    if (kernels_in_use().asked, kernels_in_use().device_type) != (asked, device.type):
        use_kernels(_choice(asked, device, mesh.largest))
        _log.info("kernels: %s", kernels_in_use())
    return kernels_in_use()


def _choice(asked: Kernels, device: torch.device, largest: Callable[[float], float]) -> KernelChoice:
    if asked == "general":
        return KernelChoice(asked, (), "asked for", device.type)
    if asked == "auto" and device.type == "cpu":
        return KernelChoice(asked, (), "the job computes on processors", device.type)
    if missing := _missing(device):
        if asked == "fused":
            raise JobError(
                "Fused kernels need Triton and an accelerator that it supports.",
                got=f"{missing}.",
                remedy="use kernels auto or general, or install the triton version of torch's accelerator build.",
            )
        return KernelChoice(asked, (), missing, device.type)
    own = cached_or_measured_differences(device, _measure_differences)
    # The maximum over the ranks gives all ranks the same choice.
    return choice_from_differences(asked, {part: largest(difference) for part, difference in own.items()}, device.type)


def choice_from_differences(
    asked: Literal["auto", "fused"], differences: Mapping[Part, float], device_type: str
) -> KernelChoice:
    """Return the kernels to use for these differences between fused and general kernels, by part.

    Raises:
        JobError: the recipe requires fused kernels and they disagree. Graphs may disagree, because they are optional.
    """
    listed = ", ".join(f"{difference:.1e} ({part})" for part, difference in differences.items())
    agreeing: tuple[Part, ...] = tuple(part for part in differences if differences[part] <= AGREEMENT)
    if asked == "fused" and not {*agreeing, "graphs"} >= differences.keys():
        raise JobError(
            "Fused kernels must agree with the general ones.",
            got=f"relative differences of {listed}; {AGREEMENT:g} is allowed.",
            remedy="use kernels auto or general, and report this with the versions of driver, torch and triton.",
        )
    reason = f"relative differences from the general kernels are {listed}; {AGREEMENT:g} is allowed"
    return KernelChoice(asked, agreeing, reason, device_type, dict(differences))


def _missing(device: torch.device) -> str:
    """Return the reason why fused kernels are unavailable on a device; empty if they are available."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from triton import knobs

    return "there is no accelerator" if device.type == "cpu" and not knobs.runtime.interpret else ""


def cached_or_measured_differences(
    device: torch.device, compare: Callable[[torch.device], dict[Part, float]]
) -> dict[Part, float]:
    """Return the differences between fused and general kernels, by part, from the cache or else by comparison.

    Args:
        device: the device.
        compare: measures the differences.
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
    """Return the cases to compare on a device; only accelerators capture graphs."""
    return {part: cases for part, cases in CASES.items() if part != "graphs" or device.type != "cpu"}


def _measure_differences(device: torch.device) -> dict[Part, float]:
    """Measure the differences between fused and general kernels, by part; infinite if fused kernels fail."""
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
    except Exception as error:  # After any error of a compiler or driver, the general kernels are used.
        _log.warning("fused kernels for %s cannot be compared: %s: %s", part, type(error).__name__, error)
        return float("inf")


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return "Triton's interpreter"
    return torch.get_device_module(device).get_device_properties(device).name


def _driver(device: torch.device) -> str:
    """Return the version of the driver, as far as the system reports it."""
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
    """Return the cache key: device, driver, versions, and the source of the kernels."""
    package = Path(__file__).parents[1]
    sources = hashlib.sha256(b"".join((package / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "triton", "bluesky-multislice"))
    return "; ".join((_name(device), f"driver {_driver(device)}", *versions, f"kernels {sources}"))


def _cache_file() -> Path | None:
    """Return the cache file in the user's cache folder; None without such a folder."""
    folder = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):
        return Path(folder or Path.home() / ".cache") / "bluesky-multislice" / "kernels.json"
    return None


def _read(file: Path | None) -> dict:
    """Return the cached differences; empty if the file is missing, incomplete or invalid."""
    with suppress(OSError, ValueError):
        kept = json.loads(file.read_text()) if file else {}
        return kept if isinstance(kept, dict) else {}
    return {}


def _write(file: Path | None, key: str, differences: Mapping[Part, float]) -> None:
    """Cache the differences; without write access, the next start repeats the comparison."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Replaced atomically, because another rank may read the file at the same time.
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
            json.dump(_read(file) | {key: dict(differences)}, new)
        os.replace(new.name, file)
