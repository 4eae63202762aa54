"""The line that tells how far a task is."""

import io

import numpyllm.progress
from numpyllm.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_clock():
    assert [clock(s) for s in (5, 125, 7300)] == ["0m 05s", "2m 05s", "2h 01m"]


def test_one_line_with_the_time_left(monkeypatch):
    now, stream = [100.0], Terminal()
    monkeypatch.setattr(numpyllm.progress.time, "monotonic", lambda: now[0])
    with Progress("reading", stream) as progress:
        progress(0, 200)
        now[0] = 130.0
        progress(50, 200)
        progress(51, 200)                   # too soon after the last
        now[0] = 131.0
        progress(1234567, None)
    assert stream.getvalue().split("\r") == ["", "reading:   0%", "reading:  25%, 1m 30s left", "reading: 1,234,567        ",
                                             " " * 18, ""]


def test_nothing_where_there_is_no_terminal():
    stream = io.StringIO()
    with Progress("reading", stream) as progress:
        progress(1, 2)
    assert stream.getvalue() == ""
