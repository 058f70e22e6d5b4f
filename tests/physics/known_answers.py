"""Analytic solutions for comparison with the propagations, independent of the package."""

import numpy as np
from scipy import special


def centred(n, pitch):
    """Positions (n,) of samples, the origin in the middle."""
    return (np.arange(n) - (n - 1) / 2) * pitch


def slit(x, width, z, wavelength):
    """Wave (x,) behind a slit, by Fresnel integrals (Goodman, Introduction to Fourier Optics, 4.5.1)."""
    scale = np.sqrt(2 / (wavelength * z))
    (s_high, c_high), (s_low, c_low) = (special.fresnel(scale * (edge - x)) for edge in (width / 2, -width / 2))
    return (c_high - c_low + 1j * (s_high - s_low)) / (1 + 1j)


def gaussian_beam(r, waist, wavelength, abcd, dimensions):
    """Wave at radius r that had its waist before the system ``abcd`` (Siegman, Lasers, ch. 20).

    ``dimensions`` is 1 for a sheet of light and 2 for a round beam.
    """
    (a, b), (c, d) = abcd
    q = -1j * np.pi * waist**2 / wavelength
    curvature = (c + d / q) / (a + b / q)
    return np.exp(1j * np.pi / wavelength * r**2 * curvature) / np.sqrt(a + b / q + 0j) ** dimensions


def cylinder(x, z, radius, index, wavelength):
    """Wave (x,) in the plane z behind a cylinder along y lit by exp(ikz), without that carrier.

    Partial waves of the scalar Helmholtz equation, ψ and ∂ψ/∂r continuous at the surface (Bohren & Huffman, 8.4).
    """
    k = 2 * np.pi / wavelength
    size = k * radius
    order = np.arange(int(size + 5 * size ** (1 / 3) + 20))
    outside, inside = special.jv(order, size), special.jv(order, index * size)
    outside_slope, inside_slope = special.jvp(order, size), index * special.jvp(order, index * size)
    hankel, hankel_slope = special.hankel1(order, size), special.h1vp(order, size)
    amplitude = (outside_slope * inside - outside * inside_slope) / (hankel * inside_slope - hankel_slope * inside)
    r, angle = np.hypot(x, z), np.arctan2(x, z)
    scattered = amplitude[0] * special.hankel1(0, k * r)
    for n in order[1:]:
        scattered = scattered + 2 * 1j**n * amplitude[n] * special.hankel1(n, k * r) * np.cos(n * angle)
    return 1 + scattered * np.exp(-1j * k * z)
