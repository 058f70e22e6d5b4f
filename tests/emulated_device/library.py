"""Builds and loads ``device.cpp``, once per version of PyTorch."""

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")


def why_not() -> str | None:
    """Return why there can be no emulated device here, None where there can."""
    return None if _built().exists() or _compiler() else "no C++ compiler (g++ or c++) to build the emulated device"


def _compiler() -> str | None:
    return shutil.which("g++") or shutil.which("c++")


def _built() -> Path:
    """Return where the library is, or will be."""
    version, text = importlib.metadata.version("torch"), hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"emulated-device-{os.getuid()}-{version}-{text}.so"


def _build(path: Path) -> None:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ImportError("PyTorch is not installed")
    torch = Path(found.origin).parent
    part = path.with_suffix(f".{os.getpid()}")
    include = [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
    link = [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
    command = [_compiler() or "g++", "-std=c++20", "-O1", "-shared", "-fPIC", *include, str(SOURCE), "-o", str(part)]
    subprocess.run([*command, *link], check=True, capture_output=True, text=True)
    part.replace(path)


def load(devices: int) -> None:
    """Load the library, with so many devices; before PyTorch is asked for its accelerator."""
    path = _built()
    if not path.exists():
        _build(path)
    loaded().emulate(devices)


@functools.cache
def loaded() -> ctypes.CDLL:
    """Return the library."""
    library = ctypes.CDLL(str(_built()), mode=ctypes.RTLD_GLOBAL)
    library.stream_of_thread.restype = ctypes.c_int64
    return library
