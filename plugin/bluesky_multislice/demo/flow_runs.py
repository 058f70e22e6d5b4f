"""Finds, monitors and times the demo's flow runs in Prefect, and starts reruns."""

from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun

from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.listener import automatic_key
from bluesky_multislice.recipe import DEPLOYMENT, Recipe


@dataclass
class MonitoredRun:
    """A reconstruction for which the demo waits.

    Attributes:
        technique: technique of the scan.
        run_uid: the scan.
        recipe: recipe of the reconstruction.
        flow_run: the flow run at the last update; None until the listener has started it.
        seconds: duration of each stage; empty until the flow run has ended.
    """

    technique: str
    run_uid: str
    recipe: Recipe
    flow_run: FlowRun | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Name of the flow run's state."""
        if self.flow_run is None:
            return "waiting for the listener"
        return (self.flow_run.state_name or "unknown").lower()

    @property
    def ended(self) -> bool:
        """Whether the flow run has completed.

        Raises:
            JobError: the flow run ended without completing.
        """
        state = self.flow_run.state if self.flow_run else None
        if state is None or not state.is_final():
            return False
        if not state.is_completed():
            raise JobError(
                f"The flow run of the {self.technique} scan {self.run_uid} must complete.",
                got=f"{state.name}: {state.message}",
                remedy=f"read the log of flow run {self.flow_run and self.flow_run.name} in the Prefect UI.",
            )
        return True

    def update(self, client: SyncPrefectClient) -> None:
        """Read the flow run's state from Prefect."""
        if self.flow_run is None:
            self.flow_run = _started_by_listener(client, self.run_uid, self.recipe)
        else:
            self.flow_run = client.read_flow_run(self.flow_run.id)
        if self.flow_run and self.ended:
            self.seconds = _stage_seconds(client, self.flow_run)

    def epochs(self, jobs_root: Path) -> tuple[int, int | None]:
        """Return the number of completed epochs and the largest number of epochs."""
        if self.flow_run is None:
            return 0, None
        records = JobFolder(jobs_root / self.run_uid / str(self.flow_run.id)).read_progress()
        return (records[-1]["epoch"], records[-1]["epochs"]) if records else (0, None)


def rerun(client: SyncPrefectClient, technique: str, run_uid: str, recipe: Recipe) -> MonitoredRun:
    """Start another reconstruction of a scan, as a person would in the Prefect UI."""
    flow_run = client.create_flow_run_from_deployment(
        client.read_deployment_by_name(DEPLOYMENT).id,
        parameters={"run_uid": run_uid, "recipe": recipe.model_dump(mode="json")},
    )
    return MonitoredRun(technique, run_uid, recipe, flow_run)


def _started_by_listener(client: SyncPrefectClient, run_uid: str, recipe: Recipe) -> FlowRun | None:
    key = FlowRunFilterIdempotencyKey(any_=[automatic_key(run_uid, recipe.digest())])
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))
    return found[0] if found else None


def _stage_seconds(client: SyncPrefectClient, flow_run: FlowRun) -> dict[str, float]:
    """Return the duration of each stage. The first entry is the time until the worker has started the process."""
    ids: list[UUID] = [flow_run.id]
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
    ordered = sorted((task for task in tasks if task.start_time), key=lambda task: str(task.start_time))
    seconds = {"start": 0.0}
    if flow_run.created and ordered and ordered[0].start_time:
        seconds["start"] = (ordered[0].start_time - flow_run.created).total_seconds()
    seconds |= {task.name.rsplit("-", 1)[0]: task.total_run_time.total_seconds() for task in ordered}
    return {stage: round(duration, 2) for stage, duration in seconds.items()}
