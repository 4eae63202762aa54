"""Memory for what a training step makes and forgets: a stack of arrays in one aligned arena.

While a Workspace is active in a thread, `empty` takes arrays from its arena instead of asking the system for fresh pages,
which would have to be zeroed and mapped at every step. `release` gives back everything taken since a `mark`. Without an
active Workspace `empty` is an ordinary allocation and the rest does nothing, so the same code serves both.

In the first step the arena grows by blocks; when it is next empty, one block of the highest mark replaces them.
"""

import math
import threading
from contextlib import contextmanager

import numpy as np

from .parameters import ALIGNMENT, aligned_zeros

BLOCK = 1 << 25             # bytes by which an arena grows at least: what malloc gives back to the system when freed
_active = threading.local()


class Workspace:
    """An arena. poison=True fills released memory with NaN, so that a use after release shows (for tests)."""

    def __init__(self, *, poison=False):
        self.poison = poison
        self.high_water = 0             # bytes in use at once, at most
        self._blocks = []               # (buffer, bytes in all blocks before it)
        self._block = np.empty(0, np.uint8), 0      # the one in use
        self._used = 0

    @contextmanager
    def activate(self):
        """Serve `empty` in this thread from this arena; all of it is released at the end."""
        before = getattr(_active, "workspace", None)
        _active.workspace = self
        try:
            yield self
        finally:
            _active.workspace = before
            self.release(0)

    def take(self, shape, dtype):
        """An uninitialised array, aligned to 64 bytes."""
        size = -(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
        buffer, before = self._block
        offset = self._used - before
        if not 0 <= offset <= buffer.size - size:
            buffer, before = self._block = self._block_for(size)
            offset = max(0, self._used - before)
        self._used = end = before + offset + size
        if end > self.high_water:
            self.high_water = end
        return np.ndarray(shape, dtype, buffer, offset)

    def _block_for(self, size):
        """The first block, a new one if need be, with so many bytes free."""
        for buffer, before in self._blocks:
            if self._used <= before + buffer.size - size:
                return buffer, before
        before = sum(buffer.size for buffer, _ in self._blocks)
        self._blocks.append((aligned_zeros(max(size, BLOCK), np.dtype(np.uint8)), before))
        return self._blocks[-1]

    def release(self, mark):
        """Give back everything taken since the mark."""
        if self.poison:
            for buffer, before in self._blocks:
                floats = buffer.view(np.float32)
                floats[max(0, mark - before) // 4:max(0, self._used - before) // 4] = np.nan
        self._used = mark
        if mark == 0 and len(self._blocks) > 1:
            self._blocks = []               # first: else both would be there at once
            self._block = np.empty(0, np.uint8), 0
            self._blocks = [(aligned_zeros(self.high_water, np.dtype(np.uint8)), 0)]


def empty(shape, dtype):
    """An uninitialised array, from the active Workspace of this thread if there is one."""
    workspace = getattr(_active, "workspace", None)
    if workspace is None:
        return np.empty(shape, dtype)
    return workspace.take(shape, dtype)


def mark():
    """The present height of the active Workspace, for `release`; None if there is none."""
    workspace = getattr(_active, "workspace", None)
    return None if workspace is None else workspace._used


def release(height, keep=None):
    """Give back everything taken since mark() returned this height, except one array -> that array, perhaps moved."""
    workspace = getattr(_active, "workspace", None)
    if workspace is None or height is None:
        return keep
    if keep is None:
        workspace.release(height)
        return None
    kept = keep.copy() if workspace.poison else keep
    workspace.release(height)
    place = workspace.take(keep.shape, keep.dtype)
    if workspace.poison or place.ctypes.data != keep.ctypes.data or not keep.flags.c_contiguous:
        np.copyto(place, kept)
    return place
