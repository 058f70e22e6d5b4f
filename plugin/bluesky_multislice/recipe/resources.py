"""Resources that a user may request for a job, within the limits of the site's profile."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Only characters of Slurm's own names; none with a meaning to a shell, in a path or in a batch script.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+@-]{0,63}$")]
Constraint = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+&|,*()\[\]-]{0,127}$")]


class Resources(BaseModel):
    """Resources of one reconstruction. None: the site profile's value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    nodes: int | None = Field(
        default=None, ge=1, le=1024, description="Nodes of the job. None: as many as the ranks need."
    )
    gpus_per_node: int | None = Field(default=None, ge=0, le=64, description="GPUs per node. None: the site's.")
    cpus_per_task: int | None = Field(default=None, ge=1, le=1024, description="CPU cores per node. None: the site's.")
    memory_gb: int | None = Field(default=None, ge=1, le=65536, description="Memory per node, GB. None: the site's.")
    walltime_minutes: int | None = Field(
        default=None, ge=1, le=43_200, description="Time limit of the job, min. None: the site's."
    )
    partition: Name | None = Field(default=None, description="Slurm partition. None: the site's.")
    account: Name | None = Field(default=None, description="Account to charge. None: the site's.")
    qos: Name | None = Field(
        default=None, description="Slurm quality of service, such as one for live scans. None: the site's."
    )
    constraint: Constraint | None = Field(default=None, description="Required node features. None: the site's.")
    nice: int | None = Field(
        default=None, ge=0, le=1_000_000, description="Decrease of the job's priority (Slurm's nice). None: the site's."
    )

    def requested(self) -> dict[str, int | str]:
        """Return the fields that are set."""
        return self.model_dump(exclude_none=True)
