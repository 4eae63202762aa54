"""One training step on several cores: replicas of the model, each with a slice of the batch, a thread and a workspace.

They share the parameters. BLAS is to be held to one thread meanwhile, and kernels are serial: libraries that each bring
their own threads would fight over the cores (docs/measurements.md). What threads do here is divided up front and summed in
a fixed order, so the same number of replicas gives the same bits.
"""

import math
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..parameters import Parameters
from ..workspace import Workspace
from .optimizer import clip_scale, square_sums

PRIVATE = 1 << 24       # parameters up to which each replica has a gradient of its own


class SharedGradient:
    """One gradient for all replicas of a large model, so that memory does not grow with their number.

    Contributions come in a fixed order, the first of each replica before the second of any: the same sums each time. Whoever is
    early waits. Each replica is first for its share of the parameters, since the first has less to do: it need not add.
    """

    def __init__(self, n, broken):
        self.n, self.broken = n, broken         # broken() says that a replica has failed, so that waiting is in vain
        self.done, self.changed = Counter(), threading.Condition()

    @contextmanager
    def turn(self, name, number):
        with self.changed:
            while self.done[name] != number:
                if self.broken():
                    raise threading.BrokenBarrierError
                self.changed.wait(timeout=1.0)
        yield
        with self.changed:
            self.done[name] += 1
            self.changed.notify_all()


class SharingParameters(Parameters):
    """The parameters of one replica among several that share a gradient."""

    def __init__(self, parameters, index, shared):
        super().__init__(parameters.specs, dtype=parameters.dtype, data=parameters.data, grad=parameters.grad)
        self.shared, self.given = shared, Counter()
        self.place = {name: (index + i) % shared.n for i, name in enumerate(self.layout)}

    def clear_gradients(self):
        super().clear_gradients()
        self.given.clear()

    def slot(self, name):
        return super().slot(name) if self.place[name] == 0 else None

    @contextmanager
    def contribution(self, name):
        number = self.given[name] * self.shared.n + self.place[name]
        with self.shared.turn(name, number):
            yield self._gradients[name], number > 0
        self.given[name] += 1
        self._unwritten.discard(name)


class Replicas:
    """n replicas of a model, which all share its parameters. With n = 1 everything runs in the calling thread.

    Instead of a model it may be what makes another loss of one, if it has the methods that are used here: parameters,
    replica(parameters), loss_and_gradients(*batch, scale=, draws=) -> loss, count, and count(*batch).
    """

    def __init__(self, model, n=1):
        self._barrier = threading.Barrier(n)
        self._shared = None
        if n > 1 and model.parameters.grad.size > PRIVATE:
            self._shared = SharedGradient(n, lambda: self._barrier.broken)
            self.models = [model.replica(SharingParameters(model.parameters, i, self._shared)) for i in range(n)]
        else:
            self.models = [model] + [model.replica(model.parameters.replica()) for _ in range(n - 1)]
        self.workspaces = [Workspace() for _ in self.models]
        self._pool = ThreadPoolExecutor(n - 1, thread_name_prefix="replica") if n > 1 else None

    def __len__(self):
        return len(self.models)

    def run(self, work):
        """work(index) in a thread for each replica -> results in order. An exception in one reaches the caller."""
        self._barrier.reset()
        others = [self._pool.submit(self._guarded, work, i) for i in range(1, len(self))]
        results, errors = [], []
        for get in (lambda: self._guarded(work, 0), *(future.result for future in others)):
            try:
                results.append(get())
            except BaseException as error:
                errors.append(error)
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error         # what happened first; those who waited for it only saw the barrier break
        return results

    def _guarded(self, work, index):
        try:
            with self.workspaces[index].activate(), np.errstate(over="ignore", invalid="ignore"):  # the loss will tell
                return work(index)
        except BaseException:
            self._barrier.abort()
            raise

    def step(self, micro_batches, optimizer, *, lr, grad_clip, draws, allow=lambda loss, norm: True):
        """One update from several micro-batches -> mean loss, gradient norm before clipping, whether it was made.

        micro_batches is a list of what loss_and_gradients takes, (ids, targets) or other arrays, in which a row is an example;
        draws(micro, first_row) makes the Draws for a micro-batch from some row on.
        Nothing is updated if loss or norm is not finite, or allow(loss, norm), asked by each replica, says no. Raises
        ValueError for a micro-batch that has no row for each replica.
        """
        if any(len(batch[0]) < len(self) for batch in micro_batches):
            raise ValueError(f"each of {len(self)} replicas needs a row of every micro-batch: use fewer replicas")
        count = sum(self.models[0].count(*batch) for batch in micro_batches) or 1
        parameters = [model.parameters for model in self.models]
        squares = [None] * len(self)
        losses = [0.0] * len(self)
        if self._shared is not None:
            self._shared.done.clear()

        def work(i):
            parameters[i].clear_gradients()
            for micro, batch in enumerate(micro_batches):
                rows = _share(len(batch[0]), i, len(self))
                loss, _ = self.models[i].loss_and_gradients(*(part[rows] for part in batch), scale=1 / count,
                                                            draws=draws(micro, rows.start))
                losses[i] += float(loss)
            if i == 0 or self._shared is None:
                parameters[i].settle_gradients()
            self._barrier.wait()
            part = optimizer.share(i, len(self))
            others = [other.grad[part] for other in parameters[1:]] if self._shared is None else ()
            squares[i] = square_sums(parameters[0].grad[part], others)
            self._barrier.wait()
            loss, norm = sum(losses) / count, math.sqrt(math.fsum(sum(squares, [])))
            updated = math.isfinite(norm + loss) and allow(loss, norm)
            if updated:
                optimizer.update_part(part, lr, clip_scale(norm, grad_clip))
            return loss, norm, updated

        loss, norm, updated = self.run(work)[0]
        if updated:
            optimizer.steps += 1
        return loss, norm, updated


def physical_cores():
    """Cores that this process may run on; two hardware threads of one core count once, where Linux says which they are."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in usable:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(cpu)
    return len(cores)


def _share(n, index, parts):
    """The index-th of nearly equal parts of n items, as a slice."""
    return slice(n * index // parts, n * (index + 1) // parts)
