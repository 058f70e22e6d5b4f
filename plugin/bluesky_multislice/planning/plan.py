"""What will be done, decided before anything is allocated."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.measurement import Saturated, ScanGeometry, VolumeGrid
from bluesky_multislice.models import Edges, ForwardModel, FrameTiles
from bluesky_multislice.optics import Gradient, Interpolation, Kernel, Kernels
from bluesky_multislice.parallel import Mesh, Rows, Slab, planes_are_shared
from bluesky_multislice.recipe import Start, Support
from bluesky_multislice.solvers import FitSettings, FramesIn


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        grid: the volume.
        propagation: name of the propagation.
        slices: slices along the beam; they share the planes of the volume as evenly as they can.
        margin: pixels around each frame against wrap-around.
        edges: whether light leaves at the window's edges.
        interpolation: how the volume is turned.
        oversampling: pixels of the grid on a side of each detector pixel.
        point_spread_pixels: σ of the detector's point spread, detector pixels.
        way_to_detector: kernel of the way from the sample to a near-field detector.
        gradient: which waves the gradient keeps: ``stored`` is fastest, ``recomputed`` takes no memory for them.
        tiles: number of tiles (y, x) of tiled multislice.
        halo: pixels around each tile.
        frame_tiles: the rows of every frame that each rank of an angle computes; None: whole frames of some views.
        probe_modes: probe modes.
        modes_by_validation: whether short fits tell by validation frames if one mode will do.
        held_back_every: every n-th view judges the fit.
        ranks: processes.
        slabs: slabs along y that the volume is cut into; ranks over slabs is the number of groups that share views.
        lanes: batches, of as many shares of the views, that a step of the fit adds up, whatever the number of ranks.
        whole_angles: whether all views of an angle are in one lane, so that the volume is turned to it once an epoch.
        device: ``cpu``, ``gpu`` for an accelerator of any type, ``cuda`` or ``xpu`` for one of that type.
        support: ``cylinder`` keeps matter inside what every angle sees.
        saturated: whether saturated pixels are refused or left out.
        shell_correlation: fit two halves of the views as well and correlate them.
        fit: how to fit.
        depths_of_field: thickness of the volume in depths of field; above one the thin-sample model is wrong.
        memory_bytes: expected peak of one rank.
        start: ``thin_sample`` begins with a thin-sample retrieval, where it explains the frames better than nothing.
        find_axis: whether the rotation axis is looked for before the fit.
        smoothings: weights of total variation that short fits try first; frames held back choose; none keeps the fit's.
        notes: what a person should know about these choices.
        coarseness: pixels of the frames on a side of one that is fitted, see ``ScanGeometry.coarser``.
        frames_in: ``disk`` reads frames batch by batch as they are needed.
        batches_ahead: how many batches are read from disk before they are needed.
        angles_at_once: angles of a rank that the first volume is made of at a time; None: all.
        joint_illumination: whether flats are not divided out, but are the start of an illumination that is fitted too.
        checkpoint_every: least epochs between two checkpoints; None goes by time.
        kernels: what computes on an accelerator: fused kernels where they agree with the general ones (``auto``), never
            (``general``) or always (``fused``).
        earlier: cheaper fits that come first, each the start of the next.
    """

    grid: VolumeGrid
    propagation: str
    slices: int
    margin: int
    edges: Edges
    interpolation: Interpolation
    oversampling: int
    point_spread_pixels: float
    gradient: Gradient
    tiles: tuple[int, int]
    halo: int
    probe_modes: int
    held_back_every: int
    ranks: int
    device: str
    support: Support
    saturated: Saturated
    shell_correlation: bool
    fit: FitSettings
    depths_of_field: float
    memory_bytes: int
    slabs: int = 1
    lanes: int = 1
    whole_angles: bool = False
    way_to_detector: Kernel = "fresnel"
    start: Start = "empty"
    find_axis: bool = False
    smoothings: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    coarseness: int = 1
    frames_in: FramesIn = "memory"
    batches_ahead: int = 1
    angles_at_once: int | None = None
    frame_tiles: FrameTiles | None = None
    joint_illumination: bool = False
    modes_by_validation: bool = False
    checkpoint_every: int | None = None
    kernels: Kernels = "auto"
    earlier: tuple["Plan", ...] = ()

    @property
    def epochs(self) -> int:
        """Most epochs of all fits together."""
        return sum(plan.fit.epochs + plan.fit.polish for plan in (*self.earlier, self))

    @property
    def ranks_sharing_planes(self) -> int:
        """Ranks of the same rows that share the planes which the optimiser moves; 1 where each moves all."""
        mesh = Mesh(0, self.ranks, torch.device("cpu"), self.slabs)
        shared = self.fit.optimiser != "weighted" and planes_are_shared(mesh, self.grid.shape[0])
        return mesh.angles if shared else 1

    @property
    def options(self) -> dict[str, Any]:
        """Further keywords of the propagation."""
        tiling = {"tiles": self.tiles, "halo": self.halo} if self.propagation == "tiled-multislice" else {}
        return {"gradient": self.gradient, **tiling}

    def forward_model(self, geometry: ScanGeometry, slab: Slab | None = None) -> ForwardModel:
        """Return the forward model of a scan's views, of the volume's rows and the views that are this rank's."""
        return ForwardModel(
            geometry.coarser(self.coarseness).oversampled(self.oversampling),
            self.grid,
            slices=self.slices,
            propagation=self.propagation,
            options=self.options,
            margin=self.margin,
            edges=self.edges,
            interpolation=self.interpolation,
            oversampling=self.oversampling,
            point_spread_pixels=self.point_spread_pixels,
            way_to_detector=self.way_to_detector,
            slab=slab,
            frame_tiles=None if slab is None else self.frame_tiles,
        )

    def ranks_of_views(self, geometry: ScanGeometry) -> NDArray[np.intp] | None:
        """Return for each view the slab whose rank computes it, see ``Slab``; None: each computes its tile of all."""
        return None if self.frame_tiles else self.forward_model(geometry).ranks_of_views(self.slabs)

    def windows(self, window: int) -> list[Rows]:
        """Return for each rank of an angle the rows that it computes of a window of so many."""
        if self.frame_tiles is None:
            return [(0, window)] * self.slabs
        return self.frame_tiles.in_window(window, margin=self.margin, oversampling=self.oversampling)

    def frame_rows(self, mesh: Mesh) -> slice:
        """Return which rows of the frames a rank computes."""
        return slice(None) if self.frame_tiles is None else slice(*self.frame_tiles.rows[mesh.slab])

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """Rebuild a plan from ``as_dict``."""
        return cls(
            **{
                **values,
                "grid": VolumeGrid.from_dict(values["grid"]),
                "fit": FitSettings.from_dict(values["fit"]),
                "tiles": tuple(values["tiles"]),
                "frame_tiles": FrameTiles.from_dict(values["frame_tiles"]) if values["frame_tiles"] else None,
                "notes": tuple(values["notes"]),
                "smoothings": tuple(values["smoothings"]),
                "earlier": tuple(cls.from_dict(earlier) for earlier in values["earlier"]),
            }
        )
