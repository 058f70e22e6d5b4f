"""What the loop of a fit carries from epoch to epoch beside the unknowns: how far it is, and its random numbers."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bluesky_multislice.solvers.solution import Epoch, Status


@dataclass(frozen=True)
class Begun:
    """An epoch between two of its steps.

    Attributes:
        lanes: number of lanes that its steps take batches from.
        batch_views: most views of a batch.
        batches_per_lane: batches of each lane in a step.
        steps: how many it has done.
        misfit: of their frames, summed, before each of them.
        pixels: that it is summed over.
    """

    lanes: int
    batch_views: int
    batches_per_lane: int = 1
    steps: int = 0
    misfit: float = 0.0
    pixels: float = 0.0


@dataclass
class Course:
    """How far a fit is.

    Attributes:
        empty: whether the volume was empty at its start.
        least_loss: the start's misfit of the frames that judge; inf where there were none.
        best_epoch: epoch that explained them best so far; 0 before the first.
        best_loss: its misfit.
        noise: see ``regularisers.noise_of_vacuum``.
        status: why it ended.
        ended: whether it has.
        history: one row an epoch.
        begun: the epoch behind them, where it is kept between two of its steps.
    """

    empty: bool
    least_loss: float
    best_epoch: int = 0
    best_loss: float = math.inf
    noise: float = 0.0
    status: Status = "epochs_spent"
    ended: bool = False
    history: list[Epoch] = field(default_factory=list)
    begun: Begun | None = None

    @property
    def seconds(self) -> float:
        """Seconds since it began, less those between an interruption and its resumption."""
        return self.history[-1].seconds if self.history else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Course":
        """Rebuild it from ``as_dict``."""
        begun = None if values["begun"] is None else Begun(**values["begun"])
        return cls(**{**values, "history": [Epoch(**row) for row in values["history"]], "begun": begun})


def random_state(rank: int, shuffles: Mapping[int, np.random.Generator]) -> dict[str, Tensor]:
    """Return the state of random numbers, by name: of the order of views in each lane, and PyTorch's of this rank."""
    found = {f"rank{rank}/torch": torch.get_rng_state()}
    for lane, shuffle in shuffles.items():
        text = json.dumps(shuffle.bit_generator.state).encode()
        found[f"sampler/{lane}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return found


def load_random_state(state: Mapping[str, Tensor], shuffles: Mapping[int, np.random.Generator]) -> None:
    """Go on from ``random_state``; a lane or a rank that was not there before keeps what it has."""
    for lane, shuffle in shuffles.items():
        if f"sampler/{lane}" in state:
            shuffle.bit_generator.state = json.loads(bytes(state[f"sampler/{lane}"].tolist()))
    if "rank/torch" in state:
        torch.set_rng_state(state["rank/torch"])
