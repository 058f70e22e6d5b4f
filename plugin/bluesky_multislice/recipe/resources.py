"""What a person may ask of the machine that computes. Whether it is granted, the site's profile says."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Slurm's own names are words like these. Nothing that a shell, a path or a line of a batch script could take otherwise.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+@-]{0,63}$")]
Constraint = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+&|,*()\[\]-]{0,127}$")]


class Resources(BaseModel):
    """Part of the machine that one reconstruction asks for; None: what the site's profile gives."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    nodes: int | None = Field(
        default=None, ge=1, le=1024, description="Nodes of the job. None: as the ranks need them."
    )
    gpus_per_node: int | None = Field(default=None, ge=0, le=64, description="GPUs a node. None: the site's.")
    cpus_per_task: int | None = Field(
        default=None, ge=1, le=1024, description="Processor cores a node. None: the site's."
    )
    memory_gb: int | None = Field(default=None, ge=1, le=65536, description="Memory a node, GB. None: the site's.")
    walltime_minutes: int | None = Field(
        default=None, ge=1, le=43_200, description="Time after which the job is interrupted, min. None: the site's."
    )
    partition: Name | None = Field(default=None, description="Slurm's partition. None: the site's.")
    account: Name | None = Field(default=None, description="Account that is charged. None: the site's.")
    qos: Name | None = Field(
        default=None, description="Quality of service, such as one for live scans. None: the site's."
    )
    constraint: Constraint | None = Field(default=None, description="Features that nodes must have. None: the site's.")
    nice: int | None = Field(
        default=None, ge=0, le=1_000_000, description="How far the job stands back behind others. None: the site's."
    )

    def requested(self) -> dict[str, int | str]:
        """Return the fields that were given."""
        return self.model_dump(exclude_none=True)
