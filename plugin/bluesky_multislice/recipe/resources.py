"""Resources of a job, declared once.

Prefect form, TOML, command-line options, site profile with its limits, allocation and sbatch options are made from the
fields of ``Resources``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field

# Only characters of Slurm's own names; none with a meaning to a shell, in a path or in a batch script.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+@-]{0,63}$")]
Constraint = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+&|,*()\[\]-]{0,127}$")]
Nodes = Annotated[int, Field(ge=1, le=1024)]
Gpus = Annotated[int, Field(ge=0, le=64)]
Cores = Annotated[int, Field(ge=1, le=1024)]
Gigabytes = Annotated[int, Field(ge=1, le=65536)]
Minutes = Annotated[int, Field(ge=1, le=43_200)]
Nice = Annotated[int, Field(ge=0, le=1_000_000)]


@dataclass(frozen=True)
class SbatchOption:
    """The option of sbatch that a resource sets.

    Attributes:
        name: name of the option.
        text: format of its value.
    """

    name: str
    text: str = "{}"


class Resources(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Resources of one reconstruction. None: the site profile's value."""

    nodes: Annotated[Nodes | None, SbatchOption("nodes")] = Field(
        default=None, description="Nodes of the job. None: as many as the ranks need."
    )
    gpus_per_node: Annotated[Gpus | None, SbatchOption("gpus-per-node")] = Field(
        default=None, description="GPUs per node. None: the site's."
    )
    cpus_per_task: Annotated[Cores | None, SbatchOption("cpus-per-task")] = Field(
        default=None, description="CPU cores per node. None: the site's."
    )
    memory_gb: Annotated[Gigabytes | None, SbatchOption("mem", "{}G")] = Field(
        default=None, description="Memory per node, GB. None: the site's."
    )
    walltime_minutes: Annotated[Minutes | None, SbatchOption("time")] = Field(
        default=None, description="Time limit of the job, min. None: the site's."
    )
    partition: Annotated[Name | None, SbatchOption("partition")] = Field(
        default=None, description="Slurm partition. None: the site's."
    )
    account: Annotated[Name | None, SbatchOption("account")] = Field(
        default=None, description="Account to charge. None: the site's."
    )
    qos: Annotated[Name | None, SbatchOption("qos")] = Field(
        default=None, description="Slurm quality of service, such as one for live scans. None: the site's."
    )
    constraint: Annotated[Constraint | None, SbatchOption("constraint", '"{}"')] = Field(
        default=None, description="Required node features. None: the site's."
    )
    nice: Annotated[Nice | None, SbatchOption("nice")] = Field(
        default=None, description="Decrease of the job's priority (Slurm's nice). None: the site's."
    )

    def requested(self) -> dict[str, int | str]:
        """Return the fields that are set."""
        return self.model_dump(exclude_none=True)

    def sbatch_options(self) -> Iterator[tuple[str, str]]:
        """Yield name and value of the sbatch options. Without a value, or with 0, Slurm's default applies."""
        for name, field in Resources.model_fields.items():
            (option,) = (each for each in field.metadata if isinstance(each, SbatchOption))
            if value := getattr(self, name):
                yield option.name, option.text.format(value)
