"""Progress of a fit, and the state of its random numbers."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bluesky_multislice.solvers.kept_state import named_numbers, read_numbers, wrong_version
from bluesky_multislice.solvers.solution import Epoch, Status


@dataclass(frozen=True)
class EpochProgress:
    """Progress of an epoch that is stopped between two steps.

    Attributes:
        lanes: number of lanes; a step takes batches from each.
        batch_views: largest number of views per batch.
        batches_per_lane: batches of each lane per step.
        steps: steps done.
        misfit: misfit summed over the frames of these steps, each before its step.
        pixels: number of pixels in this sum.
    """

    lanes: int
    batch_views: int
    batches_per_lane: int = 1
    steps: int = 0
    misfit: float = 0.0
    pixels: float = 0.0


@dataclass
class FitProgress:
    """Progress of a fit.

    Attributes:
        empty: whether the initial guess is an empty volume.
        initial_loss: misfit of the initial guess on the validation frames, or on the fitted frames if none are held
            back; inf if there are no frames.
        best_epoch: epoch with the lowest misfit so far; 0 before the first.
        best_loss: misfit of that epoch.
        noise: see ``priors.vacuum_noise_weight``.
        status: why the fit ended.
        ended: whether the fit has ended.
        history: one row per epoch.
        partial_epoch: the epoch after ``history``, if the fit is stopped between two of its steps.
    """

    empty: bool
    initial_loss: float
    best_epoch: int = 0
    best_loss: float = math.inf
    noise: float = 0.0
    status: Status = "epochs_spent"
    ended: bool = False
    history: list[Epoch] = field(default_factory=list)
    partial_epoch: EpochProgress | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start, without the time between an interruption and its resumption."""
        return self.history[-1].seconds if self.history else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers for JSON, with the keys that checkpoints use."""
        return {"version": _PROGRESS_VERSION} | {_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FitProgress":
        """Rebuild it from ``as_dict``.

        Raises:
            JobError: the values have another version.
        """
        version = values.get("version", 0)
        if version != _PROGRESS_VERSION:
            raise wrong_version("progress", version, _PROGRESS_VERSION)
        names = {key: name for name, key in _KEYS.items()}
        found = {names.get(key, key): value for key, value in values.items() if key != "version"}
        partial = None if found["partial_epoch"] is None else EpochProgress(**found["partial_epoch"])
        return cls(**{**found, "history": [Epoch(**row) for row in found["history"]], "partial_epoch": partial})


_PROGRESS_VERSION = 1
"""Version of ``FitProgress`` in checkpoints."""

_KEYS = {"initial_loss": "least_loss", "partial_epoch": "begun"}
"""Field of ``FitProgress`` → its key in checkpoints, where they differ."""


_RANDOM_VERSION = 1
"""Version of the random state in checkpoints; see ``Stateful``."""


def random_state(rank: int, shuffles: Mapping[int, np.random.Generator]) -> dict[str, Tensor]:
    """Return the random state by name: the order of views in each lane, and PyTorch's generator of this rank."""
    found = named_numbers("random", _RANDOM_VERSION) | {f"rank{rank}/torch": torch.get_rng_state()}
    for lane, shuffle in shuffles.items():
        text = json.dumps(shuffle.bit_generator.state).encode()
        found[f"sampler/{lane}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return found


def load_random_state(state: Mapping[str, Tensor], shuffles: Mapping[int, np.random.Generator]) -> None:
    """Restore what ``random_state`` returned; lanes and ranks that it does not name keep their state.

    Raises:
        JobError: the state has another version.
    """
    read_numbers(state, "random", _RANDOM_VERSION)
    for lane, shuffle in shuffles.items():
        if f"sampler/{lane}" in state:
            shuffle.bit_generator.state = json.loads(bytes(state[f"sampler/{lane}"].tolist()))
    if "rank/torch" in state:
        torch.set_rng_state(state["rank/torch"])
