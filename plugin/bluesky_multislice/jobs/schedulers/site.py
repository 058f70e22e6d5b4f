"""Site profile: the machine that runs the jobs, the resources of a job, and the limits for a recipe."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    create_model,
    field_validator,
    model_validator,
)

from bluesky_multislice.errors import PlanError, RecipeError, SchedulerError
from bluesky_multislice.jobs.environment import holds_secret
from bluesky_multislice.parallel import requested_threads
from bluesky_multislice.planning import Machine
from bluesky_multislice.recipe import Gpus, Minutes, Nodes, Resources, read_toml

_SCRIPT_OPTIONS = frozenset(
    "array chdir error export job-name no-requeue nodes ntasks ntasks-per-node open-mode output requeue signal".split()
)
"""sbatch options that the batch script sets itself."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _no_secret(name: str) -> str:
    if holds_secret(name):
        raise ValueError("must not hold a secret: the profile is copied into every job folder")
    return name


def _settable(directive: str) -> str:
    if directive[2:].partition("=")[0] in _SCRIPT_OPTIONS:
        raise ValueError("is set by the batch script itself")
    return directive


def _known_scheduler(name: str) -> str:
    known = _schedulers()
    if name not in known:
        raise ValueError(f"unknown scheduler; known are {', '.join(known)}")
    return name


def _schedulers() -> Mapping[str, Any]:
    # Imported here because backends are made from a site profile.
    from bluesky_multislice.jobs.schedulers.backends import schedulers

    return schedulers()


SchedulerName = Annotated[str, AfterValidator(_known_scheduler)]
Line = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"), AfterValidator(_no_secret)]
Directive = Annotated[
    str,
    Field(pattern=r"^--[a-z][a-z-]*(=[A-Za-z0-9_.,:+@%/=\[\]-]+)?$", max_length=200),
    AfterValidator(_settable),
]


class Limits(BaseModel, frozen=True, extra="forbid"):
    """Limits for the resources in a recipe: largest numbers and allowed names. None or (): no change is allowed."""

    def refusal(self, field: str, value: int | str) -> str | None:
        """Return the limit that forbids a recipe to set ``field`` to ``value``; None if the value is allowed."""
        allowed = getattr(self, field)
        if isinstance(allowed, tuple):
            return None if value in allowed else f"one of {', '.join(allowed)}" if allowed else "the site's value only"
        if allowed is None:
            return "the site's value only"
        return None if int(value) <= allowed else f"at most {allowed}"


def _limit_of(annotation: Any) -> tuple[Any, Any]:
    """Return type and default of the limit of a resource: the largest number, or the allowed names."""
    kind = next(part for part in get_args(annotation) if part is not type(None))
    return (kind | None, None) if get_args(kind)[0] is int else (tuple[kind, ...], ())


_LIMITS: dict[str, Any] = {name: _limit_of(field.annotation) for name, field in Resources.model_fields.items()}
Overrides = create_model("Overrides", __base__=Limits, **_LIMITS)
"""One limit per field of ``Resources``."""


class SiteProfile(Resources, frozen=True):
    """A site profile (TOML). Its author is trusted: the batch script runs its setup lines unchanged."""

    name: str = Field(default="this machine", max_length=100, description="Name of the machine.")
    scheduler: SchedulerName = Field(
        default="local", description="Scheduler that starts the jobs: local, slurm, or one of another package."
    )
    python: Line | None = Field(default=None, description="Python interpreter on the nodes. None: the flow's.")
    container: tuple[Line, ...] = Field(
        default=(), description="Arguments before the interpreter, such as apptainer exec image.sif."
    )
    setup: tuple[Line, ...] = Field(default=(), description="Shell lines before the job, such as module load.")
    environment: Mapping[VariableName, Line] = Field(
        default_factory=dict, description="Environment variables of the job. Secrets are not allowed."
    )
    nodes: Nodes = Field(default=1, description="Largest number of nodes per job.")
    gpus_per_node: Gpus = Field(default=0, description="GPUs per node.")
    walltime_minutes: Minutes = Field(default=60, description="Time after which a job is interrupted, min.")
    ranks_per_node: int | None = Field(
        default=None, ge=1, le=1024, description="Largest number of ranks per node. None: one per GPU."
    )
    device: Literal["cpu", "gpu", "cuda", "xpu"] | None = Field(
        default=None, description="Device of the ranks, as in the recipe. None: GPUs if the nodes have any."
    )
    gpu_memory_gb: int | None = Field(
        default=None, ge=1, le=1024, description="Memory of one GPU, GB. Used for planning."
    )
    warning_seconds: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="Time between a checkpoint request and the end of the walltime, s.",
    )
    most_restarts: int = Field(
        default=5, ge=0, le=100, description="Largest number of times that a job is requeued for more walltime."
    )
    directives: tuple[Directive, ...] = Field(
        default=(), description="Additional sbatch options, such as --reservation=x."
    )
    readers: Literal["user", "group"] = Field(default="group", description="Who may read the job folders.")
    overrides: Annotated[Limits, BeforeValidator(Overrides.model_validate)] = Field(
        default_factory=Overrides, description="Limits for the resources in a recipe."
    )

    @property
    def on_this_machine(self) -> bool:
        """Whether the scheduler runs jobs on this machine."""
        return _schedulers()[self.scheduler].on_this_machine

    @property
    def own_environment(self) -> bool:
        """Whether jobs are processes of this machine with this Python and its environment."""
        return self.scheduler == "local" and not (self.python or self.container or self.environment)

    @property
    def accelerator(self) -> bool:
        """Whether ranks compute on GPUs."""
        return self.device not in (None, "cpu") or (self.device is None and self.gpus_per_node > 0)

    @property
    def most_ranks_per_node(self) -> int:
        """Largest number of ranks per node: the profile's, or one per GPU or core. At most one rank per GPU."""
        if not self.accelerator:
            return self.ranks_per_node or self.cpus_per_task or self.gpus_per_node or 1
        asked, gpus = self.ranks_per_node, self.gpus_per_node
        return min(asked, gpus) if asked and gpus else asked or gpus

    @field_validator("environment")
    @classmethod
    def _check_threads(cls, environment: Mapping[str, str]) -> Mapping[str, str]:
        try:
            requested_threads(environment)
        except PlanError as error:
            raise ValueError(f"{error.rule} {error.remedy}") from error
        return environment

    @model_validator(mode="after")
    def _check_node_sizes(self) -> "SiteProfile":
        if self.on_this_machine:
            return self
        if not (self.ranks_per_node or self.gpus_per_node):
            raise ValueError("give gpus_per_node, or ranks_per_node if the nodes have no GPUs")
        if not (self.gpu_memory_gb if self.accelerator else self.memory_gb):
            raise ValueError(
                "give gpu_memory_gb, or memory_gb if ranks compute on CPUs: planning needs the memory size"
            )
        return self


