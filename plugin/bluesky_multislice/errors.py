"""Error classes; every error states the violated rule, the value found and the remedy."""


class MultisliceError(Exception):
    """Base class of all errors that this package raises deliberately.

    Args:
        rule: the condition that must hold.
        got: the value or state that violates it.
        remedy: what the user can do.
    """

    def __init__(self, rule: str, *, got: str, remedy: str) -> None:
        super().__init__(rule, got, remedy)
        self.rule, self.got, self.remedy = rule, got, remedy

    def __reduce__(self):
        """Support pickling, which loses keyword arguments otherwise (Prefect and process pools pickle errors)."""
        return _rebuild, (type(self), self.rule, self.got, self.remedy)

    def __str__(self) -> str:
        return f"{self.rule} Got: {self.got} Remedy: {self.remedy}"


def _rebuild(kind: type[MultisliceError], rule: str, got: str, remedy: str) -> MultisliceError:
    return kind(rule, got=got, remedy=remedy)


class ScanError(MultisliceError):
    """The scan's metadata or geometry is unusable: a value is missing, inconsistent or unphysical."""


class FramesError(MultisliceError):
    """The measured frames are unusable: missing, truncated, or with invalid pixel values."""


class RecipeError(MultisliceError):
    """The recipe has an unknown field or a value out of range."""


class PlanError(MultisliceError):
    """No plan satisfies the recipe for this scan with the available resources."""


class JobError(MultisliceError):
    """The reconstruction job ended without a result."""


class LostRankError(JobError):
    """A rank of the job ended unexpectedly, for example with its node; restarting the job may succeed."""


class SchedulerError(MultisliceError):
    """The scheduler rejected a job or did not respond, or the site profile is unusable."""


class ExtensionError(MultisliceError):
    """An installed package offers something by an entry point that this package cannot use."""


class CatalogError(MultisliceError):
    """The Tiled server refused a request or lacks the requested data."""


class CatalogAwayError(CatalogError):
    """The Tiled server has not answered for as long as it was waited for."""
