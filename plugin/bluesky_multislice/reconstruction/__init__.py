"""Reconstruction of a scan, its initial guess, and simulation of a volume's frames."""

from bluesky_multislice.reconstruction.reconstruct import Reconstruction, reconstruct
from bluesky_multislice.reconstruction.simulate import add_photon_noise, photon_scale, simulate_frames
from bluesky_multislice.reconstruction.verdict import Finding, Verdict, rule_lines

__all__ = [
    "Finding",
    "Reconstruction",
    "Verdict",
    "add_photon_noise",
    "photon_scale",
    "reconstruct",
    "rule_lines",
    "simulate_frames",
]
