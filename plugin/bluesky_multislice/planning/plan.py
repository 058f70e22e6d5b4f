"""The plan of a reconstruction, complete before anything is allocated."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.choices import Edges, FramesIn, Interpolation, Kernel, Kernels
from bluesky_multislice.measurement import Saturated, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel, FrameTiles, ModelOptions
from bluesky_multislice.optics import Gradient
from bluesky_multislice.parallel import Mesh, Rows, Slab, planes_are_shared
from bluesky_multislice.recipe import Start, Support
from bluesky_multislice.solvers import FitSettings


@dataclass(frozen=True)
class Plan:
    """Plan of a reconstruction.

    Attributes:
        grid: grid of the volume.
        propagation: name of the propagation.
        slices: slices along the beam; each contains equally many planes of the volume, as far as possible.
        margin: pixels around each frame against wrap-around.
        edges: boundary condition at the window's edges.
        interpolation: interpolation of the rotated volume.
        oversampling: grid pixels per detector pixel and axis.
        point_spread_pixels: σ of the detector's point spread, detector pixels.
        way_to_detector: propagator from the sample to a near-field detector.
        gradient: waves for the gradient; ``stored`` is fastest, ``recomputed`` needs no memory for them.
        tiles: number of tiles (y, x) of tiled multislice.
        halo: pixels around each tile.
        frame_tiles: rows of every frame that each rank of an angle group computes; None: each computes whole frames of
            some views.
        probe_modes: number of probe modes.
        modes_by_validation: whether short fits compare one probe mode with all modes on validation frames.
        held_back_every: every n-th view is a validation view.
        ranks: number of processes.
        slabs: number of slabs of the volume along y; ranks/slabs is the number of groups that share the views.
        lanes: number of lanes; views are divided into lanes, and a step sums batches of every lane. The number of ranks
            does not change the steps.
        whole_angles: whether all views of an angle are in one lane, so that the volume is rotated to it once per epoch.
        device: ``cpu``, ``gpu`` for any type of accelerator, ``cuda`` or ``xpu`` for this type.
        support: ``cylinder`` confines matter to the region that all angles cover.
        saturated: whether saturated pixels raise an error or are excluded.
        shell_correlation: whether two halves of the views are also fitted and correlated.
        fit: fit settings.
        depths_of_field: thickness of the volume in depths of field; above 1 the thin-sample model is invalid.
        memory_bytes: predicted peak memory of a rank.
        start: initial guess; ``thin_sample`` is a thin-sample retrieval, if it fits better than an empty volume.
        find_axis: whether to search the rotation axis before the fit.
        smoothings: weights of total variation that short fits compare on validation frames; empty: the fit's weight.
        notes: remarks for the user about these choices.
        coarseness: binning factor of the fitted frames; see ``ScanGeometry.coarser``.
        frames_in: where frames are kept; ``disk``: they are read batch by batch.
        batches_ahead: number of batches that are read ahead from disk.
        angles_at_once: angles of a rank that are back-projected at once for the initial volume; None: all.
        joint_illumination: whether flats give an illumination that is fitted too, instead of dividing the frames.
        checkpoint_every: smallest number of epochs between two checkpoints; None: by time.
        kernels: kernels on an accelerator; ``auto``: fused ones if they agree with the general ones, ``general``: never
            fused, ``fused``: always fused.
        earlier: cheaper fits that run first, each the initial guess of the next.
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
