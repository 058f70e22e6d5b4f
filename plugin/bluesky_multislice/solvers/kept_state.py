"""State that checkpoints keep: tensors by name, with a version for each class."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from bluesky_multislice.errors import JobError


class Stateful(Protocol):
    """Has a state from which a fit resumes.

    Attributes:
        STATE_VERSION: version of the names and meanings in ``state``; it grows with each change of them.
    """

    STATE_VERSION: ClassVar[int]

    def state(self) -> dict[str, Tensor]:
        """Return the state by name."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned.

        Raises:
            JobError: the state has another version.
        """
        ...


def named_numbers(owner: str, version: int, **numbers: float) -> dict[str, Tensor]:
    """Return the version and the numbers of a state by name.

    Args:
        owner: prefix of the names.
        version: version of the owner's state.
        numbers: numbers by name.
    """
    return {
        f"{owner}/{name}": torch.tensor(number, dtype=torch.float64)
        for name, number in {"version": version, **numbers}.items()
    }


def read_numbers(state: Mapping[str, Tensor], owner: str, version: int, *names: str) -> list[float]:
    """Return numbers of a state, after a check of its version.

    Args:
        state: tensors by name.
        owner: prefix of the names.
        version: the version that can be read.
        names: names of the numbers.

    Raises:
        JobError: the state has another version.
    """
    found = int(state.get(f"{owner}/version", torch.zeros(())))
    if found != version:
        raise wrong_version(owner, found, version)
    return [float(state[f"{owner}/{name}"]) for name in names]


def wrong_version(owner: str, found: int, version: int) -> JobError:
    """Return the error for a state that another release has written."""
    return JobError(
        f"A fit resumes from version {version} of the state of its {owner}.",
        got=f"version {found}, from {'an older' if found < version else 'a newer'} release of this package.",
        remedy="resume the job with the release that started it, or remove its checkpoints to start again.",
    )
