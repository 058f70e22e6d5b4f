"""Accelerators that this machine does not have, as planning and ranks see them: nothing can be computed on them."""

from bluesky_multislice.optics import accelerator

MODULE = accelerator.__name__


def emulate(monkeypatch, *memory_bytes, kind="cuda"):
    """Have PyTorch be built for accelerators of a type and see one of each of these sizes."""
    found = tuple(accelerator.Accelerator(f"emulated {kind}", size) for size in memory_bytes)
    monkeypatch.setattr(f"{MODULE}._built_for", lambda: kind)
    monkeypatch.setattr(f"{MODULE}._device_count", lambda kind: len(found))
    monkeypatch.setattr(f"{MODULE}._described", lambda masks: found)
