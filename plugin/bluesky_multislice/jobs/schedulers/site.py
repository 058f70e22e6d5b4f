"""Site profile: which machine computes, how a job gets a part of it, and what a recipe may change about that."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bluesky_multislice.errors import PlanError, RecipeError, SchedulerError
from bluesky_multislice.jobs.schedulers.environment import names_a_key
from bluesky_multislice.parallel import requested_threads
from bluesky_multislice.planning import Machine
from bluesky_multislice.recipe import Constraint, Name, Resources

_OWN = frozenset(
    "array chdir error export job-name no-requeue nodes ntasks ntasks-per-node open-mode output requeue signal".split()
)
"""Options of sbatch that the batch script sets."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _no_key(name: str) -> str:
    if names_a_key(name):
        raise ValueError("names a key: a profile ends in every job folder, where no key may be")
    return name


def _not_ours(directive: str) -> str:
    if directive[2:].partition("=")[0] in _OWN:
        raise ValueError("is set by the batch script itself")
    return directive


Line = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"), AfterValidator(_no_key)]
Directive = Annotated[
    str, Field(pattern=r"^--[a-z][a-z-]*(=[A-Za-z0-9_.,:+@%/=\[\]-]+)?$", max_length=200), AfterValidator(_not_ours)
]


class Overrides(BaseModel):
    """What a recipe may change: numbers up to these, names among these. None and (): nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int | None = Field(default=None, ge=1, description="Most nodes.")
    gpus_per_node: int | None = Field(default=None, ge=0, description="Most GPUs a node.")
    cpus_per_task: int | None = Field(default=None, ge=1, description="Most processor cores a node.")
    memory_gb: int | None = Field(default=None, ge=1, description="Most memory a node, GB.")
    walltime_minutes: int | None = Field(default=None, ge=1, description="Longest walltime, min.")
    nice: int | None = Field(default=None, ge=0, description="Furthest that a job may stand back.")
    partition: tuple[Name, ...] = Field(default=(), description="Partitions.")
    account: tuple[Name, ...] = Field(default=(), description="Accounts.")
    qos: tuple[Name, ...] = Field(default=(), description="Qualities of service.")
    constraint: tuple[Constraint, ...] = Field(default=(), description="Constraints.")

    def refusal(self, field: str, value: int | str) -> str | None:
        """Return why a recipe may not set ``field`` to ``value``; None where it may."""
        allowed = getattr(self, field)
        if isinstance(allowed, tuple):
            return None if value in allowed else f"one of {', '.join(allowed)}" if allowed else "the site's only"
        if allowed is None:
            return "the site's only"
        return None if int(value) <= allowed else f"at most {allowed}"


class SiteProfile(BaseModel):
    """A site profile (TOML). Whoever writes it is trusted: its setup lines run in the batch script as they stand."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(default="this machine", max_length=100, description="Name of the machine.")
    scheduler: Literal["local", "slurm"] = Field(default="local", description="What starts jobs there.")
    python: Line | None = Field(default=None, description="Interpreter on the nodes. None: the one of the flow.")
    container: tuple[Line, ...] = Field(default=(), description="Words before the interpreter, such as apptainer's.")
    setup: tuple[Line, ...] = Field(default=(), description="Lines of shell before the job, such as module load.")
    environment: Mapping[VariableName, Line] = Field(
        default_factory=dict, description="The job's environment. Nothing of the flow's own reaches it."
    )
    partition: Name | None = Field(default=None, description="Partition. None: Slurm's default.")
    account: Name | None = Field(default=None, description="Account that is charged. None: the user's default.")
    qos: Name | None = Field(default=None, description="Quality of service. None: the default.")
    constraint: Constraint | None = Field(default=None, description="Features that nodes must have.")
    nodes: int = Field(default=1, ge=1, le=1024, description="Nodes of a job.")
    ranks_per_node: int | None = Field(default=None, ge=1, le=1024, description="Most ranks a node. None: one a GPU.")
    gpus_per_node: int = Field(default=0, ge=0, le=64, description="GPUs a node.")
    device: Literal["cpu", "gpu", "cuda", "xpu"] | None = Field(
        default=None, description="Where ranks compute, see the recipe's device. None: on GPUs if any."
    )
    cpus_per_task: int | None = Field(default=None, ge=1, le=1024, description="Cores a node. None: one a rank.")
    memory_gb: int | None = Field(default=None, ge=1, le=65536, description="Memory a node, GB. None: the default.")
    gpu_memory_gb: int | None = Field(default=None, ge=1, le=1024, description="Memory of one GPU, GB; for the plan.")
    walltime_minutes: int = Field(
        default=60, ge=1, le=43_200, description="Time after which a job is interrupted, min."
    )
    warning_seconds: int = Field(
        default=120, ge=1, le=3600, description="How long before its walltime a job is asked for a checkpoint, s."
    )
    most_restarts: int = Field(default=5, ge=0, le=100, description="How often a job that needs more time is requeued.")
    nice: int = Field(default=0, ge=0, le=1_000_000, description="How far jobs stand back behind others.")
    directives: tuple[Directive, ...] = Field(
        default=(), description="More options of sbatch, such as --reservation=x."
    )
    readers: Literal["user", "group"] = Field(default="group", description="Who may read job folders.")
    overrides: Overrides = Field(default_factory=Overrides, description="What a recipe may change.")

    @property
    def accelerator(self) -> bool:
        """Whether ranks compute on GPUs."""
        return self.device not in (None, "cpu") or (self.device is None and self.gpus_per_node > 0)

    @property
    def most_ranks_per_node(self) -> int:
        """Most ranks of a node: as the profile says, else one a GPU or core, and never more than its GPUs on GPUs."""
        if not self.accelerator:
            return self.ranks_per_node or self.cpus_per_task or self.gpus_per_node or 1
        asked, gpus = self.ranks_per_node, self.gpus_per_node
        return min(asked, gpus) if asked and gpus else asked or gpus

    @field_validator("environment")
    @classmethod
    def _some_threads(cls, environment: Mapping[str, str]) -> Mapping[str, str]:
        try:
            requested_threads(environment)
        except PlanError as error:
            raise ValueError(f"{error.rule} {error.remedy}") from error
        return environment

    @model_validator(mode="after")
    def _slurm_needs_a_size(self) -> "SiteProfile":
        if self.scheduler == "local":
            return self
        if not (self.ranks_per_node or self.gpus_per_node):
            raise ValueError("give gpus_per_node, or ranks_per_node where there are no GPUs")
        if not (self.gpu_memory_gb if self.accelerator else self.memory_gb):
            raise ValueError(
                "give gpu_memory_gb, or memory_gb where ranks compute on processors: plans are made for it"
            )
        return self


