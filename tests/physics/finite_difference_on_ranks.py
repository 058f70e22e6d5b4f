"""What each rank of test_lateral_ranks does: propagate its rows; rank 0 saves the rows of all, joined."""

import numpy as np
import torch

from bluesky_multislice import optics
from bluesky_multislice.parallel import Lateral, join_mesh

VIEWS, NZ, NY, NX = 2, 5, 23, 18
LIGHT = {"wavelength_m": 1.0, "pixel_size_m": (1.5, 2.0)}
OPTIONS = {
    "stored": {"gradient": "stored", "stencil": "compact", "boundary": "periodic"},
    "recomputed": {"gradient": "recomputed", "stencil": "wide", "boundary": "periodic"},
    "auto": {"gradient": "auto", "stencil": "plain", "boundary": "periodic"},
    "checkpointed": {"gradient": "checkpointed", "stencil": "wide", "boundary": "outgoing"},
}


def whole_inputs():
    """Wave, δ, β, thickness and the weight of the exit wave, the same on every rank."""
    generator = torch.Generator().manual_seed(7)
    wave, weight = (torch.randn(VIEWS, NY, NX, dtype=torch.complex128, generator=generator) for _ in range(2))
    delta, beta = (0.02 * torch.rand(NZ, NY, NX, dtype=torch.float64, generator=generator) for _ in range(2))
    return wave, delta, beta, torch.linspace(2.0, 4.0, NZ, dtype=torch.float64), weight


def many_views():
    """Waves for which ranks with different numbers of rows would choose different group sizes on their own."""
    return torch.randn(200, NY, NX, dtype=torch.complex128, generator=torch.Generator().manual_seed(8))


def propagated(wave, delta, beta, thickness, weight, **options):
    """Exit wave and the gradients of ⟨weight, exit wave⟩ with respect to wave, δ, β and thickness."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (wave, delta, beta, thickness)]
    exit_wave = optics.finite_difference(*inputs[:3], slice_thickness_m=inputs[3], **LIGHT, **options)
    return exit_wave.detach(), *torch.autograd.grad(exit_wave, inputs, weight)


def opaque_in_some_rows():
    """Inputs with waves that can be inverted in most rows but not in the first, so that ranks alone would differ."""
    wave, delta, beta, thickness, weight = whole_inputs()
    beta[:, 0] = 1.0
    return wave, delta, beta, thickness, weight


def joined(rows, lateral, mesh):
    """Rows (…, y held, x) of all ranks as one array, as the sum of fields that are zero elsewhere."""
    field = rows.new_zeros(*rows.shape[:-2], *lateral.shape)
    field[..., lateral.own_rows, :] = rows
    mesh.sum(torch.view_as_real(field) if field.is_complex() else field)
    return field.numpy()


def main(path, rows):
    with join_mesh("cpu") as mesh:
        lateral = Lateral(mesh, (NY, NX), rows or None)
        own = [t if t.ndim == 1 else t[..., lateral.own_rows, :].contiguous() for t in whole_inputs()]
        found = {}
        exit_wave, *_ = propagated(
            *(t if t.ndim == 1 else t[..., lateral.own_rows, :].contiguous() for t in opaque_in_some_rows()),
            swap=lateral,
            gradient="recomputed",
        )
        found["opaque"] = joined(exit_wave, lateral, mesh)
        for name, options in OPTIONS.items():
            *fields, thickness = propagated(*own, swap=lateral, **options)
            mesh.sum(thickness)
            results = [*(joined(field, lateral, mesh) for field in fields), thickness.numpy()]
            found |= {
                f"{name}/{part}": result
                for part, result in zip(("exit", "wave", "delta", "beta", "thickness"), results, strict=True)
            }
        views = many_views()[:, lateral.own_rows]
        once = optics.finite_difference(
            views, own[1], own[2], slice_thickness_m=3.0, swap=lateral, gradient="stored", **LIGHT
        )
        found["many views"] = joined(once, lateral, mesh)
        turned = lateral.to_columns(own[0])
        found["there and back"] = float((lateral.to_rows(turned) - own[0]).abs().max())
        if mesh.rank == 0:
            np.savez(path, **found)
