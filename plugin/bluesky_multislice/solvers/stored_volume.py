"""The object of a fit on one rank: stored rows, their gradient, and the planes that this rank updates."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bluesky_multislice.optics import with_y_last
from bluesky_multislice.parallel import Mesh, PlaneShares, Slab
from bluesky_multislice.solvers.optimisers import gradient_of


class StoredVolume:
    """The object in radians of phase through the whole volume, and its gradient.

    Ranks that store the same rows may share the planes: each then updates its own, ``moved``.

    Args:
        slab: the volume's rows that this rank stores.
        shape: (part, z, y, x) of the stored rows; parts δ and, if fitted, β.
        device: device of the tensors.
        divided: whether ranks that store the same rows share the planes, if there are enough.

    Attributes:
        slab: as above.
        values: (part, z, y, x), y contiguous in memory.
        parts: δ and β as views of ``values`` with views of its gradient, in which backward passes accumulate.
        moved: this rank's planes of ``values``, which the optimiser updates; ``values`` itself if nothing is shared.
    """

    def __init__(self, slab: Slab, shape: tuple[int, int, int, int], device: torch.device, *, divided: bool) -> None:
        self.slab = slab
        self.values = with_y_last(torch.zeros(shape, device=device)).requires_grad_()
        self.values.grad = torch.zeros_like(self.values)
        self.parts = [part.detach().requires_grad_() for part in self.values]
        for part, gradient in zip(self.parts, self.values.grad, strict=True):
            part.grad = gradient
        self._shares = PlaneShares(slab.mesh, shape[1], divided=divided)
        self.moved = self.values
        if self.shares_planes:
            self.moved = with_y_last(self._shares.part_of(self.values.detach()).clone()).requires_grad_()
            self.moved.grad = torch.zeros_like(self.moved)

    @property
    def shares_planes(self) -> bool:
        """Whether ranks that store the same rows each update a share of the planes."""
        return self._shares.divided

    @property
    def largest(self) -> Callable[[Tensor], Tensor]:
        """Function that returns the maximum of a number over all ranks that update different voxels."""
        return self.slab.mesh.largest_value if self.shares_planes else self.slab.largest_value

    def somewhere(self, here: bool) -> bool:
        """Return whether the condition holds on any rank that updates other voxels; collective call."""
        ranks = self.slab.mesh if self.shares_planes else self.slab
        return ranks.largest(float(here)) > 0

    def own_planes(self, tensor: Tensor) -> Tensor:
        """Return the planes that this rank updates of a tensor (..., z, y, x)."""
        return self._shares.part_of(tensor)

    def take_own(self) -> None:
        """Copy this rank's planes of ``values`` to ``moved``."""
        if self.shares_planes:
            self.moved.detach().copy_(self._shares.part_of(self.values))

    @torch.no_grad()
    def gather(self) -> None:
        """Give every rank the planes that other ranks update."""
        if self.shares_planes:
            self._shares.gather(self.moved, self.values)

    def follow_exchange(self) -> None:
        """Point ``parts`` to the memory of ``values`` and its gradient, after a fused step has exchanged both."""
        if self.shares_planes:
            return
        for part, volume, gradient in zip(self.parts, self.values, gradient_of(self.values), strict=True):
            part.data, gradient_of(part).data = volume, gradient

    def sum_gradient(self, mesh: Mesh, divisor: Tensor | None) -> None:
        """Sum the gradient over the ranks that store the same rows, in place.

        If ranks share the planes, each rank has the sum for its own planes only; see ``gather_gradient``.

        Args:
            mesh: the ranks.
            divisor: divisor of the sum; None: the caller divides.
        """
        gradient = gradient_of(self.moved)
        if self.shares_planes:
            self._shares.sum(gradient_of(self.values), gradient)
        else:
            mesh.sum_over_angles(gradient)
        if divisor is not None:
            gradient /= divisor

    def gather_gradient(self) -> None:
        """Give every rank the gradient of all its stored rows, after ``sum_gradient``."""
        if self.shares_planes:
            self._shares.gather(gradient_of(self.moved), gradient_of(self.values))

    def weighted_gradient(self, weight: Tensor) -> Tensor:
        """Return the weighted gradient of the stored rows, after ``sum_gradient``.

        If ranks share planes, it overwrites the gradient; each rank keeps the gradient of its own planes.

        Args:
            weight: (z, y, x) factor on the gradient of each voxel.
        """
        if not self.shares_planes:
            return weight * gradient_of(self.values)
        self.gather_gradient()
        return gradient_of(self.values).mul_(weight)

    def slope(self, direction: Tensor) -> float:
        """Return Σ gradient·direction over the whole volume, after ``sum_gradient``.

        Args:
            direction: (part, z, y, x) for the stored rows.
        """
        if not self.shares_planes:
            return self.dot(gradient_of(self.values), direction)
        pairs = zip(gradient_of(self.moved), self._shares.part_of(direction), strict=True)
        slope = torch.stack([(ours * theirs).sum(dtype=torch.float64) for ours, theirs in pairs]).sum()
        self.slab.mesh.sum(slope)
        return float(slope)

    def dot(self, one: Tensor, other: Tensor) -> float:
        """Return Σ one·other over the whole volume, for tensors shaped like ``values``."""
        planes = zip(one.flatten(0, 1), other.flatten(0, 1), strict=True)
        return self.slab.total(float(sum((ours * theirs).sum(dtype=torch.float64) for ours, theirs in planes)))

    def stored_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of ``moved``'s shape with their names in checkpoints: ``planes/…`` if ranks share planes."""
        return {
            name.replace("volume/", "planes/") if self.shares_planes else name: tensor for name, tensor in state.items()
        }

    def own_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state restricted to this rank's planes, whether or not the ranks that wrote it shared planes."""
        found = {}
        for name, tensor in state.items():
            whole = name.startswith("volume/")
            own = with_y_last(self._shares.part_of(tensor)) if whole else tensor
            found[name.replace("planes/", "volume/")] = own
        return found