@dataclass(frozen=True)
class Allocation:
    """What one job gets. None: the scheduler's default.

    Attributes:
        nodes: number of nodes.
        ranks_per_node: processes on each.
        gpus_per_node: GPUs on each.
        cpus_per_task: cores on each.
        memory_gb: memory on each.
        walltime_minutes: time limit; None: none.
        partition: name of the partition.
        account: name of the account.
        qos: name of the quality of service.
        constraint: features of the nodes.
        nice: how far the job stands back.
    """

    nodes: int = 1
    ranks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int | None = None
    memory_gb: int | None = None
    walltime_minutes: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nice: int = 0


def read_site(path: Path | None) -> SiteProfile:
    """Read a site profile; without a path, the one of this machine.

    Raises:
        SchedulerError: the file is missing, no TOML, or has unknown fields or values out of range.
    """
    if path is None:
        return SiteProfile()
    try:
        return SiteProfile.model_validate(tomllib.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise SchedulerError(
            "A site profile must be readable TOML with known fields and values in range.",
            got=f"{path}: {_faults(error)}.",
            remedy="correct it after the examples in deploy/slurm/.",
        ) from error


def granted(profile: SiteProfile, resources: Resources) -> SiteProfile:
    """Return the profile with what a recipe asks for.

    Raises:
        RecipeError: the profile does not allow it.
    """
    asked = resources.requested()
    refused = {field: why for field, value in asked.items() if (why := profile.overrides.refusal(field, value))}
    if refused:
        raise RecipeError(
            "A recipe may ask for what the site's profile allows only.",
            got="; ".join(f"resources.{field} = {asked[field]!r}, allowed is {why}" for field, why in refused.items())
            + f", on {profile.name}.",
            remedy="ask for less, or have [overrides] of the site's profile changed.",
        )
    return profile.model_copy(update=asked)


def machine_of(profile: SiteProfile, resources: Resources) -> Machine | None:
    """Return the machine that a plan is made for; None for this one.

    Raises:
        RecipeError: the profile does not allow what the recipe asks for.
        PlanError: ranks are to compute on processors of nodes whose memory the profile does not tell.
    """
    site = granted(profile, resources)
    if site.scheduler == "local":
        return None
    places, node_bytes = site.most_ranks_per_node, (site.memory_gb or 0) * 10**9
    if site.ranks_per_node and not site.accelerator and node_bytes:
        return Machine(site.nodes * places, places, node_bytes, accelerator=False)
    cores = site.cpus_per_task if site.accelerator else places
    gpu_bytes = (site.gpu_memory_gb or 0) * 10**9
    gpus = Machine(site.nodes * places, places, gpu_bytes, True, node_bytes or None, cores)
    return gpus if site.accelerator else gpus.for_device("cpu")


def allocate(profile: SiteProfile, resources: Resources, *, ranks: int, device: str = "auto") -> Allocation:
    """Return what a job of that many ranks gets: as few nodes as hold them, each with the same number.

    Args:
        profile: the site.
        resources: what the recipe asks for.
        ranks: processes of the job.
        device: where the plan computes; on ``cpu`` the job gets no GPUs.

    Raises:
        RecipeError: the profile does not allow what the recipe asks for, has no place for the ranks, or would warn the
            job of its end as it starts.
    """
    site = granted(profile, resources)
    if site.scheduler == "local":
        return Allocation(ranks_per_node=ranks)
    if device == "cpu" and site.accelerator:
        site = site.model_copy(update={"device": "cpu", "gpus_per_node": 0, "ranks_per_node": _on_cores(site)})
    most = site.most_ranks_per_node
    least = math.ceil(ranks / most) if resources.nodes is None else site.nodes
    nodes = next((count for count in range(least, site.nodes + 1) if ranks % count == 0), None)
    if nodes is None or ranks // nodes > most:
        raise RecipeError(
            "Every node of a job has the same number of ranks, within what the site's profile gives.",
            got=f"{ranks} ranks on {site.nodes} nodes of at most {most}, on {profile.name}.",
            remedy="ask for other ranks or resources.nodes.",
        )
    if 60 * site.walltime_minutes <= site.warning_seconds:
        raise RecipeError(
            "A job's walltime must be longer than the warning before its end.",
            got=f"{site.walltime_minutes} min of walltime, a warning of {site.warning_seconds} s, on {profile.name}.",
            remedy="ask for more resources.walltime_minutes, or have warning_seconds of the site's profile lowered.",
        )
    return Allocation(
        nodes=nodes,
        ranks_per_node=ranks // nodes,
        gpus_per_node=site.gpus_per_node,
        cpus_per_task=site.cpus_per_task or ranks // nodes,
        memory_gb=site.memory_gb,
        walltime_minutes=site.walltime_minutes,
        partition=site.partition,
        account=site.account,
        qos=site.qos,
        constraint=site.constraint,
        nice=site.nice,
    )


def _on_cores(site: SiteProfile) -> int:
    """Return the most ranks of a node whose GPUs are left alone."""
    return site.cpus_per_task or site.most_ranks_per_node


def _faults(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors())
