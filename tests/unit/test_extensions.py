"""Entry points of other packages: what this package cannot use is refused, for each group."""

import pytest
from installed_package import installed

from bluesky_multislice.choices import TECHNIQUES_GROUP
from bluesky_multislice.errors import ExtensionError
from bluesky_multislice.files import result_arrays, scan_formats
from bluesky_multislice.files.result_arrays import GROUP as RESULT_ARRAYS
from bluesky_multislice.files.scan_formats import GROUP as FORMATS
from bluesky_multislice.jobs.schedulers import schedulers
from bluesky_multislice.jobs.schedulers.backends import GROUP as SCHEDULERS
from bluesky_multislice.models import techniques
from bluesky_multislice.solvers.priors import prior_classes
from bluesky_multislice.solvers.priors.prior_registry import GROUP as PRIORS

ROOM = "bluesky_multislice"
# Registry, its group, what it takes, an object of this package, the name of that object.
GROUPS = [
    (techniques, TECHNIQUES_GROUP, "a Technique", f"{ROOM}.models.techniques.holography:HOLOGRAPHY", "holography"),
    (prior_classes, PRIORS, "a subclass of Prior", f"{ROOM}.solvers.priors.sparsity:Sparsity", "l1"),
    (scan_formats, FORMATS, "a ScanFormat", "facility:CXI", "CXI"),
    (result_arrays, RESULT_ARRAYS, "a ResultArray", "facility:DELTA", "delta"),
    (result_arrays, RESULT_ARRAYS, "a ResultArray", "facility:PREVIEW", "preview"),
    (schedulers, SCHEDULERS, "a class with the members", f"{ROOM}.jobs.schedulers.slurm:SlurmScheduler", "slurm"),
]
SOURCE = """
from dataclasses import replace

from bluesky_multislice.files import ResultArray, ScanFormat

CXI = ScanFormat("CXI", lambda path: False, lambda path, values, instrument: None)
DELTA = ResultArray("delta", ("z", "y", "x"), "", "another one", lambda result: None)
PREVIEW = replace(DELTA, name="preview")
"""


@pytest.mark.parametrize(
    ("registry", "group", "rule", "own", "name"), GROUPS, ids=[f"{row[1]}-{row[4]}" for row in GROUPS]
)
def test_an_extension_that_cannot_be_used_is_refused(tmp_path, monkeypatch, registry, group, rule, own, name):
    for folder, points, words in (
        ("wrong", {"x": "math:pi"}, f"{group} must be {rule}.*entry point x = math:pi"),
        ("twice", {name: own}, f"{group} needs a unique name.*a second {name} from .* of the package facility"),
        ("broken", {"x": "facility:absent"}, f"{group} must be importable.*absent.*remove the package facility"),
    ):
        (tmp_path / folder).mkdir()
        offer = {"module": "facility", "source": SOURCE, "group": group, "points": points}
        with (
            monkeypatch.context() as here,
            installed(tmp_path / folder, here, registry, **offer),
            pytest.raises(ExtensionError, match=words),
        ):
            registry()
    registry.cache_clear()
    assert registry()
