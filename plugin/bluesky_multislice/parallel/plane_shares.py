"""Planes along z that the ranks of the same rows share: each moves its own, and keeps the optimiser's state of them.

Gradients are added up where they are needed (reduce-scatter) and the moved planes sent to all (all-gather), which takes
as many bytes as adding gradients up everywhere. The state of the optimiser and the time of its step fall with the
number of ranks (Rajbhandari et al., ZeRO, Proc. SC20 (2020)).
"""

from itertools import pairwise

import torch.distributed as dist
from torch import Tensor

from bluesky_multislice.optics import in_memory_order
from bluesky_multislice.parallel.mesh import Mesh
from bluesky_multislice.parallel.slab import ends_of

# Of versions of PyTorch before 2.13 under their former names.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class PlaneShares:
    """The planes of a volume that are this rank's, of those that ranks of the same rows hold.

    Attributes:
        divided: whether each of these ranks has some planes of its own; else all have all of them.
        own: which planes are this rank's.

    Args:
        mesh: the ranks.
        planes: planes of the volume.
        divided: False leaves all planes to all ranks.
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
        """Add up the volumes of all ranks of the same rows, in this rank's planes; what was added is lost.

        Args:
            volume: (part, z, y, x), each part without gaps in memory.
            own: (part, z, y, x) this rank's planes, which lie alike; they become the sum.
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
        """Replace volumes on all ranks of the same rows by the planes that are each one's own; see ``sum``."""
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
        """Return the rank of the job that has a number among those of the same rows."""
        return number * self._mesh.slabs + self._mesh.slab

    def _parts(self, volume: Tensor, own: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(in_memory_order(whole), in_memory_order(mine)) for whole, mine in zip(volume, own, strict=True)]


def planes_are_shared(mesh: Mesh, planes: int) -> bool:
    """Return whether every rank of the same rows can have planes of its own, cut as PyTorch shards a tensor."""
    return mesh.angles > 1 and (mesh.angles - 1) * -(-planes // mesh.angles) < planes
