"""Predicted cost of a plan: memory, exchange, work and time."""

from bluesky_multislice.planning.cost.data_sheet import DataSheet, data_sheets, machine_name
from bluesky_multislice.planning.cost.exchange import Exchange, exchange_of, rows_from_other_slabs
from bluesky_multislice.planning.cost.machine_profile import (
    MachineProfile,
    measure_machine,
    read_profile,
    write_profile,
)
from bluesky_multislice.planning.cost.memory import (
    MemoryParts,
    computed_field,
    host_memory_parts,
    memory_parts,
    with_memory,
)
from bluesky_multislice.planning.cost.prediction import (
    Prediction,
    predict_cost,
    reduction_seconds,
    rotation_seconds_per_voxel,
    step_seconds_per_voxel,
)
from bluesky_multislice.planning.cost.work import TransformKind, Work, transforms_of, work_of

__all__ = [
    "DataSheet",
    "Exchange",
    "MachineProfile",
    "MemoryParts",
    "Prediction",
    "TransformKind",
    "Work",
    "computed_field",
    "data_sheets",
    "exchange_of",
    "host_memory_parts",
    "machine_name",
    "measure_machine",
    "memory_parts",
    "predict_cost",
    "read_profile",
    "reduction_seconds",
    "rotation_seconds_per_voxel",
    "rows_from_other_slabs",
    "step_seconds_per_voxel",
    "transforms_of",
    "with_memory",
    "work_of",
    "write_profile",
]
