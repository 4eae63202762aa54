"""A meeting point for threads inside one compiled function. A thread that waits does not sleep: the others are microseconds away,
and waking up takes longer. After some turns it offers its core to others, in case it is they who are waited for."""

import os

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import jit_borrowing
from ._vectors import INTEGER

PATIENCE = 1000             # turns before the core is offered: some ten microseconds
GIVEN_UP = -(1 << 62)       # as the counter: nobody waits any more


@intrinsic
def _arrive(typing, counter):
    """Count this thread in -> how many came before it."""
    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], INTEGER.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(INTEGER, 1), "seq_cst")

    return types.int64(types.int64), generate


@intrinsic
def _count(typing, counter):
    """How many have arrived."""
    def generate(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], INTEGER.as_pointer()), "seq_cst", align=8)

    return types.int64(types.int64), generate


if os.name == "posix":
    _offer_core = types.ExternalFunction("sched_yield", types.int32())
else:
    @jit_borrowing
    def _offer_core():
        return np.int32(0)


@jit_borrowing
def meet(counter, threads):
    """Return when so many threads have called this as often as this one. counter (1) int64 begins at 0 and counts the calls.

    Whoever sets it to GIVEN_UP lets all of them go on at once: what they compute is of no use then, but they end.
    """
    if threads == 1:
        return
    place = np.int64(counter.ctypes.data)
    goal = (_arrive(place) // threads + 1) * threads
    turns = 0
    while 0 <= _count(place) < goal:
        turns += 1
        if turns > PATIENCE:
            _offer_core()
