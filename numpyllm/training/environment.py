"""What a run ran on: versions, processor, memory. For the reader of a report; nothing depends on it."""

import os
import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import threadpoolctl

from .. import __version__
from .replicas import physical_cores


def environment():
    """A dictionary of short texts."""
    found = {"started": datetime.now().astimezone().isoformat(" ", "seconds"), "numpyllm": __version__,
             "python": platform.python_version(), "numpy": np.__version__}
    try:
        found["numba"] = version("numba")
    except PackageNotFoundError:
        pass
    blas = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    if blas:
        found["BLAS"] = " ".join(str(blas[0].get(key) or "") for key in ("internal_api", "version", "architecture")).strip()
    found |= {"system": platform.platform(), "processor": _processor(), "cores": str(physical_cores())}
    if hasattr(os, "sysconf"):
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    return found


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