class Allocation(Resources, frozen=True):
    """Resources of one job. None: the scheduler's default."""

    nodes: Nodes = Field(default=1, description="Number of nodes.")
    ranks_per_node: int = Field(default=1, ge=1, description="Processes per node.")


def read_site(path: Path | None) -> SiteProfile:
    """Read a site profile. Without a path, return the default profile, which is this machine.

    Raises:
        SchedulerError: the file is missing, is not TOML, or has unknown fields or values out of range.
    """
    if path is None:
        return SiteProfile()
    rule = "A site profile must be readable TOML with known fields and values in range."
    return read_toml(path, SiteProfile, SchedulerError, rule=rule, remedy="correct it; deploy/slurm/ has examples.")


def with_overrides(profile: SiteProfile, resources: Resources) -> SiteProfile:
    """Return the profile with the resources that a recipe requests.

    Raises:
        RecipeError: the profile does not allow these resources.
    """
    asked = resources.requested()
    refused = {field: limit for field, value in asked.items() if (limit := profile.overrides.refusal(field, value))}
    if refused:
        raise RecipeError(
            "A recipe may only request resources that the site profile allows.",
            got="; ".join(f"resources.{field} = {asked[field]!r}, allowed: {limit}" for field, limit in refused.items())
            + f", on {profile.name}.",
            remedy="request less, or change [overrides] in the site profile.",
        )
    return profile.model_copy(update=asked)


def machine_of(profile: SiteProfile, resources: Resources) -> Machine | None:
    """Return the machine for which to plan; None for this machine.

    Raises:
        RecipeError: the profile does not allow the resources that the recipe requests.
        PlanError: ranks shall compute on CPUs and the profile does not give the memory of its nodes.
    """
    site = with_overrides(profile, resources)
    if site.on_this_machine:
        return None
    places, node_bytes = site.most_ranks_per_node, (site.memory_gb or 0) * 10**9
    if site.ranks_per_node and not site.accelerator and node_bytes:
        return Machine(site.nodes * places, places, node_bytes, accelerator=False)
    cores = site.cpus_per_task if site.accelerator else places
    gpu_bytes = (site.gpu_memory_gb or 0) * 10**9
    gpus = Machine(site.nodes * places, places, gpu_bytes, True, node_bytes or None, cores)
    return gpus if site.accelerator else gpus.for_device("cpu")


def allocate(profile: SiteProfile, resources: Resources, *, ranks: int, device: str = "auto") -> Allocation:
    """Return the resources of a job: the fewest nodes that can run its ranks, with equal numbers of ranks per node.

    Args:
        profile: the site profile.
        resources: resources that the recipe requests.
        ranks: number of processes of the job.
        device: device of the plan; with ``cpu`` the job gets no GPUs.

    Raises:
        RecipeError: the profile does not allow the requested resources, its nodes cannot run that many ranks, or the
            walltime is not longer than the warning before its end.
    """
    site = with_overrides(profile, resources)
    if site.on_this_machine:
        return Allocation(ranks_per_node=ranks)
    if device == "cpu" and site.accelerator:
        site = site.model_copy(update={"device": "cpu", "gpus_per_node": 0, "ranks_per_node": _ranks_on_cores(site)})
    most = site.most_ranks_per_node
    least = math.ceil(ranks / most) if resources.nodes is None else site.nodes
    nodes = next((count for count in range(least, site.nodes + 1) if ranks % count == 0), None)
    if nodes is None or ranks // nodes > most:
        raise RecipeError(
            "All nodes of a job must run the same number of ranks, within the limits of the site profile.",
            got=f"{ranks} ranks on {site.nodes} nodes of at most {most}, on {profile.name}.",
            remedy="change the number of ranks or resources.nodes in the recipe.",
        )
    if 60 * site.walltime_minutes <= site.warning_seconds:
        raise RecipeError(
            "A job's walltime must be longer than the warning time before its end.",
            got=f"{site.walltime_minutes} min of walltime, warning time {site.warning_seconds} s, on {profile.name}.",
            remedy="increase resources.walltime_minutes, or reduce warning_seconds in the site profile.",
        )
    allocated: dict[str, Any] = {name: getattr(site, name) for name in Resources.model_fields}
    allocated |= {"nodes": nodes, "ranks_per_node": ranks // nodes}
    allocated["cpus_per_task"] = site.cpus_per_task or ranks // nodes
    return Allocation(**allocated)


def _ranks_on_cores(site: SiteProfile) -> int:
    """Return the largest number of ranks per node if the GPUs are not used."""
    return site.cpus_per_task or site.most_ranks_per_node
