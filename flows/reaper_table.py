"""What the reaper does, for each state of a job's record and of its flow run in Prefect.

``reap_jobs`` executes the table, and docs/reference/reaper.md shows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from prefect.client.schemas.objects import FlowRun

from bluesky_multislice.jobs import RecordState


class FlowRunState(StrEnum):
    """State of a flow run: the types of Prefect's states, and that Prefect does not have the flow run."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    FAILED = "failed"
    CRASHED = "crashed"
    DELETED = "deleted"


class Condition(StrEnum):
    """When the reaper takes an action. Before that it waits."""

    NONE = "–"
    NO_HEARTBEAT = "no heartbeat for 60 s"
    QUIET = "no heartbeat, and unchanged in Prefect, for 60 s"
    SETTLED = "unchanged in Prefect for 60 s"


class Action(StrEnum):
    """What the reaper does with a job."""

    NOTHING = "nothing"
    RUN_AGAIN = "mark the flow run as crashed, and run it again if it has attempts left"
    RUN_AGAIN_OR_PUBLISH = "run the flow run again; without attempts left, publish the result, or end the job"
    PUBLISH = "publish the result; without a result, end the job and record it as cancelled"
    CANCEL = "end the job and record it as cancelled"
    CONFIRM_CANCELLATION = "end the job, record it as cancelled, and mark the flow run as cancelled"
    RECORD_FAILURE = "end the job and record it as failed"
    RECORD_PUBLICATION = "record the job as published"
    CONFIRM_PUBLICATION = "end the job if it still runs, and mark the flow run as completed"
    END_LEFTOVER = "end the job if it still runs"


@dataclass(frozen=True)
class Rule:
    """An action and its condition."""

    action: Action
    condition: Condition = Condition.NONE


_WITHOUT_OUTCOME = {
    FlowRunState.SCHEDULED: Rule(Action.NOTHING),
    FlowRunState.PENDING: Rule(Action.RUN_AGAIN, Condition.QUIET),
    FlowRunState.RUNNING: Rule(Action.RUN_AGAIN, Condition.QUIET),
    FlowRunState.PAUSED: Rule(Action.NOTHING),
    FlowRunState.CANCELLING: Rule(Action.CONFIRM_CANCELLATION, Condition.QUIET),
    FlowRunState.CANCELLED: Rule(Action.CANCEL, Condition.NO_HEARTBEAT),
    FlowRunState.COMPLETED: Rule(Action.RECORD_PUBLICATION, Condition.NO_HEARTBEAT),
    FlowRunState.FAILED: Rule(Action.RECORD_FAILURE, Condition.NO_HEARTBEAT),
    # The last heartbeat was written before the crash.
    FlowRunState.CRASHED: Rule(Action.RUN_AGAIN_OR_PUBLISH, Condition.SETTLED),
    FlowRunState.DELETED: Rule(Action.PUBLISH, Condition.NO_HEARTBEAT),
}
_WITH_OUTCOME = dict.fromkeys(FlowRunState, Rule(Action.END_LEFTOVER, Condition.NO_HEARTBEAT))
# A volume in the catalogue is final, whatever happened to its flow afterwards.
_PUBLISHED = _WITH_OUTCOME | {
    FlowRunState.RUNNING: Rule(Action.CONFIRM_PUBLICATION, Condition.QUIET),
    FlowRunState.FAILED: Rule(Action.CONFIRM_PUBLICATION, Condition.QUIET),
    FlowRunState.CRASHED: Rule(Action.CONFIRM_PUBLICATION, Condition.QUIET),
}
_RULES = {
    RecordState.STAGED: _WITHOUT_OUTCOME,
    RecordState.SUBMITTED: _WITHOUT_OUTCOME,
    RecordState.PUBLISHED: _PUBLISHED,
    RecordState.FAILED: _WITH_OUTCOME,
    RecordState.CANCELLED: _WITH_OUTCOME,
}

REAPER_TABLE: dict[tuple[RecordState, FlowRunState], Rule] = {
    (record, flow_run): _RULES[record][flow_run] for record in RecordState for flow_run in FlowRunState
}
"""State of the record, state of the flow run → rule. Every combination is in the table."""


def flow_run_state(flow_run: FlowRun | None) -> FlowRunState:
    """Return the state of a flow run; None is a deleted one."""
    if flow_run is None:
        return FlowRunState.DELETED
    return FlowRunState(flow_run.state.type.value.lower()) if flow_run.state else FlowRunState.SCHEDULED


def reaper_table_lines() -> Iterator[str]:
    """Yield the lines of the table in Markdown. Rows with the same rule are merged."""
    rows: dict[tuple[RecordState, Rule], list[FlowRunState]] = {}
    for (record, flow_run), rule in REAPER_TABLE.items():
        rows.setdefault((record, rule), []).append(flow_run)
    merged: dict[tuple[str, Rule], list[RecordState]] = {}
    for (record, rule), flow_runs in rows.items():
        names = "any" if len(flow_runs) == len(FlowRunState) else ", ".join(flow_runs)
        merged.setdefault((names, rule), []).append(record)
    yield "| job record | flow run | condition | action |"
    yield "| --- | --- | --- | --- |"
    for (flow_runs, rule), records in merged.items():
        yield f"| {', '.join(records)} | {flow_runs} | {rule.condition} | {rule.action} |"
