"""The five parts of a plan. The first three determine the numbers; the others may differ between machines."""

from dataclasses import dataclass, fields
from typing import ClassVar

from bluesky_multislice.choices import Edges, FramesIn, Interpolation, Kernel, Kernels
from bluesky_multislice.measurement import Saturated, VolumeGrid
from bluesky_multislice.models import FrameTiles
from bluesky_multislice.optics import Gradient
from bluesky_multislice.recipe import Start, Support
from bluesky_multislice.solvers import FitSettings


@dataclass(frozen=True, kw_only=True)
class VolumePart:
    """Volume: its grid, and where matter may be.

    Attributes:
        grid: grid of the volume.
        depths_of_field: thickness of the volume in depths of field; above 1 the thin-sample model is invalid.
        support: ``cylinder`` confines matter to the region that all angles cover.
        coarseness: binning factor of the fitted frames; see ``ScanGeometry.coarser``.
        axis_pixels: position of the rotation axis along x from the scan's axis, in pixels of the frames; not 0 if it
            was found far from the middle of the frames.
    """

    part: ClassVar[str] = "volume"
    grid: VolumeGrid
    depths_of_field: float
    support: Support
    coarseness: int = 1
    axis_pixels: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """Forward model: from the probe to the frames.

    Attributes:
        propagation: name of the propagation.
        slices: slices along the beam; each contains equally many planes of the volume, as far as possible.
        margin: pixels around each frame against wrap-around.
        edges: boundary condition at the window's edges.
        interpolation: interpolation of the rotated volume.
        oversampling: grid pixels per detector pixel and axis.
        point_spread_pixels: σ of the detector's point spread, detector pixels.
        way_to_detector: propagator from the sample to a near-field detector.
        tiles: number of tiles (y, x) of tiled multislice.
        halo: pixels around each tile.
        probe_modes: number of probe modes.
        modes_by_validation: whether short fits compare one probe mode with all modes on validation frames.
        saturated: whether saturated pixels raise an error or are excluded.
        joint_illumination: whether flats give an illumination that is fitted too, instead of dividing the frames.
    """

    part: ClassVar[str] = "model"
    propagation: str
    slices: int
    margin: int
    edges: Edges
    interpolation: Interpolation
    oversampling: int
    point_spread_pixels: float
    way_to_detector: Kernel = "fresnel"
    tiles: tuple[int, int]
    halo: int
    probe_modes: int
    modes_by_validation: bool = False
    saturated: Saturated
    joint_illumination: bool = False


@dataclass(frozen=True, kw_only=True)
class FitPart:
    """Fit: initial guess, settings, validation.

    Attributes:
        fit: fit settings. Their step sizes, ``STEP_SIZES``, may differ between machines.
        held_back_every: every n-th view is a validation view.
        start: initial guess; ``thin_sample`` is a thin-sample retrieval, if it fits better than an empty volume.
        from_former: what the scan's former result gives, by name: volume, probe, positions and refined quantities; the
            volume replaces ``start``. Empty: there is no former result.
        align: whether to search shifts of the frames from angle to angle before the fit.
        find_axis: whether to search the rotation axis before the fit.
        smoothings: weights of total variation that short fits compare on validation frames; empty: the fit's weight.
        shell_correlation: whether two halves of the views are also fitted and correlated.
    """

    part: ClassVar[str] = "fit"
    fit: FitSettings
    held_back_every: int
    start: Start = "empty"
    from_former: tuple[str, ...] = ()
    align: bool = False
    find_axis: bool = False
    smoothings: tuple[float, ...] = ()
    shell_correlation: bool


@dataclass(frozen=True, kw_only=True)
class MeshPart:
    """Ranks: how they share the views and the volume.

    Attributes:
        ranks: number of processes.
        slabs: number of slabs of the volume along y; ranks/slabs is the number of groups that share the views.
        lanes: number of lanes; views are divided into lanes, and a step sums batches of every lane. The number of ranks
            does not change the steps.
        whole_angles: whether all views of an angle are in one lane, so that the volume is rotated to it once per epoch.
        frame_tiles: rows of every frame that each rank of an angle group computes; None: each computes whole frames of
            some views.
        device: ``cpu``, ``gpu`` for any type of accelerator, ``cuda`` or ``xpu`` for this type.
        kernels: kernels on an accelerator; ``auto``: fused ones if they agree with the general ones, ``general``: never
            fused, ``fused``: always fused.
    """

    part: ClassVar[str] = "mesh"
    ranks: int
    slabs: int = 1
    lanes: int = 1
    whole_angles: bool = False
    frame_tiles: FrameTiles | None = None
    device: str
    kernels: Kernels = "auto"


@dataclass(frozen=True, kw_only=True)
class StoragePart:
    """Storage: memory, disk, checkpoints, and remarks.

    Attributes:
        gradient: waves for the gradient; ``stored`` is fastest, ``recomputed`` needs no memory for them.
        memory_bytes: predicted peak memory of a rank.
        frames_in: where frames are kept; ``disk``: they are read batch by batch.
        batches_ahead: number of batches that are read ahead from disk.
        angles_at_once: angles of a rank that are back-projected at once for the initial volume; None: all.
        checkpoint_every: smallest number of epochs between two checkpoints; None: by time.
        notes: remarks for the user about the plan.
    """

    part: ClassVar[str] = "storage"
    gradient: Gradient
    memory_bytes: int
    frames_in: FramesIn = "memory"
    batches_ahead: int = 1
    angles_at_once: int | None = None
    checkpoint_every: int | None = None
    notes: tuple[str, ...] = ()


Part = VolumePart | ModelPart | FitPart | MeshPart | StoragePart
PARTS = (VolumePart, ModelPart, FitPart, MeshPart, StoragePart)

IDENTITY_PARTS = (VolumePart, ModelPart, FitPart)
"""Parts that determine the reconstructed numbers, except for the order of sums and the accuracy of tile halos."""

STEP_SIZES = ("batch_views", "batches_per_lane")
"""Fit settings that may differ between machines: a job resumes with the step sizes of its new plan."""


def names_of(part: type[Part]) -> tuple[str, ...]:
    """Return the names of a part's fields."""
    return tuple(field.name for field in fields(part))
