"""The reconstruction itself, what it starts from, and the expected frames of a volume."""

from bluesky_multislice.reconstruction.predict import add_photon_noise, photon_scale, predict_frames
from bluesky_multislice.reconstruction.reconstruct import Reconstruction, reconstruct

__all__ = [
    "Reconstruction",
    "add_photon_noise",
    "photon_scale",
    "predict_frames",
    "reconstruct",
]
