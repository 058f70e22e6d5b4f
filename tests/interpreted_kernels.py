"""Fused kernels, run by Triton's interpreter, beside the general ones: prints by case how far they differ.

TRITON_INTERPRET=1 python tests/interpreted_kernels.py GROUP
"""

import functools
import json
import math
import sys

import torch
from small_scan import hologram_scan, rebuild

from bluesky_multislice.optics import KernelChoice, multislice, use_kernels, with_y_last
from bluesky_multislice.optics.transmission import EagerSlice
from bluesky_multislice.optics.triton_rotation import rotate_volume, rotated, rotated_transpose
from bluesky_multislice.optics.triton_slices import TritonSlice
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers import Scales, choose_kernels, kernel_cases
from bluesky_multislice.solvers.optimisers import Nesterov
from bluesky_multislice.solvers.optimisers.triton_descent import PriorTerm, move
from bluesky_multislice.solvers.priors import Bounds, Penalty, SmoothnessZ, TotalVariation

CPU = torch.device("cpu")
FUSED = KernelChoice("fused", ("slices", "turns", "descent"))


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]), dtype=dtype)


def differ(found, known):
    return float((found - known).norm() / known.norm())


def compared():
    """The cases by which a job chooses its kernels."""
    for part in ("slices", "turns", "descent"):
        yield part, kernel_cases.largest_difference(kernel_cases.CASES[part](CPU))


def slices():
    for views, ny, nx in ((1, 5, 3), (19, 3, 100), (2, 16, 16)):
        waves, delta = random(2, views, ny, nx, dtype=torch.complex64), 1e-4 * random(1, ny, nx)
        general, fused = (kind(delta, 0.1 * delta, 1e4, None) for kind in (EagerSlice, TritonSlice))
        results = (kernel_cases.forward_and_adjoint(each, waves, delta, True) for each in (fused, general))
        yield f"{views} views of {ny} × {nx}", kernel_cases.largest_difference(zip(*results, strict=True))
    delta, wave = torch.linspace(-1e4, 1e4, 2048).view(1, 2, 1024), torch.ones(1, 2, 1024, dtype=torch.complex64)
    through = TritonSlice(delta, torch.zeros_like(delta), 1.0).transmit(wave, slice(0, 1), torch.empty_like(wave))
    yield (
        "phases of 10⁴ rad",
        float((through - torch.polar(torch.ones_like(delta).double(), -delta.double())).abs().max()),
    )
    own = 1e-4 * random(4, 6, 7)
    waves = random(4, 6, 7, dtype=torch.complex64)
    group, gradients = slice(1, 3), [torch.ones_like(own) for _ in range(2)]
    TritonSlice(own, own, 1e3).back(waves[group].clone(), waves[group], group, *gradients)
    untouched = torch.cat([gradients[0][:1], gradients[0][3:]])
    yield "other views' planes", float((untouched - 1).abs().max())


def chains():
    """Whole propagations with their gradients: of a shared object, of objects of the views' own, in windows."""
    wave = random(3, 12, 14, dtype=torch.complex64)
    windows = [(0, 0), (4, 5), (3, 5)]
    for shape, seen, gradient in (
        ((2, 12, 14), None, "stored"),
        ((2, 3, 12, 14), None, "checkpointed"),
        ((2, 16, 19), windows, "recomputed"),
    ):
        optics = {"wavelength_m": 1e-9, "pixel_size_m": 2e-8, "slice_thickness_m": 1e-6, "windows": seen}
        run = functools.partial(multislice, gradient=gradient, **optics)
        inputs, results = (wave, 1e-4 * random(*shape), 1e-5 * random(*shape).abs()), []
        for choice in (FUSED, KernelChoice()):
            use_kernels(choice)
            results.append(kernel_cases.propagated(run, inputs, wave.conj().resolve_conj()))
        yield f"{gradient} {shape}", kernel_cases.largest_difference(zip(*results, strict=True))
    use_kernels(KernelChoice())


def turns():
    # More than one program along x and y, one slice, slices of one and two planes.
    shapes = {
        "linear": ((2, 70, 17, 2, 0.4), (3, 2, 5, 1, 2.8), (3, 2, 4, 2, -math.pi / 4)),
        "cubic": ((3, 2, 4, 2, 0.7),),
    }
    for kernel, cases in shapes.items():
        for nz, ny, nx, slices, angle in cases:
            volume, image = with_y_last(random(nz, ny, nx)), random(slices, ny, nx)
            units = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64).mul(2**40).round().long()
            there, back = rotated(volume, units, slices, kernel), rotated_transpose(image, units, nz, kernel)
            products = [float((a.double() * b.double()).sum()) for a, b in ((there, image), (volume, back))]
            scale = float(there.norm() * image.norm())
            yield f"transpose {kernel} {nz, ny, nx}", abs(products[0] - products[1]) / scale
        volume = random(4, 2, 4)
        quarter = rotate_volume(volume, math.pi / 2, 4, kernel)
        yield f"quarter {kernel}", differ(quarter, volume.flip(2).transpose(0, 2))


def slabs():
    """A step of rows beside each other is that of the whole volume."""
    penalty = Penalty((TotalVariation(3.0, along_z=1.5), SmoothnessZ(0.7)), Scales(step_rad=0.05))
    bounds = Bounds(True, least=0.1)
    volume, gradient = random(2, 3, 8, 5), random(2, 3, 8, 5)
    weights, pixels = penalty.voxel_weights(volume), torch.tensor(3.0)

    def moved(rows, around):
        ours, to = (with_y_last(part[..., rows, :].clone()) for part in (volume, gradient))
        move(ours, to, Nesterov(ours, 0.9).fused_inputs(0.1), PriorTerm(weights, *around, pixels), None, bounds)
        return to

    none = volume[..., :0, :]
    known = moved(slice(0, 8), (none, none))
    parts = [
        moved(slice(0, 3), (none, volume[..., 3:4, :])),
        moved(slice(3, 4), (volume[..., 2:3, :], volume[..., 4:5, :])),
        moved(slice(4, 8), (volume[..., 3:4, :], none)),
    ]
    yield "three slabs", differ(torch.cat(parts, -2), known)


def nesterov():
    """A whole reconstruction of holograms by accelerated descent."""
    yield from fit(slices=2, optimiser="nesterov", total_variation=0.1, beta_over_delta_max=0.1)


def adam():
    """A whole reconstruction of holograms by Adam."""
    yield from fit(slices=2, optimiser="adam", l1=0.1, refine_probe=True)


def fit(**recipe):
    scan, common = hologram_scan(n=6, angles=2), {"epochs": 2, "held_back_every": 0, "start": "empty"}
    known, found = (rebuild(scan, kernels=kernels, **common, **recipe) for kernels in ("general", "fused"))
    yield "δ", differ(found.delta, known.delta)
    yield "β", differ(found.beta, known.beta)


def choices():
    """What a job says of the kernels that it has chosen."""
    yield "choice", choose_kernels("fused", Mesh(0, 1, CPU)).as_dict()


if __name__ == "__main__":
    print(json.dumps(dict(globals()[sys.argv[1]]())))
