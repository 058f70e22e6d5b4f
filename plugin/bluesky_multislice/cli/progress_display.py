"""What ``multislice reconstruct`` shows: the plan, a progress bar, and the figures of the result."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:  # planning imports PyTorch, which takes long
    from bluesky_multislice.planning import Plan


class ProgressDisplay:
    """Progress bar of a reconstruction.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console)
        self._task = self._progress.add_task("starting", total=None, loss="")

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show_plan(self, plan: "Plan", warnings: tuple[str, ...]) -> None:
        """Show volume, slices and ranks of the plan, and the warnings."""
        self._progress.update(self._task, total=plan.epochs, description=plan.propagation)
        self._progress.console.print(
            f"volume {plan.grid.shape} voxels (z, y, x) of {plan.grid.voxel_size_m[2] * 1e9:.4g} nm, "
            f"{plan.depths_of_field:.2g} depths of field; {plan.slices} slices, {plan.ranks} ranks"
        )
        for warning in warnings:
            self._progress.console.print(f"[yellow]note[/yellow] {warning}")

    def show_epoch(self, epoch: dict[str, Any]) -> None:
        """Show number and losses of an epoch."""
        validation = epoch["held_back_loss"]
        loss = f"loss {epoch['loss']:.3e}" + ("" if validation is None else f"  validation {validation:.3e}")
        self._progress.update(self._task, completed=epoch["epoch"], loss=loss)


def summary_lines(output: Path, provenance: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about a result: warnings and notes that the plan lacks, figures of merit, and the verdict."""
    plan_notes = provenance["plan"]["storage"]["notes"]
    for warning in (*provenance["warnings"], *(note for note in provenance["notes"] if note not in plan_notes)):
        yield f"[yellow]note[/yellow] {warning}"
    figures = provenance["figures"]
    validation, resolution = figures["held_back_r_factor"], figures["half_bit_resolution_m"]
    yield (
        f"{output}: {figures['status']}, best epoch {figures['best_epoch']} of {figures['epochs']}; R-factor "
        f"{figures['r_factor']:.4f}"
        + ("" if validation is None else f", validation {validation:.4f}")
        + ("" if resolution is None else f"; half-bit resolution {resolution * 1e9:.3g} nm")
    )
    colour = {"good": "green", "doubtful": "yellow", "failed": "red"}[figures["verdict"]]
    yield f"[{colour}]verdict: {figures['verdict']}[/{colour}]"
    for finding in figures["findings"]:
        yield f"  {finding['reason']}: {finding['advice']}"
