"""The demo's report: compares the volumes in Tiled with the truth, as table, picture and JSON.

Shapes: volumes (z, y, x).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from scipy.ndimage import map_coordinates
from tiled.client.container import Container

from bluesky_multislice.catalog import find_reconstructions
from bluesky_multislice.demo.flow_runs import MonitoredRun
from bluesky_multislice.errors import CatalogError
from bluesky_multislice.simulation.phantoms import Sample

_PLANES = (("x", "y", 0), ("x", "z", 1), ("y", "z", 2))
"""Horizontal axis, vertical axis, and the index of the axis normal to the slice."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A reconstruction read from Tiled and compared with the truth.

    Attributes:
        run: the flow run that made it.
        path: its path in Tiled.
        delta: (z, y, x) δ on the grid of the truth.
        figures: figures of merit from its provenance.
        relative_error: ‖δ − truth‖ / ‖truth‖.
        correlation: Pearson correlation of δ with the truth.
    """

    run: MonitoredRun
    path: str
    delta: NDArray[np.float32]
    figures: dict[str, Any]
    relative_error: float
    correlation: float

    def as_dict(self) -> dict[str, Any]:
        """Return all values except the volume, for JSON."""
        flow_run = self.run.flow_run
        return {
            "technique": self.run.technique,
            "run_uid": self.run.run_uid,
            "flow_run": {"id": str(flow_run.id), "name": flow_run.name} if flow_run else None,
            "model": self.run.recipe.propagation,
            "recipe_digest": self.run.recipe.digest(),
            "tiled_path": self.path,
            "relative_error": self.relative_error,
            "correlation": self.correlation,
            "held_back_r_factor": self.figures["held_back_r_factor"],
            "figures": self.figures,
            "seconds": self.run.seconds,
        }


def read_outcome(client: Container, run: MonitoredRun, sample: Sample) -> Outcome:
    """Read a reconstruction from Tiled and compare it with the truth.

    Raises:
        CatalogError: Tiled has no complete reconstruction of the run.
    """
    found = find_reconstructions(client, run.run_uid, run.recipe.digest())
    complete = [reconstruction.path for reconstruction in found if reconstruction.status == "complete"]
    if not complete:
        raise CatalogError(
            "A completed flow run must have published a complete reconstruction.",
            got=f"none of {run.run_uid} with recipe {run.recipe.digest()}.",
            remedy="read the log of its flow run.",
        )
    node = client[complete[-1]]
    delta = _on_grid_of_truth(node["delta"], sample)
    return Outcome(
        run,
        complete[-1],
        delta,
        dict(node.metadata["figures"]),
        float(np.linalg.norm(delta - sample.delta) / np.linalg.norm(sample.delta)),
        float(np.corrcoef(delta.ravel(), sample.delta.ravel())[0, 1]),
    )


def _on_grid_of_truth(node: Any, sample: Sample) -> NDArray[np.float32]:
    """Interpolate the volume at the voxels of the truth. Both grids are relative to the rotation axis."""
    volume, indices = np.asarray(node.read(), np.float32), []
    for axis, (pitch, center) in enumerate(zip(node.metadata["voxel_size_m"], node.metadata["center_m"], strict=True)):
        n = sample.delta.shape[axis]
        position_m = (np.arange(n) - (n - 1) / 2) * sample.voxel_size_m
        indices.append((position_m - center) / pitch + (volume.shape[axis] - 1) / 2)
    return np.asarray(map_coordinates(volume, np.meshgrid(*indices, indexing="ij"), order=1), np.float32)


def make_tables(outcomes: list[Outcome]) -> tuple[Table, Table]:
    """Return the tables that the demo prints: figures of merit, and seconds per stage."""
    figures = Table(title="Automatic reconstructions (multislice) and reruns with a thin-sample model (projection)")
    for name in ("scan", "flow run", "model", "error δ", "correlation", "validation R"):
        figures.add_column(name)
    stages = list(dict.fromkeys(stage for outcome in outcomes for stage in outcome.run.seconds))
    seconds = Table("flow run", *stages, title="Seconds per stage")
    for outcome in outcomes:
        run, name = outcome.run, outcome.run.flow_run.name if outcome.run.flow_run else ""
        held_back = outcome.figures["held_back_r_factor"]
        figures.add_row(
            run.technique,
            name,
            run.recipe.propagation,
            f"{outcome.relative_error:.3f}",
            f"{outcome.correlation:.3f}",
            "" if held_back is None else f"{held_back:.4f}",
        )
        seconds.add_row(name, *(f"{run.seconds.get(stage, 0):.1f}" for stage in stages))
    return figures, seconds


def save_picture(path: Path, sample: Sample, outcomes: list[Outcome]) -> None:
    """Save orthogonal slices of truth and reconstructions side by side.

    Args:
        path: PNG file.
        sample: the truth.
        outcomes: reconstructions of its scan.
    """
    columns = [("truth", sample.delta)]
    columns += [
        (f"{outcome.run.recipe.propagation}\nerror {outcome.relative_error:.2f}", outcome.delta) for outcome in outcomes
    ]
    figure = Figure(figsize=(3.2 * len(columns), 9.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, len(columns), squeeze=False)
    top, image = float(sample.delta.max()), None
    for row, (across, up, axis) in enumerate(_PLANES):
        for column, (title, volume) in enumerate(columns):
            axes = grid[row][column]
            central = np.take(volume, volume.shape[axis] // 2, axis=axis)
            image = axes.imshow(central, origin="lower", cmap="gray", vmin=-0.1 * top, vmax=top)
            axes.set(xlabel=across, ylabel=up, xticks=[], yticks=[], title=title if row == 0 else "")
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.5, label="δ")
    figure.savefig(path, dpi=110)
