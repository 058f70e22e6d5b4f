"""Three slices from one angle: this package beside Pty-Chi's LSQML and autodiff engines, on the same frames in one run.

Start it with the extra ``benchmark`` installed: ``PYTHONPATH=tests OMP_NUM_THREADS=1 python
tests/benchmarks/two_dimensional_multislice_benchmark.py``. Frames come from a simulation that uses neither package: 324
positions, 128² patterns, a window twice as wide. All start from the same probe, a tenth of its distance from the focus
off, and refine it, in one mode. The table has, for each, the processor time until all three slices correlate with the
truth to so much, and the correlations and the residual of frames held back at the end. Pty-Chi has its defaults, but
the best batches and Adam's step of a few, and twice the epochs.
"""

import contextlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from three_slices import PIXEL_M, WAVELENGTH_M, ThreeSlices, propagated

from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import Unknowns, fit, load_views, split_views

HELD_BACK_EVERY = 20


LEVELS = (0.93, 0.94, 0.945, 0.95, 0.955)


@dataclass
class Course:
    """What a package reaches: seconds, correlations and the held-back residual after each measurement."""

    name: str
    rows: list[tuple[float, list[float], float]]

    def show(self) -> None:
        """Print when the worst slice reached each level, and what was reached in the end."""
        reached = [next((f"{row[0]:.1f} s" for row in self.rows if min(row[1]) >= level), "–") for level in LEVELS]
        seconds, correlations, residual = self.rows[-1]
        slices = "  ".join(f"{value:.3f}" for value in correlations)
        columns = "".join(f"{time:>9}" for time in reached)
        print(f"{self.name:24}{columns}   {slices}   {residual:.4f}   {seconds:.0f} s", flush=True)


def ours(sample: ThreeSlices, epochs: int, **recipe: object) -> Course:
    """Fit with this package."""
    scan = sample.scan()
    chosen = {"depth_um": sample.depth_um, "slices": 3, "epochs": epochs, "probe_modes": 1}
    # One process gains nothing by batches that ranks could share.
    chosen |= {"ranks": 1, "device": "cpu", "batches_per_step": 1}
    plan = make_plan(Recipe(held_back_every=HELD_BACK_EVERY, **{**chosen, **recipe}), scan)
    rows, spent = [], 0.0
    began = time.process_time()
    with join_mesh("cpu") as mesh:
        scale = float(sample.counts.mean())
        first = torch.from_numpy(scan.probe) / math.sqrt(scale)
        unknowns = Unknowns(plan.forward_model(scan.geometry), first, plan.fit, mesh.device)
        sets = [
            load_views(scan, views, scale=scale, device=mesh.device, lane=np.arange(len(views)) % plan.lanes)
            for views in split_views(len(sample.counts), HELD_BACK_EVERY)
        ]

        def measure(epoch: object) -> None:
            nonlocal spent
            now = time.process_time()
            radians = (unknowns.object.detach().double() / 3).numpy()
            patterns = unknowns.expected_intensity(sets[1].views).detach() * scale
            residual = _residual(patterns.numpy(), sample.counts[sets[1].views])
            rows.append((now - began - spent, sample.correlations(np.exp(-1j * radians[0] - radians[1])), residual))
            spent += time.process_time() - now

        fit(unknowns, *sets, mesh, measure)
    return Course(f"this package, {epochs} epochs", rows)


def _residual(expected: NDArray, measured: NDArray) -> float:
    """Return Σ|√I − √I_model|/Σ√I."""
    return float(np.abs(np.sqrt(measured) - np.sqrt(expected)).sum() / np.sqrt(measured).sum())


