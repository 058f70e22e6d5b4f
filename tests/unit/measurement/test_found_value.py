"""Numbers and words in the forms in which facilities write them."""

import numpy as np
import pytest

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import as_numbers, as_word, constant

ONE = np.zeros(1, [("value", "f8")])
ONE["value"] = 2.5


@pytest.mark.parametrize(
    "raw",
    [
        2.5,
        [2.5],
        [[2.5]],
        np.float32(2.5),
        np.array(2.5),
        "2.5",
        b"2.5",
        np.array([b"2.5"]),
        ONE,
        ONE.reshape(1, 1),
        [["2.5"]],
    ],
)
def test_one_number(raw):
    found = as_numbers(raw, "energy", "here")
    assert found.shape == ()
    assert found == 2.5


@pytest.mark.parametrize(
    "raw", [[1, 2, 3], [[1], [2], [3]], [[1, 2, 3]], (1, 2, 3), np.array([1, 2, 3], np.int8), ["1", "2", "3"]]
)
def test_several_numbers(raw):
    np.testing.assert_array_equal(as_numbers(raw, "angle", "here"), [1.0, 2.0, 3.0])


@pytest.mark.parametrize("raw", ["12 keV", 1 + 2j, np.array([1j]), [[1, 2], [3]], object(), {}, np.zeros(2, "f8,f8")])
def test_no_number(raw):
    with pytest.raises(ScanError, match=r"energy must be a number.*from here"):
        as_numbers(raw, "energy", "here")


@pytest.mark.parametrize(
    "raw",
    [
        "far_field",
        b"far_field",
        np.bytes_("far_field"),
        np.str_("far_field"),
        ["far_field"],
        np.array([["far_field"]]),
        np.array(b"far_field\0\0 "),
        np.array(["far_field"] * 5, object),
        np.array([b"far_field"], object),
        np.frombuffer(b"far_field", np.uint8).astype(np.uint16).reshape(1, -1),
        np.frombuffer(b"far_field", np.uint8).astype(np.uint16).reshape(-1, 1),
        np.array(list("far_field")),
        np.array([("far_field",)], [("word", "U9")]),
    ],
)
def test_a_word(raw):
    assert as_word(raw) == "far_field"


def test_several_words_are_not_one():
    assert as_word(["far_field", "near_field"]) == "far_field, near_field"


@pytest.mark.parametrize("values", [np.array(7.0), np.full(5, 7.0), np.array([7.0, 7.0 + 1e-9, 7.0 - 1e-9])])
def test_a_value_that_does_not_change(values):
    assert constant(values, "energy", "here") == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ([7.0, 7.7], "2 values from 7 to 7.7"),
        ([7.0, np.nan], "no number in row 1"),
        ([], "no value"),
        ([1, np.inf], "row 1"),
    ],
)
def test_a_value_that_changes(values, got):
    with pytest.raises(ScanError, match=f"energy must not change.*{got}"):
        constant(np.array(values), "energy", "here")
