"""Region, centre and size are written as text or as lists; what contradicts is refused."""

import pytest

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.measurement import FrameSteps
from bluesky_multislice.recipe import Recipe, make_recipe


def steps(**frames):
    return make_recipe({"frames": frames}, origin="a test").frames.steps


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, FrameSteps()),
        ({"region": "100:356,-80:336"}, FrameSteps(region=((100, 356), (-80, 336)))),
        ({"region": " 0:4, 2:8 "}, FrameSteps(region=((0, 4), (2, 8)))),
        ({"region": [[0, 4], [2, 8]]}, FrameSteps(region=((0, 4), (2, 8)))),
        ({"centre": "auto"}, FrameSteps(centre="auto")),
        ({"centre": "12.5, 30"}, FrameSteps(centre=(12.5, 30.0))),
        ({"centre": [12.5, 30], "size": [64, 32]}, FrameSteps(centre=(12.5, 30.0), size=(64, 32))),
        ({"centre": "auto", "size": 256}, FrameSteps(centre="auto", size=(256, 256))),
        ({"centre": "auto", "size": "256x128"}, FrameSteps(centre="auto", size=(256, 128))),
        ({"binning": 4, "zingers": False}, FrameSteps(binning=4, zingers=False)),
    ],
)
def test_words_become_numbers(written, expected):
    assert steps(**written) == expected


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"region": "0:4"}, "region"),
        ({"region": "4:4,0:8"}, "end after the first pixel"),
        ({"region": "0:4,0:8", "centre": "auto"}, "exclude each other"),
        ({"centre": "middle"}, "centre"),
        ({"centre": "12"}, "centre"),
        ({"size": 64}, "size needs centre"),
        ({"centre": "auto", "size": 0}, "at least one pixel"),
        ({"binning": 0}, "binning"),
        ({"binning": 1.5}, "binning"),
        ({"colour": 1}, "colour"),
    ],
)
def test_what_cannot_be_meant_is_refused(written, words):
    with pytest.raises(RecipeError, match=words):
        steps(**written)


def test_defaults_leave_the_digest_as_it_was():
    assert Recipe().digest() == make_recipe({"frames": {"binning": 1}}, origin="a test").digest()
    assert Recipe().digest() != make_recipe({"frames": {"binning": 2}}, origin="a test").digest()