def pty_chi(
    sample: ThreeSlices,
    engine: str,
    epochs: int,
    batch: int,
    *,
    step: float = 0.02,
    clock: Callable[[], float] = time.process_time,
) -> Course:
    """Fit with an engine of Pty-Chi.

    Args:
        sample: what was measured.
        engine: ``LSQML`` or ``autodiff``.
        epochs: how many.
        batch: views a batch.
        step: of autodiff's Adam: of the object, and of the probe relative to its root mean square.
        clock: what tells the seconds.
    """
    import ptychi.api as api
    from ptychi.api.task import PtychographyTask

    options = {"LSQML": api.LSQMLOptions, "autodiff": api.AutodiffPtychographyOptions}[engine]()
    fitted, held = split_views(len(sample.counts), HELD_BACK_EVERY)
    # Its Fourier transform is not unitary: the probe is N times smaller.
    first = sample.first_probe(-sample.spacing) / sample.window
    options.data_options.wavelength_m = WAVELENGTH_M
    parts = options.object_options, options.probe_options, options.reconstructor_options
    parts[0].pixel_size_m = PIXEL_M
    parts[0].slice_spacings_m = [sample.spacing_m] * 2
    parts[2].num_epochs, parts[2].batch_size = epochs, batch
    parts[2].default_device, parts[2].random_seed = api.Devices.CPU, 0
    if engine == "autodiff":
        for part, unit in zip(parts[:2], (1.0, float(np.sqrt(np.mean(np.abs(first) ** 2)))), strict=True):
            part.optimizer, part.step_size = api.Optimizers.ADAM, step * unit
    size = int(2 * np.ceil(np.abs(sample.position).max()) + sample.window + 4)
    began, spent, rows = clock(), 0.0, []
    task = PtychographyTask(
        options,
        diffraction_data=sample.counts[fitted],
        object_data=np.ones((3, size, size), np.complex64),
        probe_data=first[None, None],
        probe_position_x_px=sample.position[fitted, 1].astype(np.float32),
        probe_position_y_px=sample.position[fitted, 0].astype(np.float32),
    )
    for _ in range(epochs):
        task.run(1)
        now = clock()
        slices = task.get_data_to_cpu("object", as_numpy=True)
        wave = task.get_data_to_cpu("probe", as_numpy=True)[0, 0] * sample.window
        residual = _residual(_predicted(slices, wave, sample, sample.position[held]), sample.counts[held])
        rows.append((now - began - spent, sample.correlations(slices), residual))
        spent += clock() - now
    return Course(f"Pty-Chi {engine}, {epochs}", rows)


def _predicted(slices: NDArray, wave: NDArray, sample: ThreeSlices, positions: NDArray) -> NDArray:
    """Return the patterns (view, y, x) of Pty-Chi's answer: its middle is pixel round(n/2) − ½, its probe's n/2 − ½."""
    n = sample.window
    f = np.fft.fftfreq(n)
    frames = []
    for place in positions:
        first = place + np.round(slices.shape[-1] / 2) - 0.5 - (n - 1) / 2
        start = np.round(first).astype(int)
        part = first - start
        shifted = np.fft.ifft2(np.fft.fft2(wave) * np.exp(-2j * np.pi * (f[:, None] * part[0] + f * part[1])))
        for number, transmission in enumerate(slices):
            shifted = propagated(shifted, sample.spacing) if number else shifted
            shifted = shifted * transmission[start[0] : start[0] + n, start[1] : start[1] + n]
        frames.append(np.abs(np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"))) ** 2)
    return np.stack(frames)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    sample = ThreeSlices()
    print(f"{'':24}{''.join(f'{level:9}' for level in LEVELS)}   slices 1, 2 and 3     held back")
    runs: list[Callable[[], Course]] = [
        lambda: ours(sample, 24),
        lambda: ours(sample, 48),
        lambda: pty_chi(sample, "LSQML", 48, 8),
        lambda: pty_chi(sample, "autodiff", 96, 16),
    ]
    for run in runs:
        with contextlib.redirect_stderr(io.StringIO()):
            course = run()
        course.show()


if __name__ == "__main__":
    main()
