"""What comes from a client, by the byte: bounded in number and in time."""

import io
import time

from .refused import Refused


class Incoming(io.RawIOBase):
    """What comes from a socket: so many bytes, within so many seconds, else Refused."""

    def __init__(self, connection):
        self._connection, self.begun = connection, False

    def allow(self, most, seconds, status, what):
        """From now on; status is for more bytes than that, and 408 for more seconds."""
        self._left, self._deadline = most, time.monotonic() + seconds
        self._too_much = Refused(status, f"{what} must be shorter")
        self._too_late = Refused(408, f"{what} must come within {seconds:g} seconds")

    def readable(self):
        return True

    def readinto(self, buffer):
        if self._left <= 0:
            raise self._too_much
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise self._too_late
        self._connection.settimeout(seconds)
        try:
            n = self._connection.recv_into(buffer)
        except TimeoutError:
            raise self._too_late from None
        self._left -= n
        self.begun = True
        return n
