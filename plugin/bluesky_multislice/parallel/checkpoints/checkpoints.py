"""Checkpoints of all ranks' tensors on shared storage, by torch.distributed.checkpoint: whole or not at all.

One is written to ``000007.part`` while the ranks compute on, and is called ``000007`` when every rank's part is on the
disk. ``checkpoint.json`` in it has what is not a tensor, and a check sum of every file, by which a torn one is told.

Names say how tensors are shared: ``volume/…`` (…, z, y, x) is cut into rows along y where the volume is, and
``planes/…`` also into planes along z that ranks of the same rows share,
``rank<number>/…`` is a rank's own, any other is the same on all ranks and is saved once.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from bluesky_multislice.errors import JobError
from bluesky_multislice.parallel.agreement import Agreement
from bluesky_multislice.parallel.checkpoints.durable_files import check_sum, make_durable, write_durably
from bluesky_multislice.parallel.mesh import Mesh

_LAYOUT = {"layout of volumes": "rows last"}
"""What a checkpoint must say, too: those of former versions lie otherwise."""

_KEPT = 2
"""Newest checkpoints that stay, for the case that one of them is torn."""


class Checkpoints:
    """The checkpoints of one job, written and read by all of its ranks together.

    Attributes:
        events: what happened to them in this run and those before, oldest first: ``{"warning": …}`` or what ``note``
            was given; on rank 0.
        blocked_s: how long this rank's last ``save`` kept it from computing.

    Args:
        folder: where they lie; all ranks see it.
        mesh: the ranks.
        identity: digests of what a checkpoint must belong to, by what they are of.

    Raises:
        JobError: there are checkpoints of something else.
    """

    def __init__(self, folder: Path, mesh: Mesh, identity: Mapping[str, str]) -> None:
        self._folder, self._mesh, self._identity = folder, mesh, {**identity, **_LAYOUT}
        self._agreement = Agreement(mesh)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self.blocked_s = 0.0
        found = self._agreement.from_first_rank(self._look)
        self.events: list[dict[str, Any]] = found["events"]
        self._records: dict[int, dict[str, Any]] = found["records"]
        self._next = 1 + max(found["numbers"], default=0)
        self._refuse_strangers()
        for text in found["torn"]:
            self.warn(text)

    @property
    def newest(self) -> dict[str, Any] | None:
        """Record of the newest complete checkpoint, as rank 0 knows it."""
        return self._records[max(self._records)] if self._records else None

    @property
    def busy(self) -> bool:
        """Whether this rank still writes one."""
        return self._pending is not None and not self._pending.done()

    def save(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Begin to write a checkpoint; returns when the tensors may change again.

        A failure to write is no error: it is noted, and the checkpoints before stay.

        Args:
            record: for JSON; ``fit`` names what it belongs to, ``ended`` one that is kept until the job ends.
            tensors: by name; this rank's rows of those called ``volume/…``, and of its planes of ``planes/…``.
        """
        from bluesky_multislice.parallel.checkpoints import tensor_files

        self.wait()
        began = time.monotonic()
        number, self._next = self._next, self._next + 1
        part = self._folder / f"{number:06}.part"
        saved = tensor_files.start_writing(part, tensors, self._mesh, self._agreement.group)
        self._pending = self._thread.submit(self._complete, saved, number, part, dict(record))
        self.blocked_s = time.monotonic() - began

    def wait(self) -> None:
        """Return when what ``save`` began is written, or has failed."""
        if self._pending is not None:
            self._pending.result()
        self._pending = None

    def load(self, fit: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return record and tensors of a fit's newest good checkpoint, None where there is none.

        Tensors of other ranks are left out; ``rank/…`` without a number is this one's own.
        """
        self.wait()
        known = self._agreement.from_first_rank(
            lambda: {n: record for n, record in self._records.items() if record["fit"] == fit}
        )
        for number in sorted(known, reverse=True):
            record = known[number]
            tensors = self._torn(number, record) or self._read(number)
            if isinstance(tensors, dict):
                return record, tensors
            self._records.pop(number, None)
            self.warn(f"the checkpoint of epoch {record['epoch']} is torn, the one before is taken: {tensors}")
        return None

    def note(self, **event: Any) -> None:
        """Remember what happened; written down where the disk still takes it."""
        self.events.append(event)
        if self._mesh.rank == 0:
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                with self._events_file.open("a") as file:
                    file.write(json.dumps(event) + "\n")

    def warn(self, text: str) -> None:
        """Note what a person should know, and print it."""
        self.note(warning=text)
        if self._mesh.rank == 0:
            with suppress(OSError):
                print(text, flush=True)

    def clear(self) -> None:
        """Remove all of them, when the job has its result."""
        self.wait()
        if self._mesh.rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._records = {}

    def close(self) -> None:
        """Wait for what is being written."""
        self.wait()
        self._thread.shutdown()

    @property
    def _events_file(self) -> Path:
        return self._folder / "events.jsonl"

    def _complete(self, saved: Any, number: int, part: Path, record: dict[str, Any]) -> None:
        """Give a checkpoint that all ranks have written its name, and remove what is older."""
        from bluesky_multislice.parallel.checkpoints.tensor_files import FAILURES

        try:
            saved.result()
            sums = self._agreement.from_all_ranks(
                lambda: {path.name: check_sum(path) for path in self._own_files(part)}
            )
            if self._mesh.rank == 0:
                files = {name: number for own in sums for name, number in own.items()}
                write_durably(part / "checkpoint.json", record | {"identity": self._identity, "files": files})
                os.replace(part, part.with_suffix(""))
                make_durable(self._folder)
        except FAILURES as error:
            if self._mesh.rank == 0:
                left = shutil.disk_usage(self._folder.parent).free / 2**20
                # First, so that a full disk takes what is said.
                shutil.rmtree(part, ignore_errors=True)
                why = f"{_cause(error)}; {left:.3g} MiB of the disk were left"
                self.warn(f"the checkpoint of epoch {record['epoch']} could not be written ({why})")
            return
        self._records[number] = record
        for old in sorted(self._records)[:-_KEPT]:
            if not self._records[old].get("ended"):
                del self._records[old]
        if self._mesh.rank == 0:
            for path in self._numbered():
                if int(path.name) not in self._records:
                    shutil.rmtree(path, ignore_errors=True)

    def _own_files(self, part: Path) -> list[Path]:
        """Return the files of a checkpoint that this rank wrote."""
        own = list(part.glob(f"__{self._mesh.rank}_*"))
        return [*own, part / ".metadata"] if self._mesh.rank == 0 else own

    def _numbered(self) -> list[Path]:
        """Return the folders of complete checkpoints, and of torn ones."""
        return [path for path in self._folder.glob("[0-9]*") if path.name.isdigit()]

    def _look(self) -> dict[str, Any]:
        """Return what lies in the folder, without what a run that was killed had not completed."""
        for part in self._folder.glob("*.part"):
            shutil.rmtree(part, ignore_errors=True)
        numbers = [int(path.name) for path in self._numbered()]
        records, events, torn = {}, [], []
        if self._events_file.exists():
            events = [json.loads(line) for line in self._events_file.read_text().split("\n")[:-1]]
        for number in numbers:
            try:
                records[number] = json.loads((self._folder / f"{number:06}" / "checkpoint.json").read_text())
            except (OSError, ValueError) as error:
                torn.append(f"the checkpoint with number {number} is torn ({error})")
        return {"numbers": numbers, "records": records, "events": events, "torn": torn}

    def _refuse_strangers(self) -> None:
        for record in self._records.values():
            others = [name for name, digest in self._identity.items() if record["identity"].get(name) != digest]
            if others:
                raise JobError(
                    "A job goes on from checkpoints of its own scan and plan only.",
                    got=f"a checkpoint of epoch {record['epoch']} that belongs to another {' and '.join(others)}.",
                    remedy=f"remove {self._folder} to start from the beginning, or use another job folder.",
                )

    def _torn(self, number: int, record: Mapping[str, Any]) -> str:
        """Return what is wrong with a checkpoint's files; empty where nothing is."""
        place = self._folder / f"{number:06}"
        own = sorted(record["files"])[self._mesh.rank :: self._mesh.size]
        try:
            sums = self._agreement.from_all_ranks(lambda: {name: check_sum(place / name) for name in own})
        except OSError as error:
            return str(error)
        torn = [name for found in sums for name, number in found.items() if number != record["files"][name]]
        return f"{place / torn[0]} is not as it was written" if torn else ""

    def _read(self, number: int) -> dict[str, Tensor] | str:
        """Return this rank's part of a checkpoint, or what is wrong with its files."""
        from bluesky_multislice.parallel.checkpoints import tensor_files

        place = self._folder / f"{number:06}"
        described = tensor_files.describe(place)
        try:
            return tensor_files.read(place, described, self._mesh, self._agreement.group)
        except tensor_files.FAILURES as error:
            return f"{place}: {_cause(error)}"


def _cause(error: BaseException) -> str:
    """Return the first rank's failure of several, in one line; what PyTorch says of a full disk hides the reason."""
    failures = getattr(error, "failures", None)
    first = next(iter(failures.values()))[0] if failures else error
    behind = first
    while behind.__context__ is not None:
        behind = behind.__context__
    found = behind if isinstance(behind, OSError) else first
    return f"{type(found).__name__}: {found}".split("\n")[0]
