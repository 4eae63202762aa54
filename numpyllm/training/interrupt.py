"""Ctrl-C and `kill` during long work: the first lets it come to a good end, the second ends the process."""

import os
import signal
import sys
import threading
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """number is that of the signal that came, or None."""

    number = None


@contextmanager
def finish_step_on_interrupt(note="finishing this step and saving (again: stop at once, without)"):
    """-> Interruption; note is printed at the first signal. Does nothing outside the main thread, where Python delivers no signals."""
    seen = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def handler(number, frame):
        if seen.number is not None:
            if hasattr(sys, "ps1"):         # somebody at a prompt or in a notebook wants to keep the session
                raise KeyboardInterrupt
            os._exit(128 + number)          # no waiting for threads; a half-written checkpoint is none
        seen.number = number
        print(f"\n{note}", flush=True)

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield seen
    finally:
        for number, action in before.items():
            signal.signal(number, action)
