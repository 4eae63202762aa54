"""Threads that work on one thing and wait for each other on the way."""

from concurrent.futures import wait


def together(pool, threads, work, give_up):
    """[work(0), ..., work(threads - 1)], at the same time: the first in this thread, the others in those of a ThreadPoolExecutor.

    Ctrl-C strikes in the main thread between any two of its lines, also where some have been begun and others not; those would wait
    for ever for these. So after any exception give_up() is called, which must make all of them end, begun or not.
    """
    others = []
    try:
        for rank in range(1, threads):
            others.append(pool.submit(work, rank))
        return [work(0), *(other.result() for other in others)]
    except BaseException:
        give_up()
        wait(others)
        raise
