"""What a server says instead of an answer."""

from http import HTTPStatus

TYPES = {429: "rate_limit_error", 503: "overloaded_error"}      # others: by the hundreds


class Refused(Exception):
    """A request that is not answered: the status code says how, the message why, in one sentence.

    param: the field of the request that is wrong; code: a word for programs; headers: (name, value) to send with it.
    """

    def __init__(self, status, message, *, param=None, code=None, headers=()):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = HTTPStatus(status), param, code, tuple(headers)

    def table(self):
        """The object that OpenAI's clients expect."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
