"""Gives every process of Python that finds this file as many emulated devices as the environment says."""

import os
import sys
from pathlib import Path

if "EMULATED_DEVICES" in os.environ:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import emulated_device

    emulated_device.install(int(os.environ["EMULATED_DEVICES"]))
