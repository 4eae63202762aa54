"""How kernels are compiled: one decorator, one set of flags, one place for the compiled code on disk.

Floating-point rules are relaxed by name: sums may be reordered and divisions become products, but infinities and NaN keep
their meaning, for masks are made of them. Kernels are serial and release the GIL; threads are training/replicas.py.
"""

import hashlib
import os
import tempfile
import warnings
from functools import wraps
from inspect import signature
from pathlib import Path

import numba
from numba.core.event import Listener, register, unregister

FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}
OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "fastmath": FASTMATH}
HERE = Path(__file__).parent


def _writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _cache_folder():
    """A folder of its own for these sources: Numba itself does not notice when an imported helper has changed."""
    sources = b"".join(path.read_bytes() for path in sorted(HERE.glob("*.py")))
    name = f"numpyllm-{hashlib.sha256(sources).hexdigest()[:16]}"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for base in (HERE / "__pycache__", user / "numpyllm"):
        if _writable(base / name):
            return base / name
    warnings.warn("no folder for compiled kernels can be written (neither the package's nor "
                  f"{user}): they are compiled anew in each process", stacklevel=2)
    return None


CACHE = _cache_folder()


def jit(function, **options):
    """Compile a kernel or a helper of one: no Python objects, no GIL, kept on disk between processes."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(CACHE or "")
    try:
        return numba.jit(cache=CACHE is not None, **OPTIONS, **options)(function)
    finally:
        numba.config.CACHE_DIR = before


def jit_borrowing(function):
    """As `jit`, for a function that makes no array: it does not count references to those it is given.

    Counting them (atomically, at each call of a helper, for each array of a tuple) takes longer than short helpers do.
    """
    return jit(function, _nrt=False)


def jit_inlined(function):
    """As `jit`, for a helper of which each caller is to get a copy, however long it is."""
    return jit(function, forceinline=True)


def jit_any_layout(*, strided, written):
    """As `jit`, for a kernel that goes by addresses and strides: arrays of these names may have any layout, and those that are not
    written may be read-only. Numba would else compile it anew, for seconds, for each combination that it meets.
    """
    def with_names(function):
        kernel = jit(function)

        def type_of(name, argument):
            found = numba.typeof(argument)
            if not isinstance(found, numba.types.Array):
                return found
            return found.copy(layout="A" if name in strided.split() else found.layout, readonly=name not in written.split())

        @wraps(function)
        def call(*arguments):
            try:
                return call.kernel(*arguments)
            except TypeError:                           # the first of its dtype or number of axes
                kernel.disable_compile(False)
                kernel.compile(tuple(map(type_of, signature(function).parameters, arguments)))
                kernel.disable_compile()                # from now on Numba takes what can be converted to a known type
                call.kernel = kernel
                return kernel(*arguments)

        call.kernel = None
        return call
    return with_names


class count_compilations(Listener):
    """While active: .count kernels were compiled (not loaded from disk); `on_first` is called before the first of them."""

    def __init__(self, on_first):
        self.on_first, self.count = on_first, 0

    def on_start(self, event):
        if self.count == 0:
            self.on_first()
        self.count += 1

    def on_end(self, event):
        pass

    def __enter__(self):
        register("numba:compile", self)
        return self

    def __exit__(self, *exception):
        unregister("numba:compile", self)
