"""The penalty: the sum of the priors' terms, added to the misfit.

Volumes are (part, z, y, x), with parts δ and β, in radians of phase through the whole volume. Every term is a mean
over voxels. Ranks that store the same rows share the planes, so each voxel is evaluated once. A rank with a slab of
rows also reads the neighbouring row on either side.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bluesky_multislice.parallel import Slab
from bluesky_multislice.solvers.priors.common_pass import Weights, add_gradient, summed
from bluesky_multislice.solvers.priors.prior import Prior, Scales
from bluesky_multislice.solvers.priors.prior_registry import make_prior

_IN_CACHE, _ON_ACCELERATOR = 2**17, 2**22
"""Voxels whose priors are differentiated at once; on a CPU, few enough for its cache."""

_PARTS = 2
"""δ and β, even if β is not fitted, so that a weight has the same meaning in both cases."""


@dataclass(frozen=True)
class Priors:
    """The priors of a fit.

    Attributes:
        terms: name → prior.
    """

    terms: Mapping[str, Prior] = field(default_factory=dict)

    @classmethod
    def make(cls, parameters: Mapping[str, Mapping[str, float]]) -> "Priors":
        """Return priors by name, with these parameters each.

        Raises:
            RecipeError: see ``make_prior``.
        """
        return cls({name: make_prior(name, given) for name, given in parameters.items()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Priors":
        """Rebuild priors from ``dataclasses.asdict``, also after a JSON round trip."""
        return cls.make(values["terms"])

    @property
    def weighted(self) -> bool:
        """Whether any prior has a weight."""
        return any(prior.weight > 0 for prior in self.terms.values())

    def weight_of(self, name: str) -> float:
        """Return the weight of a prior; 0 if it is not among them."""
        return self.terms[name].weight if name in self.terms else 0.0

    def with_weight(self, name: str, weight: float) -> "Priors":
        """Return the priors with another weight of one of them."""
        return Priors({**self.terms, name: replace(self.terms[name], weight=weight)})

    def penalty(self, scales: Scales, slab: Slab | None = None) -> "Penalty":
        """Return the penalty of all priors with a weight, for the stored rows; None: all rows."""
        return Penalty(tuple(prior for prior in self.terms.values() if prior.weight > 0), scales, slab)


@dataclass(frozen=True)
class Penalty:
    """Sum of the terms of priors.

    Attributes:
        priors: the priors, each with a weight.
        scales: scales of the fit.
        slab: the stored rows; None: all rows.
    """

    priors: tuple[Prior, ...]
    scales: Scales
    slab: Slab | None = None

    def voxel_weights(self, volume: Tensor) -> Weights:
        """Return the weights per voxel of the common pass; ``outside_common_pass`` is the rest of the penalty."""
        return summed(weights for _, weights in self._split if weights is not None).scaled(1 / self._voxels(volume))

    @property
    def outside_common_pass(self) -> "Penalty":
        """The penalty of all priors that the common pass does not contain."""
        return replace(self, priors=tuple(prior for prior, weights in self._split if weights is None))

    @torch.no_grad()
    def add_gradient(
        self, volume: Tensor, gradient: Tensor, *, weight: Tensor | float = 1.0, share: tuple[int, int] = (0, 1)
    ) -> None:
        """Add the gradient of the penalty, a few planes at a time, without an array as large as the volume.

        Args:
            volume: (part, z, y, x), one part if β is not fitted; the stored rows.
            gradient: same shape, changed in place.
            weight: factor on the penalty.
            share: (index, number of shares): share of the planes to add. The sum over all shares is the full gradient.
        """
        if not self.priors:
            return
        planes, rows = volume.shape[1:3]
        before, behind = self._rows_around(volume)
        number, shares = share
        start, end = (planes * at // shares for at in (number, number + 1))
        of_voxel = weight / self._voxels(volume)
        for part, uphill in enumerate(gradient):
            for first, last in _blocks(volume, start, end):
                # A block includes the plane after its last one; the last row may have its neighbour in the next slab.
                here = slice(first, last + 1)
                counted = (last - first, rows - behind.shape[-2])
                self._add_to_block(volume[part, here], uphill[here], counted, of_voxel)
            here = slice(start, end + 1)
            for first_row, second_row, edge in ((before, volume[..., :1, :], 0), (volume[..., -1:, :], behind, -1)):
                pair = torch.cat([first_row[part, here], second_row[part, here]], dim=-2)
                if pair.shape[-2] > 1:
                    at_edge = torch.zeros_like(pair)
                    self._add_to_block(pair, at_edge, (end - start, 1), of_voxel)
                    uphill[here, edge] += at_edge[:, -1 - edge]

    @torch.no_grad()
    def values(self, volume: Tensor) -> dict[str, float]:
        """Return each prior's term in the cost, in units of the misfit per pixel; collective call.

        Args:
            volume: (part, z, y, x), one part if β is not fitted; the stored rows.
        """
        planes, rows = volume.shape[1:3]
        behind = self._rows_around(volume)[1] if self.priors else volume[..., :0, :]
        found = {}
        for prior in self.priors:
            total = torch.zeros((), dtype=torch.float64, device=volume.device)
            for part in range(len(volume)):
                for first, last in _blocks(volume, 0, planes):
                    here = slice(first, last + 1)
                    block = torch.cat([volume[part, here], behind[part, here]], dim=-2)
                    own = prior.density(block, self.scales)[: last - first, :rows]
                    total += own.sum(dtype=torch.float64)
            whole = float(total) if self.slab is None else self.slab.total(float(total))
            found[prior.name] = whole / self._voxels(volume)
        return found

    @functools.cached_property
    def _split(self) -> list[tuple[Prior, Weights | None]]:
        """Return the priors and their weights in the common pass, which has room for one gradient's length."""
        found, taken = [], False
        for prior in self.priors:
            weights = prior.weights(self.scales)
            if weights is not None and weights.total_variation > 0:
                weights, taken = (None if taken else weights), True
            found.append((prior, weights))
        return found

    def _add_to_block(self, block: Tensor, gradient: Tensor, counted: tuple[int, int], weight: Tensor | float) -> None:
        """Add the gradient of the first planes and rows of a block (z, y, x); see ``Prior.add_gradient``."""
        split = self._split
        common = [weights for _, weights in split if weights is not None]
        if common:
            add_gradient(block, gradient, counted, summed(common), weight)
        for prior, weights in split:
            if weights is None:
                prior.add_gradient(block, gradient, counted, self.scales, weight)

    def _voxels(self, volume: Tensor) -> int:
        """Return the number of voxels of both parts of the whole volume."""
        _, planes, rows, width = volume.shape
        return _PARTS * planes * (rows if self.slab is None else self.slab.height) * width

    def _rows_around(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return the neighbouring rows (part, z, 0 or 1, x) before and behind the stored ones."""
        if self.slab is None or self.slab.whole:
            return volume[..., :0, :], volume[..., :0, :]
        return self.slab.rows_around(volume)


def _blocks(volume: Tensor, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield first and last plane of blocks of a few planes, whose number suits the device."""
    voxels = _IN_CACHE if volume.device.type == "cpu" else _ON_ACCELERATOR
    at_once = max(1, voxels // (volume.shape[2] * volume.shape[3]))
    for first in range(start, end, at_once):
        yield first, min(first + at_once, end)
