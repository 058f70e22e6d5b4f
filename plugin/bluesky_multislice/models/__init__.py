"""Forward models: geometry in buffers, the unknowns always arguments, noiseless expected intensity out."""

from bluesky_multislice.models.forward import ForwardModel
from bluesky_multislice.models.illumination import embed, initial_probe

__all__ = ["ForwardModel", "embed", "initial_probe"]
