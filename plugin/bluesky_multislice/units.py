"""Constants, and conversions between the units of users and the SI units of the code."""

HC_EV_M = 1.239841984e-6
"""Planck's constant times the speed of light, eV·m (CODATA 2018, exact up to rounding)."""

ELEMENTARY_CHARGE_C = 1.602176634e-19
"""Elementary charge, C (exact, SI 2019): one electronvolt in joule."""


def wavelength_m_from_energy(energy_ev: float) -> float:
    """Return the wavelength in metres of a photon with the energy ``energy_ev`` in electronvolts."""
    return HC_EV_M / energy_ev


def energy_ev_from_wavelength(wavelength_m: float) -> float:
    """Return the energy in electronvolts of a photon with the wavelength ``wavelength_m`` in metres."""
    return HC_EV_M / wavelength_m


def energy_ev_from_joule(energy_j: float) -> float:
    """Convert an energy from joule to electronvolts."""
    return energy_j / ELEMENTARY_CHARGE_C


def energy_joule_from_ev(energy_ev: float) -> float:
    """Convert an energy from electronvolts to joule."""
    return energy_ev * ELEMENTARY_CHARGE_C
