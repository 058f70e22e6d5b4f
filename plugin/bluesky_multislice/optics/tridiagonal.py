"""Tridiagonal systems along the last axis of a tensor, by parallel cyclic reduction.

A level adds to each equation multiples of those of its two neighbours so that it couples to the neighbours twice as far
away instead. The multiples are the same for every line, so they are found once, in double precision. Where the diagonal
dominates, the coupling falls quadratically from level to level; reduction ends when it is below the rounding of the
wave's type, after 3 to 6 levels for usual steps, whatever the length of the line. A level is two multiply-adds of whole
tensors, and works as well along a strided axis, so neither CPU nor GPU has to transpose. On a ring of n pixels the
neighbours are taken modulo n; that is the infinite periodic line, and exact for every n.

Seen on one thread (EPYC, torch 2.13; tests/benchmarks/finite_difference_benchmark.py) for one axis of a wave of 1024²
complex64: reduction 3.9 ms, a Thomas sweep along the first axis 7.4 ms without the ring, the dense inverse 88 ms, an
FFT pair of both axes 14 ms. For 256²: 0.3, 1.2, 1.4 and 0.4 ms. A sweep also means 3·n kernels in sequence, which on a
GPU is milliseconds of waiting.

Source: Hockney & Jesshope, Parallel Computers (1981), 5.4.3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bluesky_multislice.errors import ScanError

_MOST_LEVELS = 40
"""Doubled this often, a coupling that decays at all has decayed."""


@dataclass(frozen=True)
class Tridiagonal:
    """A matrix with coupling to both neighbours, on a ring; a line with ends has zeros there.

    Attributes:
        lower: (n,) complex, coupling of i to i − 1.
        diagonal: (n,) complex.
        upper: (n,) complex, coupling of i to i + 1.
    """

    lower: Tensor
    diagonal: Tensor
    upper: Tensor

    def transposed(self) -> "Tridiagonal":
        """Return the transpose."""
        return Tridiagonal(self.upper.roll(1), self.diagonal, self.lower.roll(-1))

    def one_plus(self, factor: complex) -> "Tridiagonal":
        """Return 1 + factor · this."""
        return Tridiagonal(factor * self.lower, 1 + factor * self.diagonal, factor * self.upper)

    def to(self, dtype: torch.dtype, device: torch.device) -> "Tridiagonal":
        """Return the matrix in a type, on a device."""
        bands = (self.lower, self.diagonal, self.upper)
        return Tridiagonal(*(band.to(dtype=dtype, device=device) for band in bands))

    def product(self, vectors: Tensor) -> Tensor:
        """Return this matrix times vectors (…, n)."""
        out = vectors * self.diagonal
        return _add_neighbours(out, vectors, 1, self.lower, self.upper, out)


class Solver:
    """The inverse of a tridiagonal matrix, times a number.

    Args:
        matrix: complex128 matrix A.
        weight: number w; ``solve`` gives w·A⁻¹.
        dtype: complex type of the right sides.
        device: where they are.

    Raises:
        ScanError: neighbours do not decouple, because the diagonal does not dominate.
    """

    def __init__(self, matrix: Tridiagonal, weight: complex, dtype: torch.dtype, device: torch.device) -> None:
        levels, diagonal = _reduce(matrix, torch.finfo(dtype).eps)
        self._levels = [
            (shift, left.to(dtype=dtype, device=device), right.to(dtype=dtype, device=device))
            for shift, left, right in levels
        ]
        self._scale = (weight / diagonal).to(dtype=dtype, device=device)

    def solve(self, right_side: Tensor) -> Tensor:
        """Return w·A⁻¹ times vectors (…, n), a new tensor with the same strides."""
        found, spare = right_side, None
        for shift, left, right in self._levels:
            out = torch.empty_like(right_side) if spare is None else spare
            spare = None if found is right_side else found
            found = _add_neighbours(found, found, shift, left, right, out)
        return torch.mul(found, self._scale, out=None if found is right_side else found)


def _reduce(matrix: Tridiagonal, rounding: float) -> tuple[list[tuple[int, Tensor, Tensor]], Tensor]:
    """Return the levels (shift, multiples of the equations i − shift and i + shift) and the diagonal that is left."""
    lower, diagonal, upper = matrix.lower, matrix.diagonal, matrix.upper
    levels, shift = [], 1
    while float(((lower.abs() + upper.abs()) / diagonal.abs()).max()) > rounding:
        if len(levels) == _MOST_LEVELS:
            raise ScanError(
                "A step of finite differences needs a system in which far pixels decouple.",
                got=f"a coupling of {float((upper / diagonal).abs().max()):.2g} after {_MOST_LEVELS} doublings.",
                remedy="take thinner slices or larger pixels.",
            )
        left, right = -lower / diagonal.roll(shift), -upper / diagonal.roll(-shift)
        levels.append((shift, left, right))
        diagonal = diagonal + left * upper.roll(shift) + right * lower.roll(-shift)
        lower, upper = left * lower.roll(shift), right * upper.roll(-shift)
        shift *= 2
    return levels, diagonal


def _add_neighbours(centre: Tensor, vectors: Tensor, shift: int, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Write centre + left·(vectors at i − shift) + right·(vectors at i + shift) to ``out``, which may be ``centre``."""
    n = vectors.shape[-1]
    near = shift % n
    far = n - near
    torch.addcmul(centre[..., near:], vectors[..., :far], left[near:], out=out[..., near:])
    torch.addcmul(centre[..., :near], vectors[..., far:], left[:near], out=out[..., :near])
    out[..., :far].addcmul_(vectors[..., near:], right[:far])
    out[..., far:].addcmul_(vectors[..., :near], right[far:])
    return out
