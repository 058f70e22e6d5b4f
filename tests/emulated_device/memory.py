"""How much of the device's memory tensors hold."""

import threading
import weakref

from torch import Tensor


class Memory:
    """Bytes held by tensors of the device, now and at most.

    Attributes:
        bytes: held now.
        peak: held at most.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._blocks: set[int] = set()
        self.bytes = self.peak = 0

    def holds(self, held: Tensor) -> None:
        """Count the memory of what a tensor holds, until nobody does."""
        storage = held.untyped_storage()
        address, size = storage._cdata, storage.nbytes()  # noqa: SLF001
        with self._lock:
            if address in self._blocks:
                return
            self._blocks.add(address)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._freed, address, size).atexit = False

    def _freed(self, address: int, size: int) -> None:
        with self._lock:
            self._blocks.discard(address)
            self.bytes -= size

    def reset_peak(self) -> None:
        """Begin to look for the peak from here."""
        self.peak = self.bytes


MEMORY = Memory()
