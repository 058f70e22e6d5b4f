"""Kernels that a GPU would launch per slice, forward and adjoint, and passes over the wave: counted, not timed.

``python tests/benchmarks/launches_benchmark.py`` counts on the emulated device, anywhere. What one slice more takes is
the difference of objects of 12 and of 4 slices, over 8. A pass is all waves of the batch read or written once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import emulated_device

if __name__ == "__main__":
    emulated_device.install()

import torch

from bluesky_multislice.optics import PROPAGATIONS

VIEWS, N, PLANE = 4, 64, 80
LIGHT = {"wavelength_m": 1e-10, "pixel_size_m": 1e-8, "slice_thickness_m": 1e-7}
WINDOWS = {"whole planes": None, "windows": [(0, 0), (3, 9), (9, 1), (16, 16)]}


def counted(propagation: str, slices: int, windows: str, **options: str) -> tuple[int, int]:
    """Return launches and bytes of a forward pass and its gradients in wave, δ and β."""
    side = N if WINDOWS[windows] is None else PLANE
    wave = torch.ones(VIEWS, N, N, dtype=torch.complex64, device="cuda").requires_grad_()
    parts = [torch.full((slices, side, side), part, device="cuda").requires_grad_() for part in (1e-6, 1e-8)]
    found = PROPAGATIONS[propagation]
    for _ in range(2):  # What is kept for later calls is made in the first.
        emulated_device.LOG.clear()
        found(wave, *parts, windows=WINDOWS[windows], **LIGHT, **options).abs().sum().backward()
    log = emulated_device.LOG
    return sum(log.operators.values()), sum(log.bytes.values())


def main() -> None:
    """Print the table."""
    print(f"{VIEWS} views of {N}²; planes of {N}², or of {PLANE}² with windows; {torch.__version__}\n")
    print("| propagation | waves | planes | launches per slice | passes over the wave per slice |")
    print("| --- | --- | --- | ---: | ---: |")
    ways = [("multislice", {"gradient": way}) for way in ("stored", "recomputed", "checkpointed")]
    for propagation, options in [*ways, ("finite-difference", {})]:
        for windows in WINDOWS:
            (more, more_bytes), (less, less_bytes) = (
                counted(propagation, slices, windows, **options) for slices in (12, 4)
            )
            passes = (more_bytes - less_bytes) / 8 / (VIEWS * N * N * 8)
            way = options.get("gradient", "")
            print(f"| {propagation} | {way} | {windows} | {(more - less) / 8:.1f} | {passes:.1f} |")


if __name__ == "__main__":
    main()
