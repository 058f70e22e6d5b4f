"""Forward models: geometry in buffers, the unknowns always arguments, noiseless expected intensity out."""

from bluesky_multislice.models.adjustments import NO_ADJUSTMENTS, Adjustments
from bluesky_multislice.models.forward import Edges, ForwardModel
from bluesky_multislice.models.illumination import embed, initial_probe, upsample

__all__ = ["NO_ADJUSTMENTS", "Adjustments", "Edges", "ForwardModel", "embed", "initial_probe", "upsample"]
