"""Holograms at several distances: frames out of line, and a cone beam of one and of two magnifications.

Start it: ``OMP_NUM_THREADS=1 python tests/benchmarks/distances_benchmark.py [voxels a side [angles]]``, 64 and 32 where
left out. The simulation uses no model of ours: FINER samples a voxel along every axis, double precision, every plane a
slice, cubic splines to turn the sample, a field twice as wide as the frames, and pixels that take the mean of what
falls on them. Everything is fitted as planned, and with a weight on the magnitude of δ, as there is vacuum around.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry, VolumeGrid
from bluesky_multislice.models import resample
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.solvers import Solution

VOXEL_M, FINER, WAVELENGTH = 1e-9, 2, 1.0
DISTANCES = (100, 130, 170, 220)
MAGNIFICATIONS = (6.0, 4.0)
PIXEL_SPREAD = 0.29
"""σ of a square pixel, in pixels."""

CHOICES: tuple[dict[str, object], ...] = ({}, {"l1": 1e-3})


@dataclass(frozen=True)
class Phantom:
    """Soft balls in the middle of the field; lengths in voxels.

    Attributes:
        size: voxels a side.
        angles: over half a turn.
        reach: of the balls, part of the size.
    """

    size: int
    angles: int
    reach: float = 0.34

    def sampled(self, finer: int) -> NDArray[np.float64]:
        """Return δ (z, y, x) with ``finer`` samples a voxel."""
        random = np.random.default_rng(7)
        at = (np.arange(self.size * finer) - (self.size * finer - 1) / 2) / finer
        volume = np.zeros((len(at),) * 3)
        for _ in range(50):
            radius = random.uniform(0.04, 0.09) * self.size
            away, turn = (self.reach * self.size - radius) * np.sqrt(random.uniform()), random.uniform(0, 2 * np.pi)
            height = random.uniform(-1, 1) * (self.reach * self.size - radius)
            middle = away * np.sin(turn), height, away * np.cos(turn)
            squared = [(at - place) ** 2 for place in middle]
            distance = np.sqrt(squared[0][:, None, None] + squared[1][:, None] + squared[2])
            volume = np.maximum(volume, 8e-3 * random.uniform(0.4, 1) / (1 + np.exp(2 * (distance - radius))))
        return volume

    def angles_rad(self) -> NDArray[np.float64]:
        """Return (angle,) the turns of the sample."""
        return np.arange(self.angles) * np.pi / self.angles

    def fields(self, distances: Sequence[float], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the intensity (angle, distance, y, x) on the fine field at each distance, moved by its shift."""
        sample = ndimage.spline_filter1d(ndimage.spline_filter1d(self.sampled(FINER), axis=0), axis=2)
        return np.stack([self._fields(_turned(sample, angle), distances, shifts) for angle in self.angles_rad()])

    def _fields(
        self, delta: NDArray[np.float64], distances: Sequence[float], shifts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        fine, pitch = len(delta), 1 / FINER
        n, edge = 2 * fine, fine // 2
        f = np.fft.fftfreq(n, pitch)
        rate = 2j * np.pi / WAVELENGTH * (np.sqrt((1 - WAVELENGTH**2 * (f[:, None] ** 2 + f**2)).astype(complex)) - 1)
        wave, inside = np.ones((n, n), complex), slice(edge, edge + fine)
        for number, plane in enumerate(delta):
            wave[inside, inside] *= np.exp((1j + 0.05) * -2 * np.pi / WAVELENGTH * pitch * plane)
            if number < fine - 1:
                wave = fft.ifft2(fft.fft2(wave, overwrite_x=True) * np.exp(pitch * rate), overwrite_x=True)
        spectrum, found = fft.fft2(wave), []
        for distance, (y, x) in zip(distances, shifts, strict=True):
            way = (distance - (fine - 1) * pitch / 2) * rate - 2j * np.pi * (f[:, None] * y + f * x)
            found.append(np.abs(fft.ifft2(spectrum * np.exp(way))) ** 2)
        return np.stack(found)


def _turned(coefficients: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Return the sample (z, y, x) turned about y, from the spline coefficients of its planes (z, x)."""
    n = len(coefficients)
    along = np.arange(n) - (n - 1) / 2
    z, x = np.meshgrid(along, along, indexing="ij")
    seen = (x * np.sin(angle) + z * np.cos(angle), x * np.cos(angle) - z * np.sin(angle))
    where = [part + (n - 1) / 2 for part in seen]
    planes = [ndimage.map_coordinates(part, where, prefilter=False) for part in coefficients.swapaxes(0, 1)]
    return np.stack(planes, axis=1).clip(min=0)


def pixels(fields: NDArray[np.float64], samples: int, size: int) -> NDArray[np.float32]:
    """Return frames (..., size, size) from the middle of fields, of pixels ``samples`` samples wide."""
    n = fields.shape[-1]
    first = (n - samples * size) // 2
    middle = fields[..., first : first + samples * size, first : first + samples * size]
    return middle.reshape(*fields.shape[:-2], size, samples, size, samples).mean((-1, -3)).astype(np.float32)


def scan_of(phantom: Phantom, frames: Sequence[NDArray[np.float32]], distances: Sequence[float]) -> Scan:
    """Return the parallel-beam scan of frames (angle, y, x) at each distance."""
    n, each = frames[0].shape[-1], len(distances)
    geometry = ScanGeometry(
        technique="holography",
        beam=Beam(WAVELENGTH * VOXEL_M),
        detector=Detector((n, n), (VOXEL_M, VOXEL_M), "near_field"),
        distance_m=np.tile(np.array(distances) * VOXEL_M, phantom.angles),
        angle_rad=np.repeat(phantom.angles_rad(), each),
        position_m=np.zeros((phantom.angles * each, 2)),
    )
    return Scan(geometry, Frames(np.stack(frames, 1).reshape(-1, n, n)))


def in_cone_beam(scan: Scan, magnifications: Sequence[float]) -> Scan:
    """Return the scan with the same effective distances by a point source, its detector as fine at the largest."""
    geometry, finest = scan.geometry, max(magnifications)
    m = np.tile(magnifications, geometry.views // len(magnifications))
    distance_m = geometry.effective_distance_m * m
    beam = replace(geometry.beam, focus_distance_m=tuple((distance_m / (m - 1)).tolist()))
    detector = replace(geometry.detector, pixel_size_m=(finest * VOXEL_M, finest * VOXEL_M))
    return replace(scan, geometry=replace(geometry, beam=beam, distance_m=distance_m, detector=detector))


def fitted(name: str, scan: Scan, truth: NDArray, **recipe: object) -> tuple[Solution, NDArray[np.float32]]:
    """Reconstruct, print the error of δ, and return the solution and δ on the truth's voxels."""
    chosen = {"ranks": 1, "device": "cpu", "point_spread_pixels": PIXEL_SPREAD, **recipe}
    plan = make_plan(Recipe.model_validate(chosen), scan)
    start = time.process_time()
    with join_mesh("cpu") as mesh:
        result = reconstruct(scan, plan, mesh)
    delta = resample(result.solution.delta, result.grid, VolumeGrid(truth.shape, (VOXEL_M,) * 3)).numpy()
    error = np.linalg.norm(delta - truth) / np.linalg.norm(truth)
    seconds = time.process_time() - start
    print(f"{name:44}{error:8.4f}  {seconds:4.0f} s of one core, epoch {result.solution.best_epoch}", flush=True)
    return result.solution, delta


def out_of_line(phantom: Phantom) -> None:
    """Print what frames of four distances give in line, and out of line: shifts unknown, refined and known."""
    truth = _mean(phantom)
    shifts = np.random.default_rng(3).uniform(-2, 2, (len(DISTANCES), 2))
    shifts[0] = 0
    in_line, moved = (
        scan_of(phantom, list(pixels(phantom.fields(DISTANCES, each), FINER, phantom.size).swapaxes(0, 1)), DISTANCES)
        for each in (0 * shifts, shifts)
    )
    # A sample that is moved one way has its frame moved the other way.
    position_m = -np.tile(shifts, (phantom.angles, 1)) * VOXEL_M
    known = replace(moved, geometry=replace(moved.geometry, position_m=position_m))
    refine = {"refine": {"quantities": ["distance_shift"]}}
    for choice in CHOICES:
        _title("four distances", phantom, choice)
        for name, scan, recipe in (
            ("in line", in_line, {}),
            ("shifts up to 2 pixels, unknown", moved, {}),
            ("shifts up to 2 pixels, refined", moved, refine),
            ("shifts up to 2 pixels, known", known, {}),
        ):
            found = fitted(name, scan, truth, **recipe, **choice)[0].differences.get("distance_shift")
            if found is not None:
                left = (found.cpu().numpy() / VOXEL_M - shifts)[1:]
                print(
                    f"{'':44}shifts off by {np.sqrt(np.mean(left**2)):.4f} pixel rms, {np.abs(left).max():.4f} at most"
                )


def cone_beam(phantom: Phantom) -> None:
    """Print how far volumes of a cone beam are from the one of a parallel beam at the effective distances."""
    phantom = replace(phantom, reach=0.25)
    truth, distances, n = _mean(phantom), DISTANCES[::3], phantom.size
    fields = phantom.fields(distances, np.zeros((2, 2)))
    fine = list(pixels(fields, FINER, n).swapaxes(0, 1))
    wide = [fine[0], pixels(fields[:, 1], 3, n)]
    parallel = scan_of(phantom, fine, distances)
    for choice in CHOICES:
        _title("two distances", phantom, choice)
        reference = fitted("parallel beam", parallel, truth, **choice)[1]
        for name, frames, magnifications in (
            ("cone beam, magnification 6", fine, (6.0, 6.0)),
            ("cone beam, magnifications 6 and 4", wide, MAGNIFICATIONS),
        ):
            scan = in_cone_beam(scan_of(phantom, frames, distances), magnifications)
            delta = fitted(name, scan, truth, **choice)[1]
            apart = np.linalg.norm(delta - reference) / np.linalg.norm(reference)
            print(f"{'':44}{apart:.4f} from that of the parallel beam")


def _title(what: str, phantom: Phantom, choice: dict[str, object]) -> None:
    chosen = "".join(f"; {name} = {value}" for name, value in choice.items())
    print(f"\n{what}, {phantom.size} voxels a side, {phantom.angles} angles{chosen}; error of δ")


def _mean(phantom: Phantom) -> NDArray[np.float32]:
    n = phantom.size
    return phantom.sampled(FINER).reshape(n, FINER, n, FINER, n, FINER).mean((1, 3, 5)).astype(np.float32)


if __name__ == "__main__":
    sizes = [int(word) for word in sys.argv[1:]]
    made = Phantom(*([*sizes, *(64, 32)[len(sizes) :]]))
    out_of_line(made)
    cone_beam(made)
