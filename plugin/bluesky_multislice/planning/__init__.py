"""Plans of reconstructions, made from recipe and scan before anything is allocated."""

from bluesky_multislice.planning.cost import (
    DataSheet,
    Exchange,
    MachineProfile,
    MemoryParts,
    Prediction,
    Work,
    data_sheets,
    exchange_of,
    host_memory_parts,
    machine_name,
    measure_machine,
    predict_cost,
    read_profile,
    work_of,
    write_profile,
)
from bluesky_multislice.planning.grid import window_margin
from bluesky_multislice.planning.identity import identity
from bluesky_multislice.planning.initial_guess import angles_determine_axis
from bluesky_multislice.planning.machine import RESERVE, Machine, this_machine, usable_cores
from bluesky_multislice.planning.memory_advice import out_of_memory
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.planning.planner import make_plan
from bluesky_multislice.planning.stages import (
    thin_plan,
    with_probe_intensity,
    with_probe_modes,
    with_refined_shifts,
    without_former_volume,
)
from bluesky_multislice.planning.step_sizes import small_steps

__all__ = [
    "RESERVE",
    "DataSheet",
    "Exchange",
    "Machine",
    "MachineProfile",
    "MemoryParts",
    "Plan",
    "Prediction",
    "Work",
    "angles_determine_axis",
    "data_sheets",
    "exchange_of",
    "host_memory_parts",
    "identity",
    "machine_name",
    "make_plan",
    "measure_machine",
    "out_of_memory",
    "predict_cost",
    "read_profile",
    "small_steps",
    "thin_plan",
    "this_machine",
    "usable_cores",
    "window_margin",
    "with_probe_intensity",
    "with_probe_modes",
    "with_refined_shifts",
    "without_former_volume",
    "work_of",
    "write_profile",
]
