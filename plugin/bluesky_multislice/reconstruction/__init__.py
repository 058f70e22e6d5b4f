"""Reconstruction of a scan, its initial guess, and simulation of a volume's frames."""

from bluesky_multislice.reconstruction.reconstruct import Reconstruction, reconstruct
from bluesky_multislice.reconstruction.simulate import add_photon_noise, photon_scale, simulate_frames

__all__ = [
    "Reconstruction",
    "add_photon_noise",
    "photon_scale",
    "reconstruct",
    "simulate_frames",
]
