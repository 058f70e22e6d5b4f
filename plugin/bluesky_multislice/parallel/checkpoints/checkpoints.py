"""Atomic checkpoints of all ranks' tensors on shared storage, by torch.distributed.checkpoint.

A checkpoint is written to ``000007.part`` while the ranks continue to compute. It is renamed to ``000007`` when the
parts of all ranks are on the disk. Its ``checkpoint.json`` contains all data that are not tensors, and a checksum of
every file to detect damage.

The name of a tensor states its distribution. ``volume/…`` (…, z, y, x) is cut into rows along y like the volume.
``planes/…`` is also cut into planes along z among the ranks with the same rows. ``rank<number>/…`` belongs to one rank.
All other tensors are the same on all ranks and are saved once.
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
"""Part of the identity of a checkpoint; earlier versions used another layout of volumes."""

_KEPT = 2
"""Number of newest checkpoints that are kept, in case the newest is damaged."""


class Checkpoints:
    """The checkpoints of one job, written and read collectively by all of its ranks.

    Attributes:
        events: events of this and earlier runs of the job, oldest first: ``{"warning": …}`` or the arguments of
            ``note``; only on rank 0.
        blocked_s: time for which this rank's last ``save`` blocked it, seconds.

    Args:
        folder: folder of the checkpoints, on storage shared by all ranks.
        mesh: the ranks.
        identity: name → digest of the inputs that a checkpoint must match, such as the scan and the plan.

    Raises:
        JobError: the folder has checkpoints with another identity.
    """

    def __init__(self, folder: Path, mesh: Mesh, identity: Mapping[str, str]) -> None:
        self._folder, self._mesh, self._identity = folder, mesh, {**identity, **_LAYOUT}
        self._agreement = Agreement(mesh)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self.blocked_s = 0.0
        contents = self._agreement.from_first_rank(self._read_folder)
        self.events: list[dict[str, Any]] = contents["events"]
        self._records: dict[int, dict[str, Any]] = contents["records"]
        self._next = 1 + max(contents["numbers"], default=0)
        self._check_identity()
        for text in contents["damaged"]:
            self.warn(text)

    @property
    def newest(self) -> dict[str, Any] | None:
        """Record of the newest complete checkpoint; may be used on rank 0 only."""
        return self._records[max(self._records)] if self._records else None

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing a checkpoint."""
        return self._pending is not None and not self._pending.done()

    def save(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Start writing a checkpoint; returns when the tensors may be changed again.

        A failure to write raises no error: it is noted as a warning, and earlier checkpoints are kept.

        Args:
            record: JSON data; ``fit`` names the fit, a true ``ended`` keeps the checkpoint until the job ends.
            tensors: by name; this rank's rows of ``volume/…``, and its rows and planes of ``planes/…``.
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
        """Wait until the checkpoint started by ``save`` is written or has failed."""
        if self._pending is not None:
            self._pending.result()
        self._pending = None

    def load(self, fit: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return the record and tensors of a fit's newest undamaged checkpoint; None if there is none.

        Tensors of other ranks are omitted. This rank's own tensors are named ``rank/…`` without a number.
        """
        self.wait()
        known = self._agreement.from_first_rank(
            lambda: {n: record for n, record in self._records.items() if record["fit"] == fit}
        )
        for number in sorted(known, reverse=True):
            record = known[number]
            tensors = self._damage(number, record) or self._read(number)
            if isinstance(tensors, dict):
                return record, tensors
            self._records.pop(number, None)
            self.warn(f"the checkpoint of epoch {record['epoch']} is damaged, the previous one is used: {tensors}")
        return None

    def note(self, **event: Any) -> None:
        """Record an event; also written to a file if the disk allows."""
        self.events.append(event)
        if self._mesh.rank == 0:
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                with self._events_file.open("a") as file:
                    file.write(json.dumps(event) + "\n")

    def warn(self, text: str) -> None:
        """Record a warning and print it."""
        self.note(warning=text)
        if self._mesh.rank == 0:
            with suppress(OSError):
                print(text, flush=True)

    def clear(self) -> None:
        """Remove all checkpoints, after the job has its result."""
        self.wait()
        if self._mesh.rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._records = {}

    def close(self) -> None:
        """Wait for the checkpoint that is being written, and stop the thread."""
        self.wait()
        self._thread.shutdown()

    @property
    def _events_file(self) -> Path:
        return self._folder / "events.jsonl"

    def _complete(self, saved: Any, number: int, part: Path, record: dict[str, Any]) -> None:
        """Wait until all ranks have written a checkpoint, rename it to its final name, and remove older ones."""
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
                free_mib = shutil.disk_usage(self._folder.parent).free / 2**20
                # Removed before the warning is written, which may need the disk space.
                shutil.rmtree(part, ignore_errors=True)
                reason = f"{_cause(error)}; {free_mib:.3g} MiB of the disk were free"
                self.warn(f"the checkpoint of epoch {record['epoch']} could not be written ({reason})")
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
        """Return the folders of all checkpoints, including damaged ones."""
        return [path for path in self._folder.glob("[0-9]*") if path.name.isdigit()]

    def _read_folder(self) -> dict[str, Any]:
        """Remove incomplete checkpoints of killed runs, and return the contents of the folder."""
        for part in self._folder.glob("*.part"):
            shutil.rmtree(part, ignore_errors=True)
        numbers = [int(path.name) for path in self._numbered()]
        records, events, damaged = {}, [], []
        if self._events_file.exists():
            events = [json.loads(line) for line in self._events_file.read_text().split("\n")[:-1]]
        for number in numbers:
            try:
                records[number] = json.loads((self._folder / f"{number:06}" / "checkpoint.json").read_text())
            except (OSError, ValueError) as error:
                damaged.append(f"the checkpoint with number {number} is damaged ({error})")
        return {"numbers": numbers, "records": records, "events": events, "damaged": damaged}

    def _check_identity(self) -> None:
        for record in self._records.values():
            others = [name for name, digest in self._identity.items() if record["identity"].get(name) != digest]
            if others:
                raise JobError(
                    "A job can only resume from checkpoints of its own scan and plan.",
                    got=f"a checkpoint of epoch {record['epoch']} that belongs to another {' and '.join(others)}.",
                    remedy=f"remove {self._folder} to start from the beginning, or use another job folder.",
                )

    def _damage(self, number: int, record: Mapping[str, Any]) -> str:
        """Return a description of damaged files of a checkpoint; empty if there are none."""
        folder = self._folder / f"{number:06}"
        own = sorted(record["files"])[self._mesh.rank :: self._mesh.size]
        try:
            sums = self._agreement.from_all_ranks(lambda: {name: check_sum(folder / name) for name in own})
        except OSError as error:
            return str(error)
        damaged = [name for found in sums for name, number in found.items() if number != record["files"][name]]
        return f"{folder / damaged[0]} does not match its checksum" if damaged else ""

    def _read(self, number: int) -> dict[str, Tensor] | str:
        """Return this rank's part of a checkpoint, or a description of the failure."""
        from bluesky_multislice.parallel.checkpoints import tensor_files

        folder = self._folder / f"{number:06}"
        described = tensor_files.describe(folder)
        try:
            return tensor_files.read(folder, described, self._mesh, self._agreement.group)
        except tensor_files.FAILURES as error:
            return f"{folder}: {_cause(error)}"


def _cause(error: BaseException) -> str:
    """Return the first rank's failure in one line; prefers the OSError behind PyTorch's less specific exception."""
    failures = getattr(error, "failures", None)
    first = next(iter(failures.values()))[0] if failures else error
    origin = first
    while origin.__context__ is not None:
        origin = origin.__context__
    reported = origin if isinstance(origin, OSError) else first
    return f"{type(reported).__name__}: {reported}".split("\n")[0]
