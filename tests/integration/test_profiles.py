"""A catalogue by the name of a Tiled profile: the same one that an analyst opens with databroker."""

import gc

import databroker
import pytest
import tiled.profiles
from real_services import TILED_KEY

from bluesky_multislice.catalog import connect
from bluesky_multislice.errors import CatalogError


@pytest.fixture
def profile(tiled_server, tmp_path, monkeypatch):
    """A profile file of the user, with the server's address."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "beamline.yml").write_text(
        f"beamline:\n  uri: {tiled_server.uri.partition('?')[0]}\nsilent:\n  uri: http://127.0.0.1:1\n"
    )
    # Tiled reads TILED_PROFILES when it is imported.
    monkeypatch.setattr(tiled.profiles, "paths", [folder])
    monkeypatch.setenv("TILED_API_KEY", TILED_KEY)
    tiled.profiles.load_profiles.cache_clear()
    yield "beamline"
    tiled.profiles.load_profiles.cache_clear()


def test_a_name_opens_the_catalogue_of_databroker(profile, take):
    uid = take()
    ours, analysts = connect(profile), databroker.catalog[profile]
    assert ours.uri == analysts.uri
    assert ours[uid].metadata["start"] == analysts[uid].metadata["start"]
    ours.context.close()
    analysts.context.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_key_that_is_given_replaces_that_of_the_environment(profile):
    with pytest.raises(CatalogError, match="accept the API key"):
        connect(profile, "anotherkey")
    # Tiled's from_profile leaves the socket of a refused client open; otherwise a later test would be blamed for it.
    gc.collect()


def test_an_unknown_name_is_refused_with_the_known_ones(profile):
    with pytest.raises(CatalogError, match=r"'beam'; the profiles are beamline, silent"):
        connect("beam")


def test_a_profile_whose_server_does_not_answer_is_named(profile):
    with pytest.raises(CatalogError, match="ConnectError from the profile silent"):
        connect("silent")
