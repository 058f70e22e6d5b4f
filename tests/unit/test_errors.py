import pickle

import pytest

from bluesky_multislice import errors
from bluesky_multislice.errors import MultisliceError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MultisliceError)]


@pytest.mark.parametrize("kind", KINDS)
def test_error_says_rule_what_came_and_remedy(kind):
    text = str(kind("Distances are positive.", got="−1 m.", remedy="measure again."))
    assert text == "Distances are positive. Got: −1 m. Remedy: measure again."


@pytest.mark.parametrize("kind", KINDS)
def test_error_survives_pickling(kind):
    back = pickle.loads(pickle.dumps(kind("a rule", got="a value", remedy="a remedy")))
    assert type(back) is kind
    assert (back.rule, back.got, back.remedy) == ("a rule", "a value", "a remedy")
    assert isinstance(back, MultisliceError)
