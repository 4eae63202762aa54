"""The server: one thread and one request a connection, limits on everything that somebody else decides.

What a client sends must have come within a deadline, whole, not each byte (slow loris); what it is sent must leave within one too.
No client keeps a sequence of the engine from working: the engine never waits for a socket. Why so: docs/serving.md.
"""

import base64
import hashlib
import io
import ipaddress
import json
import queue
import re
import socket
import socketserver
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import unquote, urlsplit

from ..errors import InputError
from ..inference import Busy
from .completions import Completion
from .incoming import Incoming
from .refused import Refused

HEAD = 32_768               # bytes of a request line and its headers
BUFFER = 65_536             # bytes that the system keeps for a client that does not take them
LINGER = 2.0                # seconds for a client to take in why its body was not read
LOOK = 0.1                  # seconds after which a client that waits is looked for


@dataclass(frozen=True)
class Limits:
    body: int = 1_048_576       # bytes
    connections: int = 256      # at once; others wait outside
    seconds: float = 10.0       # for a client to send the head of its request, its body, and to take each piece of the answer


class Server(ThreadingHTTPServer):
    """Listens as soon as it is made; serve_forever answers. Raises InputError where it cannot listen.

    address: (host, port), port 0 for any; server_port tells which it became.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, address, service, limits=Limits(), *, log=False):
        self.service, self.limits, self.log = service, limits, log
        self.page, self.page_policy = _page()
        self._room = threading.BoundedSemaphore(limits.connections)
        self._ending = False
        host, port = address
        if not 0 <= port < 65_536:
            raise InputError(f"a port must lie in [0, 65536), got {port}")
        try:
            family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self.address_family = family
            self.loopback = ipaddress.ip_address(found[0].partition("%")[0]).is_loopback
            super().__init__(found[:2], Handler)
        except (OSError, OverflowError, UnicodeError) as error:
            raise InputError(f"cannot listen at host {host}, port {port}: {getattr(error, 'strerror', None) or error}; "
                             "choose others with --host and --port") from None

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)        # HTTPServer's asks the network for this machine's name
        self.server_name, self.server_port = self.server_address[:2]

    def stop(self):
        """Listen no more; what was accepted goes on."""
        self._ending = True
        self.shutdown()
        self.server_close()

    def wait(self, seconds):
        """Until every connection has ended, or for so long -> whether they have."""
        end = time.monotonic() + seconds
        places = 0
        while places < self.limits.connections and self._room.acquire(timeout=max(0.0, end - time.monotonic())):
            places += 1
        for _ in range(places):
            self._room.release()
        return places == self.limits.connections

    def process_request(self, request, client_address):
        while not self._room.acquire(timeout=LOOK):
            if self._ending:
                self.shutdown_request(request)
                return
        try:
            super().process_request(request, client_address)
        except BaseException:                           # no thread for it
            self._room.release()
            raise

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request, client_address):
        """An error that is nobody's answer: one line of it."""
        print(f"numpyllm: note: a connection ended in {sys.exc_info()[1]!r}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._incoming = Incoming(self.connection)
        self.rfile = io.BufferedReader(self._incoming)
        self._status = None             # once it was sent
        self._unread = True

    def handle(self):
        try:
            try:
                if self._read_head():
                    self._route()
            except Refused as refused:
                self._refuse(refused)
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:
                self._refuse(Refused(500, "something went wrong here, not with the request"))
                print(f"numpyllm: note: {self.command} {self.path!r} ended in {error!r}", file=sys.stderr)
            if self._unread and self._incoming.begun:
                self._linger()
        except OSError:         # the client has gone, or takes nothing
            pass
        if self.server.log and self._status is not None:
            self.log_message("%s %d", self.requestline, self._status)

    def finish(self):
        self.rfile.close()

    def send_error(self, code, message=None, explain=None):
        """How BaseHTTPRequestHandler says that a request makes no sense."""
        raise Refused(code, message or HTTPStatus(code).phrase)

    def _read_head(self):
        """The request line and the headers -> whether there were any."""
        self.requestline, self.request_version, self.command, self.path = "", "", "", ""
        self._incoming.allow(HEAD, self.server.limits.seconds, 431, "the head of a request")
        self.raw_requestline = self.rfile.readline(HEAD)
        if not self.raw_requestline:
            return False
        if not self.raw_requestline.endswith(b"\n"):
            raise Refused(414 if len(self.raw_requestline) == HEAD else 400, "a request must begin with a line of at most "
                          f"{HEAD} bytes: method, path, version")
        self.command = ""
        if not self.parse_request():
            raise Refused(400, "a request must begin with a line of method, path and version")
        if self.request_version not in ("HTTP/1.0", "HTTP/1.1"):
            raise Refused(505, "the version must be HTTP/1.0 or HTTP/1.1")
        if self.headers.defects:
            raise Refused(400, "the headers of this request make no sense")
        lengths = self.headers.get_all("Content-Length") or []
        self._unread = bool(lengths and lengths != ["0"]) or "Transfer-Encoding" in self.headers
        self._check_host()
        return True

    def _check_host(self):
        """A page of somebody else must not reach a server on loopback by a name of its own for it (DNS rebinding)."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) > 1 or (not hosts and self.request_version == "HTTP/1.1"):
            raise Refused(400, "a request must have one Host header")
        if self.server.loopback and hosts and not is_loopback(hosts[0]):
            raise Refused(403, "this server is for this machine: its Host must be localhost, 127.0.0.1 or [::1]",
                          code="host_not_allowed")

    def _route(self):
        try:
            path = unquote(urlsplit(self.path).path)
        except ValueError:
            raise Refused(400, "the path of this request makes no sense") from None
        service, name = self.server.service, path.removeprefix("/v1/models/")
        gets = {"/": self._send_page, "/health": self._send_health, "/v1/models": self._send_models}
        if path in gets:
            self._check_method("GET", "HEAD")
            gets[path]()
        elif path == "/v1/completions":
            self._check_method("POST")
            self._complete()
        elif name == service.name and name != path:
            self._check_method("GET", "HEAD")
            self._send_json(service.model())
        elif name != path:
            raise Refused(404, f"this model does not exist, there is {service.name}", param="model", code="model_not_found")
        else:
            raise Refused(404, "there is nothing here: try / or /v1/completions, /v1/models, /health", code="unknown_url")

    def _check_method(self, *methods):
        if self.command not in methods:
            raise Refused(405, f"the method must be {methods[0]} here", code="method_not_allowed",
                          headers=[("Allow", ", ".join(methods))])

    def _send_page(self):
        policy = ("Content-Security-Policy", self.server.page_policy)
        self._send(200, self.server.page, "text/html; charset=utf-8", [policy, ("Referrer-Policy", "no-referrer")])

    def _send_health(self):
        if not self.server.service.engine.alive():
            raise Refused(503, "the engine has stopped", code="stopped")
        self._send_json(self.server.service.health())

    def _send_models(self):
        self._send_json({"object": "list", "data": [self.server.service.model()]})

    def _complete(self):
        completion, engine = Completion(self._read_json(), self.server.service), self.server.service.engine
        try:
            engine.submit(completion.jobs)
        except Busy as busy:
            raise Refused(503, str(busy), code="overloaded", headers=[("Retry-After", "1")]) from None
        try:
            if completion.stream:
                self._stream(completion)
            else:
                pieces = [self._next_piece(completion) for _ in completion.jobs]
                self._send_json(completion.table(pieces, usage=True))
        finally:
            engine.cancel(completion.jobs)

    def _stream(self, completion):
        """Server-sent events. What came while a client was slow goes in one piece: it cannot draw out the stream."""
        left, headers = len(completion.jobs), [("Cache-Control", "no-store")]
        while left:
            pieces = [self._next_piece(completion)]
            while not completion.news.empty():
                pieces.append(self._next_piece(completion))
            if self._status is None:
                self._send(200, None, "text/event-stream; charset=utf-8", headers)
            self._send_all(b"".join(_event(completion.table([piece], usage=False)) for piece in pieces))
            left -= sum(piece.finish_reason is not None for piece in pieces)
        last = _event(completion.usage_table()) if completion.usage_in_stream else b""
        self._send_all(last + b"data: [DONE]\n\n")

    def _next_piece(self, completion):
        """What the engine has next. Raises ConnectionError if the client has gone, Refused if the text ended in an error."""
        while True:
            try:
                piece = completion.news.get(timeout=LOOK)
                break
            except queue.Empty:
                self._look_for_client()
        if isinstance(piece.error, Busy):
            raise Refused(503, str(piece.error), code="stopped", headers=[("Retry-After", "1")])
        if piece.error is not None:
            print(f"numpyllm: note: a text ended in {piece.error!r}", file=sys.stderr)
            raise Refused(500, f"the text could not be continued: {piece.error}")
        return piece

    def _look_for_client(self):
        self.connection.setblocking(False)
        try:
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionError("the client has closed the connection")
        except BlockingIOError:         # it says nothing, as it should
            pass

    def _read_json(self):
        """The table in the body."""
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "Content-Type must be application/json")
        lengths = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or not lengths:
            raise Refused(411, "the body's length must be given as Content-Length")
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,18}", lengths[0].strip()):
            raise Refused(400, "Content-Length must be one whole number")
        length, most = int(lengths[0]), self.server.limits.body
        if length > most:
            raise Refused(413, f"the body must have at most {most} bytes, got {length}", code="body_too_large")
        self._incoming.allow(length + HEAD, self.server.limits.seconds, 413, "the body of a request")
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refused(400, f"the body must have {length} bytes, as Content-Length says, got {len(body)}")
        self._unread = False
        try:
            return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body must be JSON in UTF-8: {str(error)[:100]}", code="invalid_json") from None

    def _refuse(self, refused):
        """Say why; in the middle of a stream, as an event."""
        if self._status is None:
            self._send_json(refused.table(), refused.status, refused.headers)
        else:
            self._send_all(_event(refused.table()))

    def _send_json(self, table, status=200, headers=()):
        self._send(status, json.dumps(table, allow_nan=False).encode(), "application/json", headers)

    def _send(self, status, body, content_type, headers=()):
        """The head of an answer and its body; None if that is still to come, until the connection ends."""
        self._status = int(status)
        fields = [("Server", "numpyllm"), ("Date", self.date_time_string()), ("Content-Type", content_type),
                  ("Connection", "close"), ("X-Content-Type-Options", "nosniff"), *headers]
        if body is not None:
            fields.append(("Content-Length", str(len(body))))
        head = f"HTTP/1.1 {self._status} {HTTPStatus(status).phrase}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
        self._send_all(head.encode("latin-1") + b"\r\n" + (b"" if self.command == "HEAD" else body or b""))

    def _send_all(self, data):
        """All of it within the time there is for a piece, or TimeoutError."""
        self.connection.settimeout(self.server.limits.seconds)
        self.connection.sendall(data)

    def _linger(self):
        """Close with unread bytes, and the client's system throws our answer away: so read them first, for a while."""
        self.connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + LINGER
        while (left := end - time.monotonic()) > 0:
            self.connection.settimeout(left)
            if not self.connection.recv(65_536):
                return

    def log_message(self, format, *args):
        if self.server.log:
            super().log_message(format, *args)


def is_loopback(host):
    """Whether a Host header names this machine by a name that nobody else can give to it."""
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]]+", host):
        return False
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _event(table):
    return b"data: " + json.dumps(table, allow_nan=False).encode() + b"\n\n"


def _no_constant(name):
    raise ValueError(f"{name} is no number of JSON")


def _page():
    """The page to try it, and the policy that lets its own script and style run, nothing else."""
    page = files(__package__).joinpath("page.html").read_text("utf-8")
    policy = ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
              "img-src data:"]
    for tag in ("script", "style"):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        policy.append(f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'")
    return page.encode(), "; ".join(policy)
