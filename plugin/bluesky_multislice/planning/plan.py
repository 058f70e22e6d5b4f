"""The plan of a reconstruction, complete before anything is allocated."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.measurement import ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel, FrameTiles, ModelOptions
from bluesky_multislice.parallel import Mesh, Rows, Slab, planes_are_shared
from bluesky_multislice.planning.plan_parts import (
    PARTS,
    FitPart,
    MeshPart,
    ModelPart,
    Part,
    StoragePart,
    VolumePart,
    names_of,
)
from bluesky_multislice.solvers import FitSettings


@dataclass(frozen=True, kw_only=True)
class Plan(VolumePart, ModelPart, FitPart, MeshPart, StoragePart):
    """Plan of a reconstruction, in five parts.

    Attributes:
        earlier: cheaper fits that run first, each the initial guess of the next.
    """

    part: ClassVar[str] = "plan"
    earlier: tuple["Plan", ...] = ()

    @classmethod
    def of_parts(cls, *parts: Part) -> "Plan":
        """Return the plan of these five parts, without earlier fits."""
        return cls(**{name: getattr(part, name) for part in parts for name in names_of(type(part))})

    @property
    def epochs(self) -> int:
        """Maximum number of epochs of all fits."""
        return sum(plan.fit.epochs + plan.fit.polish for plan in (*self.earlier, self))

    @property
    def ranks_sharing_planes(self) -> int:
        """Number of ranks with the same rows that share the planes in the optimiser; 1 if each updates all planes."""
        mesh = Mesh(0, self.ranks, torch.device("cpu"), self.slabs)
        shared = self.fit.optimiser != "weighted" and planes_are_shared(mesh, self.grid.shape[0])
        return mesh.angles if shared else 1

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the propagation."""
        tiling = {"tiles": self.tiles, "halo": self.halo} if self.propagation == "tiled-multislice" else {}
        return {"gradient": self.gradient, **tiling}

    def forward_model(self, geometry: ScanGeometry, slab: Slab | None = None) -> ForwardModel:
        """Return the forward model of a scan's views, for the rows and views of this rank."""
        return ForwardModel(
            geometry.coarser(self.coarseness).oversampled(self.oversampling),
            self.grid,
            ModelOptions(
                slices=self.slices,
                propagation=self.propagation,
                keywords=self.options,
                margin=self.margin,
                edges=self.edges,
                interpolation=self.interpolation,
                oversampling=self.oversampling,
                point_spread_pixels=self.point_spread_pixels,
                way_to_detector=self.way_to_detector,
            ),
            slab=slab,
            frame_tiles=None if slab is None else self.frame_tiles,
        )

    def ranks_of_views(self, geometry: ScanGeometry) -> NDArray[np.intp] | None:
        """Return the slab whose rank computes each view, see ``Slab``; None: each rank computes a tile of all views."""
        return None if self.frame_tiles else self.forward_model(geometry).ranks_of_views(self.slabs)

    def windows(self, window: int) -> list[Rows]:
        """Return the rows of a window that each rank of an angle group computes, for a window of this height."""
        if self.frame_tiles is None:
            return [(0, window)] * self.slabs
        return self.frame_tiles.in_window(window, margin=self.margin, oversampling=self.oversampling)

    def frame_rows(self, mesh: Mesh) -> slice:
        """Return the rows of the frames that a rank computes."""
        return slice(None) if self.frame_tiles is None else slice(*self.frame_tiles.rows[mesh.slab])

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers by part, for JSON."""
        values = asdict(self)
        parts: dict[str, Any] = {part.part: {name: values[name] for name in names_of(part)} for part in PARTS}
        return parts | {"earlier": [plan.as_dict() for plan in self.earlier]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """Rebuild a plan from ``as_dict``."""
        flat = {name: value for part in PARTS for name, value in values[part.part].items()}
        tiles = flat["frame_tiles"]
        return cls(
            **flat
            | {
                "grid": VolumeGrid.from_dict(flat["grid"]),
                "fit": FitSettings.from_dict(flat["fit"]),
                "tiles": tuple(flat["tiles"]),
                "frame_tiles": FrameTiles.from_dict(tiles) if tiles else None,
                "notes": tuple(flat["notes"]),
                "smoothings": tuple(flat["smoothings"]),
                "from_former": tuple(flat.get("from_former", ())),
                "earlier": tuple(cls.from_dict(earlier) for earlier in values["earlier"]),
            }
        )
