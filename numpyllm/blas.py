"""How many threads BLAS may use. It is limited here and nowhere else, so that a backend which does without BLAS on one
thread, but not against all of them, knows where it stands."""

from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_limit = None


@contextmanager
def limited(threads):
    """Hold BLAS to so many threads, in the whole process (None: as many as it likes). Takes 0.4 ms: not for inner loops."""
    global _limit
    before, _limit = _limit, threads
    try:
        with threadpool_limits(threads):
            yield
    finally:
        _limit = before


def is_serial():
    """Whether BLAS is held to one thread."""
    return _limit == 1
