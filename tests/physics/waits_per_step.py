"""Counts host synchronisations in the steps of a fit's last epoch on the emulated device, by line of code.

waits_per_step.py RESULT.json CASE …
"""

import importlib
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from emulated_device import LOG, Note
from small_fits import CASES, SmallFit

from bluesky_multislice.parallel import join_mesh

fit = importlib.import_module("bluesky_multislice.solvers.fit")
"""The module; the package exports a function with the same name."""

EPOCHS = 3
BLOCKING = ("synchronisation", "upload")


def waits(case: SmallFit) -> tuple[int, Counter[Note]]:
    """Return the number of steps of the last epoch, and the number of host synchronisations in all of them."""
    steps: list[Counter[Note]] = []
    loop = fit._Loop  # noqa: SLF001
    step = loop._step  # noqa: SLF001

    def counted(*arguments, **keywords):
        before = LOG.notes.copy()
        found = step(*arguments, **keywords)
        steps.append(LOG.notes - before)
        return found

    loop._step = counted  # noqa: SLF001
    try:
        with join_mesh("cuda") as mesh:
            case.solve(case.plan(epochs=EPOCHS, total_variation_first=1.0), mesh)
    finally:
        loop._step = step  # noqa: SLF001
    last = steps[-(len(steps) // EPOCHS) :]
    return len(last), sum(last, Counter())


def main(path: str, names: list[str]) -> None:
    """Save for each case the number of steps and the host synchronisations in them."""
    found = {}
    for name in names:
        steps, notes = waits(CASES[name])
        blocking = [[number, asdict(note)] for note, number in notes.items() if note.kind in BLOCKING]
        found[name] = {"steps": steps, "waits": sorted(blocking, key=lambda each: -each[0])}
    Path(path).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
