import pytest

from bluesky_multislice import units


def test_wavelength_of_copper_k_alpha():
    # Cu Kα₁: 8047.823 eV, 1.5405929 Å (Hölzer et al., Phys. Rev. A 56, 4554, 1997).
    assert units.wavelength_m_from_energy(8047.823) == pytest.approx(1.5405929e-10, rel=1e-6)


def test_energy_and_wavelength_are_inverse():
    assert units.energy_ev_from_wavelength(units.wavelength_m_from_energy(700.0)) == pytest.approx(700.0, rel=1e-14)


def test_constant_is_planck_times_light():
    assert units.HC_EV_M == pytest.approx(6.62607015e-34 * 299792458 / 1.602176634e-19, rel=1e-9)


def test_energy_in_joule_and_back():
    assert units.energy_joule_from_ev(1.0) == pytest.approx(1.602176634e-19, rel=1e-12)
    assert units.energy_ev_from_joule(units.energy_joule_from_ev(6200.0)) == pytest.approx(6200.0, rel=1e-14)
