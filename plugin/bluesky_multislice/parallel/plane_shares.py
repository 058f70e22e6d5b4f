"""Optimiser sharding: ranks with the same rows share the planes along z, and each updates its own planes.

Gradients are summed on the rank that needs them (reduce-scatter) and updated planes are sent to all ranks (all-gather),
which takes as many bytes as an all-reduce of the gradients. The memory of the optimiser's state and the time of its
step fall with the number of ranks (Rajbhandari et al., ZeRO, Proc. SC20 (2020)).
"""

from itertools import pairwise

import torch.distributed as dist
from torch import Tensor

from bluesky_multislice.optics import in_memory_order
from bluesky_multislice.parallel.mesh import Mesh
from bluesky_multislice.parallel.slab import ends_of

# The second names are those before PyTorch 2.13.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class PlaneShares:
    """The distribution of a volume's planes over the ranks that hold the same rows.

    Attributes:
        divided: whether each rank has its own planes; otherwise every rank has all planes.
        own: slice of this rank's planes.

    Args:
        mesh: the ranks.
        planes: number of planes of the volume.
        divided: False: every rank has all planes.
    """

    def __init__(self, mesh: Mesh, planes: int, *, divided: bool = True) -> None:
        self._mesh, self._planes = mesh, planes
        self.divided = divided and planes_are_shared(mesh, planes)
        self._ends = ends_of(planes, mesh.angles) if self.divided else [0, planes]
        number = mesh.angle if self.divided else 0
        self.own = slice(self._ends[number], self._ends[number + 1])

    def part_of(self, volume: Tensor) -> Tensor:
        """Return this rank's planes of a volume (..., z, y, x)."""
        return volume[..., self.own, :, :]

    def sum(self, volume: Tensor, own: Tensor) -> None:
        """Sum the volumes of all ranks with the same rows, on this rank's planes; ``volume`` is overwritten.

        Args:
            volume: (part, z, y, x), each part without gaps in memory.
            own: (part, z, y, x) output for this rank's planes, with the same memory layout.
        """
        group = self._mesh.angle_group
        for whole, mine in self._parts(volume, own):
            if self._even:
                _reduce_scatter(mine, whole, group=group)
                continue
            for rank, (start, end) in enumerate(pairwise(self._ends)):
                dist.reduce(whole[start:end], self._rank_of(rank), group=group)
            mine.copy_(whole[self.own])

    def gather(self, own: Tensor, volume: Tensor) -> None:
        """Collect the planes ``own`` of all ranks with the same rows in ``volume``; shapes as in ``sum``."""
        group = self._mesh.angle_group
        for whole, mine in self._parts(volume, own):
            if self._even:
                _all_gather(whole, mine, group=group)
                continue
            whole[self.own].copy_(mine)
            for rank, (start, end) in enumerate(pairwise(self._ends)):
                dist.broadcast(whole[start:end], self._rank_of(rank), group=group)

    @property
    def _even(self) -> bool:
        return self._planes % self._mesh.angles == 0

    def _rank_of(self, number: int) -> int:
        """Return the rank of the job for an index among the ranks with the same rows."""
        return number * self._mesh.slabs + self._mesh.slab

    def _parts(self, volume: Tensor, own: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(in_memory_order(whole), in_memory_order(mine)) for whole, mine in zip(volume, own, strict=True)]


def planes_are_shared(mesh: Mesh, planes: int) -> bool:
    """Return whether every rank with the same rows gets a plane, if planes are cut as PyTorch shards a tensor."""
    return mesh.angles > 1 and (mesh.angles - 1) * -(-planes // mesh.angles) < planes
