"""Errors: each gives the rule, what came and the remedy."""


class MultisliceError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        rule: what must hold.
        got: what came instead.
        remedy: what the person can do about it.
    """

    def __init__(self, rule: str, *, got: str, remedy: str) -> None:
        super().__init__(rule, got, remedy)
        self.rule, self.got, self.remedy = rule, got, remedy

    def __reduce__(self):
        """Pickle with the keyword arguments (Prefect and process pools pickle errors)."""
        return _rebuild, (type(self), self.rule, self.got, self.remedy)

    def __str__(self) -> str:
        return f"{self.rule} Got: {self.got} Remedy: {self.remedy}"


def _rebuild(kind: type[MultisliceError], rule: str, got: str, remedy: str) -> MultisliceError:
    return kind(rule, got=got, remedy=remedy)


class ScanError(MultisliceError):
    """The scan's metadata or geometry cannot be used: a value is missing, contradictory or unphysical."""


class FramesError(MultisliceError):
    """The measured frames cannot be used: missing, truncated, or with values no detector may deliver."""


class RecipeError(MultisliceError):
    """The recipe has an unknown field or a value out of range."""


class PlanError(MultisliceError):
    """No plan satisfies the recipe on this scan with these resources."""


class JobError(MultisliceError):
    """The reconstruction job ended without a result."""


class LostRankError(JobError):
    """A rank of the job has gone, killed or with its machine: started again, the job may come to its end."""


class SchedulerError(MultisliceError):
    """The scheduler refused a job or did not answer, or its site profile cannot be used."""


class CatalogError(MultisliceError):
    """The Tiled server refused or lacks what was asked of it."""
