"""numpyllm serve: real sockets on loopback, and all that can be wrong with what comes through them."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from hypothesis import example, given
from hypothesis import strategies as st

import numpyllm.kernels
from numpyllm import ops
from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.inference import Decoder, Engine, generate_text, log_softmax
from numpyllm.models import GPT, GPTConfig
from numpyllm.serve import Limits, Server, Service
from numpyllm.serve.http import is_loopback
from numpyllm.tokenizer import BytePairTokenizer

TOKENIZER = BytePairTokenizer.train("the quick brown fox jumps over the lazy dog, ä ö ü and 語. " * 3, 290)
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=32, vocab_size=TOKENIZER.n_vocab)
PROMPT = "the quick fox"


def make_model(backend=ops, end=-100.0):
    """A model of random weights, whose logit of the end-of-text token is about `end`: never, if not told otherwise."""
    made = GPT(CONFIG, ops=backend)
    made.parameters.data[...] = 0.3 * np.random.default_rng(5).standard_normal(made.parameters.data.size)
    tokens, w, b = (made.parameters[name] for name in ("embedding.wte", "norm.w", "norm.b"))
    w[0], b[0], tokens[:, 0], tokens[TOKENIZER.eot_token, 0] = 0, 10, 0, end / 10
    return made


@contextmanager
def serving(model=None, *, batch=4, line=20, limits=Limits(), **settings):
    """A server in this process, while the block lasts."""
    with Decoder(model or make_model(), sequences=batch) as decoder:
        engine = Engine(decoder, line=line)
        server = Server(("127.0.0.1", 0), Service("tiny", engine, TOKENIZER, CONFIG, **settings), limits)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            engine.close()
            thread.join()
            assert server.wait(5), "a connection hangs"


@pytest.fixture(scope="module")
def server():
    with serving(max_tokens=500) as made:
        yield made


def connect(server, timeout=20):
    return socket.create_connection(("127.0.0.1", server if isinstance(server, int) else server.server_port), timeout)


def receive(connection):
    """All bytes until the other side closes."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def raw(server, data):
    """These bytes, and no more: what comes back."""
    with connect(server) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:         # it has heard enough
            pass
        return receive(connection)


def body_of(table, more="", path="/v1/completions"):
    """A whole request with this table."""
    body = table if isinstance(table, bytes) else json.dumps(table).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
            .encode() + body)


def post(server, table, **settings):
    """-> status, table or lines, headers. Sends nothing after the request, and does not close its side."""
    with connect(server) as connection:
        connection.sendall(body_of(table, **settings))
        return parse(receive(connection))


def get(server, path, method="GET", host="localhost"):
    return parse(raw(server, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()))


def parse(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    status = int(re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", lines[0])[1])
    if headers["Content-Type"].startswith("text/event-stream"):
        return status, events(body), headers
    assert int(headers["Content-Length"]) == len(body) or not body
    return status, json.loads(body) if headers["Content-Type"] == "application/json" and body else body, headers


def events(body):
    assert body.endswith(b"\n\n")
    return [line if line == b"[DONE]" else json.loads(line) for line in body[6:-2].split(b"\n\ndata: ")]


def complete(server, **table):
    status, answer, _ = post(server, table)
    assert status == 200, answer
    return answer


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


# What it answers


def test_the_likeliest_text_is_that_of_generate(server):
    answer = complete(server, prompt=PROMPT, max_tokens=20, temperature=0, model="tiny", user="me", best_of=None)
    expected = generate_text(make_model(), TOKENIZER, PROMPT, 20, temperature=0)
    assert answer["choices"] == [{"index": 0, "text": expected, "logprobs": None, "finish_reason": "length"}]
    n = len(TOKENIZER.encode(PROMPT))
    assert answer["usage"] == {"prompt_tokens": n, "completion_tokens": 20, "total_tokens": n + 20}
    assert answer["object"] == "text_completion" and answer["model"] == "tiny" and answer["id"].startswith("cmpl-")


def test_a_seed_gives_the_text_of_generate_and_without_one_texts_differ(server):
    answer = complete(server, prompt=PROMPT, max_tokens=20, temperature=0.9, top_k=50, top_p=0.95, seed=7)
    assert answer["choices"][0]["text"] == generate_text(make_model(), TOKENIZER, PROMPT, 20, seed=7, temperature=0.9, top_k=50, top_p=0.95)
    assert len({complete(server, prompt=PROMPT, max_tokens=20)["choices"][0]["text"] for _ in range(3)}) > 1


def test_prompts_in_every_form(server):
    ids = TOKENIZER.encode(PROMPT)
    settings = {"max_tokens": 5, "temperature": 0}
    one = complete(server, prompt=PROMPT, **settings)["choices"][0]["text"]
    assert complete(server, prompt=ids, **settings)["choices"][0]["text"] == one
    assert [c["text"] for c in complete(server, prompt=[PROMPT, PROMPT], n=2, **settings)["choices"]] == [one] * 4
    answer = complete(server, prompt=[ids, ids[:2]], echo=True, **settings)
    assert answer["choices"][0]["text"] == PROMPT + one and answer["usage"]["prompt_tokens"] == len(ids) + 2
    assert [c["index"] for c in answer["choices"]] == [0, 1]
    nothing = complete(server, **settings)["choices"]           # begins with the end-of-text token
    assert nothing[0]["text"] == complete(server, prompt=[TOKENIZER.eot_token], **settings)["choices"][0]["text"]
    assert complete(server, prompt="\ud800" + PROMPT, echo=True, **settings)["choices"][0]["text"].startswith("\ufffd" + PROMPT)
    several = complete(server, prompt=PROMPT, n=3, seed=3, max_tokens=12)["choices"]
    assert len({choice["text"] for choice in several}) == 3
    assert several[0]["text"] == complete(server, prompt=PROMPT, seed=3, max_tokens=12)["choices"][0]["text"]


def test_the_end_of_text_token_ends_the_text():
    with serving(make_model(end=100.0)) as server:
        answer = complete(server, prompt=PROMPT, logprobs=1)
        assert answer["choices"][0]["text"] == "" and answer["choices"][0]["finish_reason"] == "stop"
        assert answer["choices"][0]["logprobs"]["tokens"] == [] and answer["usage"]["completion_tokens"] == 0
        assert [event["choices"][0]["finish_reason"] for event in post(server, {"stream": True})[1][:-1]] == ["stop"]


def test_a_stop_string_ends_the_text_and_its_tokens_are_not_told(server):
    whole = complete(server, prompt=PROMPT, max_tokens=20, seed=6)["choices"][0]["text"]
    stop = whole[2:5]           # begins within a token and ends with another
    for stream in (False, True):
        status, answer, _ = post(server, {"prompt": PROMPT, "max_tokens": 20, "seed": 6, "stop": [stop, "never"],
                                           "logprobs": 0, "stream": stream})
        choices = [choice for event in answer[:-1] for choice in event["choices"]] if stream else answer["choices"]
        text = "".join(choice["text"] for choice in choices)
        assert text == whole[:whole.index(stop)] and choices[-1]["finish_reason"] == "stop"
        assert len(text) > max(i for choice in choices for i in choice["logprobs"]["text_offset"])


def test_log_probabilities_are_those_of_the_whole_forward(server):
    model = make_model()
    for stream in (False, True):
        table = {"prompt": PROMPT, "max_tokens": 4, "seed": 6, "logprobs": 3, "echo": True, "stream": stream}
        status, answer, _ = post(server, table)
        choices = [choice for event in answer[:-1] for choice in event["choices"]] if stream else answer["choices"]
        text = "".join(choice["text"] for choice in choices)
        told = {name: sum((choice["logprobs"][name] for choice in choices), []) for name in choices[0]["logprobs"]}
        ids = [TOKENIZER.encode_single_token(name) for name in told["tokens"] if not name.startswith("bytes:")]
        assert len(ids) == len(told["tokens"]) == len(TOKENIZER.encode(PROMPT)) + 4, "choose a seed whose tokens are all text"
        logs = [log_softmax(row) for row in model.forward(np.array([ids]))[0][0]]
        assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
        for row, token, name, log, top in zip(logs, ids[1:], told["tokens"][1:], told["token_logprobs"][1:], told["top_logprobs"][1:], strict=False):
            assert log == pytest.approx(row[token], abs=1e-4)
            assert 3 <= len(top) <= 4 and max(top.values()) == pytest.approx(row.max(), abs=1e-4) and top[name] == log
        assert [text[offset:].startswith(name) for offset, name in zip(told["text_offset"], told["tokens"], strict=True)] == [True] * len(ids)


def test_scoring_a_prompt_alone(server):
    answer = complete(server, prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)
    assert answer["choices"][0]["text"] == PROMPT and answer["usage"]["completion_tokens"] == 0
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == len(TOKENIZER.encode(PROMPT))


def test_bytes_that_are_no_text_are_named_as_bytes(server):
    token = TOKENIZER.encode_single_token(b"\xe8")          # begins a character
    told = complete(server, prompt=[token], max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]
    assert told["tokens"] == ["bytes:\\xe8"]


def test_a_stream_joined_is_the_whole_text(server):
    table = {"prompt": ["語", PROMPT], "n": 2, "max_tokens": 60, "seed": 4}
    answer = complete(server, **table)
    whole = [choice["text"] for choice in answer["choices"]]
    status, parts, headers = post(server, table | {"stream": True, "stream_options": {"include_usage": True}})
    assert status == 200 and headers["Content-Type"] == "text/event-stream; charset=utf-8" and parts[-1] == b"[DONE]"
    assert parts[-2]["choices"] == [] and parts[-2]["usage"] == answer["usage"]
    texts, ended = ["", "", "", ""], []
    for part in parts[:-2]:
        assert part["usage"] is None
        for choice in part["choices"]:
            texts[choice["index"]] += choice["text"]
            ended += [choice["index"]] if choice["finish_reason"] else []
    assert texts == whole and sorted(ended) == [0, 1, 2, 3] and len(parts) > 100
    assert "usage" not in post(server, table | {"stream": True})[1][0]


@pytest.mark.parametrize("backend", [ops, numpyllm.kernels])
def test_neighbours_do_not_change_a_text(backend):
    """To the bit: log-probabilities are compared as they are."""
    table = {"prompt": PROMPT, "max_tokens": 60, "seed": 9, "logprobs": 2}
    with serving(make_model(backend), batch=5) as server:
        alone = complete(server, **table)["choices"]
        others = [{"prompt": PROMPT[:i] or "x", "max_tokens": 5 * i, "seed": i} for i in range(12)]
        with ThreadPoolExecutor(16) as pool:
            among = [pool.submit(complete, server, **other) for other in (*others[:6], table, *others[6:], table)]
        assert among[6].result()["choices"] == alone == among[-1].result()["choices"]


def test_requests_are_decoded_side_by_side(monkeypatch):
    """Four at once take hardly more steps than one, and a fifth begins when the first is through."""
    steps = []
    with serving(batch=4) as server:
        decoder, gate = server.service.engine._decoder, threading.Event()
        start, step = decoder.start, decoder.step
        monkeypatch.setattr(decoder, "start", lambda *args: gate.wait(10) and start(*args))
        monkeypatch.setattr(decoder, "step", lambda tokens, sequences: steps.append(len(tokens)) or step(tokens, sequences))
        with ThreadPoolExecutor(5) as pool:
            answers = [pool.submit(complete, server, prompt=PROMPT, max_tokens=30, seed=i) for i in range(5)]
            wait_until(lambda: sum(server.service.engine.counts()) == 5)
            gate.set()
    assert all(answer.result()["usage"]["completion_tokens"] <= 30 for answer in answers)
    assert len(steps) < 75 and max(steps) == 4


# What it refuses


@pytest.mark.parametrize("table, status, param", [
    ({"prompt": 5}, 400, "prompt"), ({"prompt": [1.0]}, 400, "prompt"), ({"prompt": []}, 400, "prompt"), ({"prompt": [True]}, 400, "prompt"),
    ({"prompt": [[1], "a", None]}, 400, "prompt"), ({"prompt": [290]}, 400, "prompt"), ({"prompt": [-1]}, 400, "prompt"),
    ({"prompt": [10**30]}, 400, "prompt"), ({"prompt": ["a"] * 25}, 400, "prompt"), ({"prompt": {"a": 1}}, 400, "prompt"),
    ({"max_tokens": 501}, 400, "max_tokens"), ({"max_tokens": -1}, 400, "max_tokens"), ({"max_tokens": "5"}, 400, "max_tokens"),
    ({"max_tokens": True}, 400, "max_tokens"), ({"max_tokens": 5.5}, 400, "max_tokens"),
    ({"temperature": -1}, 400, "temperature"), ({"temperature": "hot"}, 400, "temperature"), ({"temperature": 1e300}, 400, "temperature"),
    ({"temperature": 10**400}, 400, "temperature"), ({"top_p": 2}, 400, "top_p"), ({"top_p": -0.1}, 400, "top_p"), ({"top_k": 0}, 400, "top_k"),
    ({"min_p": 7}, 400, "min_p"), ({"repetition_penalty": 1e-300}, 400, "repetition_penalty"), ({"n": 0}, 400, "n"), ({"n": 25}, 400, "n"),
    ({"n": 13, "prompt": ["a", "b"]}, 400, "prompt"), ({"stream": 1}, 400, "stream"), ({"echo": "yes"}, 400, "echo"),
    ({"logprobs": 6}, 400, "logprobs"), ({"logprobs": True}, 400, "logprobs"), ({"seed": 2**63}, 400, "seed"), ({"seed": "x"}, 400, "seed"),
    ({"stop": ""}, 400, "stop"), ({"stop": ["a", 1]}, 400, "stop"), ({"stop": ["a"] * 17}, 400, "stop"), ({"stop": {}}, 400, "stop"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options"), ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options"),
    ({"best_of": 3}, 400, "best_of"), ({"suffix": "x"}, 400, "suffix"), ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
    ({"frequency_penalty": 1}, 400, "frequency_penalty"), ({"presence_penalty": 0.1}, 400, "presence_penalty"),
    ({"max_token": 5}, 400, "max_token"), ({"model": "gpt-4"}, 404, "model"), ({"model": []}, 404, "model"),
    ({"prompt": "the quick " * 20, "echo": True, "logprobs": 1}, 400, "prompt"), ([], 400, None), ("text", 400, None), (None, 400, None)])
def test_a_bad_field_is_named(server, table, status, param):
    got, answer, _ = post(server, table)
    error = answer["error"]
    assert got == status and error["param"] == param and len(error["message"]) < 300, answer
    assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("settings", [
    {"top_p": 0}, {"temperature": 1e-320}, {"temperature": 100, "top_k": 10**30}, {"repetition_penalty": 100}, {"best_of": 1, "suffix": None},
    {"logit_bias": {}, "presence_penalty": 0.0, "seed": -5}, {"stop": []}, {"min_p": 1e-300}, {"prompt": "x" * 5000}, {"max_tokens": 0}])
def test_odd_settings_that_mean_something(server, settings):
    complete(server, **{"prompt": PROMPT} | settings)


@pytest.mark.parametrize("body", [
    b"", b"{", b"nonsense", b'{"prompt": "\xff"}', b'{"temperature": NaN}', b'{"temperature": Infinity}', b"[" * 100_000, b'{"a":' * 50_000,
    b'{"max_tokens": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}", "{}".encode("utf-16")])
def test_a_body_that_is_no_json(server, body):
    status, answer, _ = post(server, body)
    assert status == 400 and answer["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("data, status", [
    (b"GET /\r\n\r\n", 505), (b"\r\n\r\n", 400), (b"GET\r\n\r\n", 400), (b"GET / HTTP/2.0\r\n\r\n", 505), (b"GET / HTTP/1.x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400), (b"GET /" + b"a" * 50_000, 414),
    (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n", 431), (b"GET / HTTP/1.1\r\nx: " + b"y" * 60_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01", 400), (b"GET http://[/ HTTP/1.0\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\n\r\n", 405), (b"OPTIONS /v1/completions HTTP/1.0\r\n\r\n", 405), (b"GET /v1/completions HTTP/1.0\r\n\r\n", 405),
    (b"GET /../etc/passwd HTTP/1.0\r\n\r\n", 404), (b"GET /v1/models/other HTTP/1.0\r\n\r\n", 404), (b"GET /v1/models/tiny HTTP/1.0\r\n\r\n", 200),
    (b"GET http://localhost/health?x=1 HTTP/1.0\r\n\r\n", 200), (b"HEAD / HTTP/1.0\r\n\r\n", 200), (b"GET %2f HTTP/1.0\r\n\r\n", 200),
    (b"POST /v1/completions HTTP/1.0\r\n\r\n", 415), (b"POST /v1/completions HTTP/1.0\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415),
    (b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n\r\n", 411),
    (b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
    (b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    (b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: \xb2\r\n\r\n{}", 400),
    (b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}", 400),
    (b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 99999999999999\r\n\r\n{}", 413)])
def test_a_request_that_makes_no_sense(server, data, status):
    got, answer, headers = parse(raw(server, data))
    assert got == status, answer
    if status >= 400:
        assert answer["error"]["message"] and headers["Content-Type"] == "application/json" and headers["Connection"] == "close"
    if status == 405:
        assert headers["Allow"]


def test_an_oversized_body_is_refused_before_it_has_come(server):
    for size in (2_000_000, 20_000_000):
        status, answer, _ = post(server, b" " * size)
        assert status == 413 and answer["error"]["code"] == "body_too_large"


FRAGMENTS = st.sampled_from([b"GET ", b"POST ", b"/", b"/v1/completions", b"/health", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r\n\r\n", b"\n", b":",
                             b"Host: localhost\r\n", b"Content-Length: ", b"Content-Type: application/json\r\n", b"5", b"0", b"-", b"{}", b"[", b'"prompt"',
                             b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: keep-alive\r\n", b"\x00", b"\xff", b" "])


@given(data=st.lists(FRAGMENTS | st.binary(max_size=20), max_size=14).map(b"".join))
@example(data=b"")
@example(data=b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
def test_any_bytes_are_answered_with_a_status_or_not_at_all(server, data):
    answer = raw(server, data).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if answer:
        parse(answer)
    assert get(server, "/health")[0] == 200


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=4)


@given(table=st.dictionaries(st.sampled_from(["prompt", "max_tokens", "temperature", "top_p", "n", "stream", "logprobs", "echo", "stop", "seed",
                                              "stream_options", "top_k", "min_p", "logit_bias", "model"]), JSON, max_size=4))
def test_any_json_is_answered_or_refused(server, table):
    status, answer, _ = post(server, table)
    assert status in (200, 400, 404), answer


# Who may come


def test_other_names_for_this_machine_are_refused(server):
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:80", "[::1]:8000", "127.8.9.1"):
        assert get(server, "/health", host=host)[0] == 200
    for host in ("evil.example", "localhost.evil.example", "evil@localhost", "127.0.0.1.evil.example", "10.0.0.1", "[::ffff:10.0.0.1]", "0.0.0.0",
                 "", "localhost, evil.example", "[::1"):
        status, answer, headers = get(server, "/", host=host)
        assert status == 403 and answer["error"]["code"] == "host_not_allowed", host
        assert not is_loopback(host)
    assert not any(name.lower().startswith("access-control") for name in get(server, "/health")[2])


def test_it_listens_on_loopback_alone_unless_told_so(server):
    assert server.server_address[0] == "127.0.0.1" and server.loopback
    for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}:
        with pytest.raises(OSError):
            socket.create_connection((address, server.server_port), timeout=1)
    with Server(("0.0.0.0", 0), server.service) as open_to_all:
        assert not open_to_all.loopback


@pytest.mark.parametrize("address", [("127.0.0.1", 70_000), ("no.such.host.invalid", 0), ("192.0.2.1", 0), ("a" * 300, 0)])
def test_where_it_cannot_listen_it_says_so(server, address):
    with pytest.raises(InputError, match="cannot listen at|a port must lie in"):
        Server(address, server.service)


def test_a_port_that_is_taken(server):
    with pytest.raises(InputError, match="in use"):
        Server(("127.0.0.1", server.server_port), server.service)


# What takes long


@contextmanager
def held(server, monkeypatch):
    """The engine stands still at its next step until the event is set."""
    decoder, gate = server.service.engine._decoder, threading.Event()
    step = decoder.step
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "step", lambda *args: gate.wait(20) and step(*args))
        try:
            yield gate
        finally:
            gate.set()


def test_a_full_line_is_told_to_come_back(monkeypatch):
    with serving(batch=1, line=1) as server, held(server, monkeypatch) as gate, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(complete, server, prompt=PROMPT, max_tokens=3) for _ in range(2)]
        wait_until(lambda: server.service.engine.counts() == (1, 1))
        status, answer, headers = post(server, {"prompt": PROMPT})
        assert status == 503 and headers["Retry-After"] == "1" and answer["error"]["type"] == "overloaded_error"
        assert get(server, "/health")[1] == {"status": "ok", "model": "tiny", "active": 1, "waiting": 1}
        gate.set()
        assert all(answer.result()["choices"] for answer in answers)
        complete(server, prompt=PROMPT)


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_frees_its_sequence(monkeypatch, stream):
    with serving(batch=1, line=5, max_tokens=10**9) as server:
        engine = server.service.engine
        begun = [connect(server) for _ in range(3)]
        for connection in begun:
            connection.sendall(body_of({"prompt": PROMPT, "max_tokens": 10**9, "stream": stream, "stop": "\x00never"}))
        wait_until(lambda: engine.counts() == (1, 2))
        for connection in begun:
            connection.close()
        wait_until(lambda: engine.counts() == (0, 0), seconds=3)
        complete(server, prompt=PROMPT)


def test_a_slow_reader_holds_up_nobody_and_is_dropped():
    with serving(batch=2, limits=Limits(seconds=0.5), max_tokens=10**9) as server:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(server.server_address)
            slow.sendall(body_of({"prompt": PROMPT, "max_tokens": 10**9, "stream": True, "logprobs": 5, "stop": "\x00never"}))
            wait_until(lambda: server.service.engine.counts() == (1, 0))
            assert len(complete(server, prompt=PROMPT, max_tokens=20, seed=1)["choices"]) == 1
            wait_until(lambda: server.service.engine.counts() == (0, 0), seconds=20)


def test_who_sends_a_byte_now_and_then_is_cut_off():
    with serving(limits=Limits(seconds=0.6)) as server:
        request = body_of({"prompt": PROMPT})
        for begin in (0, request.index(b"\r\n\r\n") + 4):          # within the head, within the body
            begun = time.monotonic()
            with connect(server) as connection:
                connection.sendall(request[:begin])
                connection.settimeout(0.1)
                answer = b""
                for i in range(begin, begin + 30):
                    connection.sendall(request[i:i + 1])
                    try:
                        answer = connection.recv(10_000)
                        break
                    except TimeoutError:
                        pass
            assert answer.startswith(b"HTTP/1.1 408 ") and time.monotonic() - begun < 2


def test_others_wait_while_all_connections_are_taken():
    with serving(limits=Limits(connections=2, seconds=0.5)) as server:
        idle = [connect(server) for _ in range(2)]
        begun = time.monotonic()
        assert get(server, "/health")[0] == 200 and time.monotonic() - begun > 0.2
        for connection in idle:
            connection.close()


def test_an_error_in_the_engine_is_one_requests_affair(monkeypatch, capsys):
    with serving(batch=2) as server:
        decoder = server.service.engine._decoder

        def fail(*args):
            raise FloatingPointError("broken")

        for name in ("start", "step"):
            for stream in (False, True):
                with monkeypatch.context() as patch:
                    patch.setattr(decoder, name, fail)
                    status, answer, _ = post(server, {"prompt": PROMPT, "stream": stream, "max_tokens": 3})
                assert status == 500 or (stream and name == "step")             # then it may have begun
                error = answer["error"] if status == 500 else answer[-1]["error"]
                assert "broken" in error["message"] and error["type"] == "server_error"
                complete(server, prompt=PROMPT)
    assert "FloatingPointError" in capsys.readouterr().err


def test_an_engine_that_is_closed_ends_what_is_left(monkeypatch):
    with serving(batch=1, line=5, max_tokens=10**9) as server, ThreadPoolExecutor(2) as pool:
        long = {"prompt": PROMPT, "max_tokens": 10**9, "stop": "\x00never"}
        whole, stream = pool.submit(post, server, long), pool.submit(post, server, long | {"stream": True})
        wait_until(lambda: server.service.engine.counts() == (1, 1))
        server.service.engine.close(0.1)
        assert whole.result()[0] == 503
        assert stream.result()[0] == 503 or stream.result()[1][-1]["error"]["code"] == "stopped"
        assert post(server, {"prompt": PROMPT})[0] == 503 and get(server, "/health")[0] == 503


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("serve") / "quick-fox"
    assert tiny_run.make(folder, spikes=(), max_iters=2).run()
    return folder


@contextmanager
def command(run, *options):
    """`numpyllm serve` as a process of its own -> process, port."""
    process = subprocess.Popen([sys.executable, "-m", "numpyllm", "serve", "--model", str(run), "--port", "0", "--backend", "numpy", *options],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, int(re.fullmatch(r"quick-fox at http://127\.0\.0\.1:(\d+)/ \(Ctrl-C stops\)\n", line)[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_it_finish_what_was_begun(run, number, code):
    with command(run, "--max_tokens", "100000", "--batch", "2") as (process, port), ThreadPoolExecutor(2) as pool:
        begun = pool.submit(post, port, {"prompt": "the ", "max_tokens": 1000, "stop": "\x00never"})
        wait_until(lambda: get(port, "/health")[1]["active"] == 1)
        process.send_signal(number)
        status, answer, _ = begun.result()
        assert status == 200 and answer["usage"]["completion_tokens"] == 1000
        assert process.wait(10) == code
        with pytest.raises(OSError):
            connect(port, timeout=1)


def test_the_grace_ends_and_a_second_signal_ends_at_once(run):
    endless = {"prompt": "the ", "max_tokens": 10**6, "stop": "\x00never"}
    for grace, signals in (("0", 1), ("60", 2)):
        with command(run, "--max_tokens", str(10**6), "--grace", grace) as (process, port), ThreadPoolExecutor(1) as pool:
            begun = pool.submit(lambda port=port: raw_or_reset(port, body_of(endless)))
            wait_until(lambda port=port: get(port, "/health")[1]["active"] == 1)
            process.send_signal(signal.SIGTERM)
            if signals == 2:
                assert process.stdout.readline() == "\n" and "finishing" in process.stdout.readline()
                process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 143
            assert begun.result().startswith(b"HTTP/1.1 503 " if signals == 1 else b"")


def raw_or_reset(port, data):
    try:
        with connect(port) as connection:
            connection.sendall(data)
            return receive(connection)
    except OSError:
        return b""


def test_the_command_says_what_is_wrong(run, server, capsys):
    assert main(["serve", "--model", str(run), "--backend", "numpy", "--port", str(server.server_port)]) == 2
    assert "in use; choose others with --host and --port" in capsys.readouterr().err
    assert main(["serve", "--model", str(run / "nothing")]) == 2


# Many at once


KINDS = {"whole": 50, "stream": 20, "scored": 5, "slow": 4, "dropped": 8, "oversized": 3, "malformed": 6, "health": 4}


def one_client(port, kind, rng):
    """One request of this kind -> what came of it. Fails where it is neither answered nor refused."""
    table = {"prompt": "the quick fox"[:rng.randint(1, 13)], "max_tokens": rng.randint(1, 30), "seed": rng.randint(0, 99)}
    if kind == "whole":
        status, answer, _ = post(port, table | {"n": rng.choice([1, 1, 1, 3])})
        assert status == 503 or answer["choices"]
    elif kind == "stream":
        status, answer, _ = post(port, table | {"stream": True})
        assert status == 503 or answer[-1] == b"[DONE]"
    elif kind == "scored":
        status, answer, _ = post(port, {"prompt": "the qui", "max_tokens": 0, "echo": True, "logprobs": 3})
        assert status == 503 or len(answer["choices"][0]["logprobs"]["tokens"]) == 7
    elif kind == "slow":
        with connect(port) as connection:
            for part in np.array_split(np.frombuffer(body_of(table | {"stream": True}), np.uint8), 5):
                connection.sendall(part.tobytes())
                time.sleep(0.02)
            parts = []
            while part := connection.recv(100):
                parts.append(part)
                time.sleep(0.005)
        status, answer, _ = parse(b"".join(parts))
        assert status == 503 or answer[-1] == b"[DONE]"
    elif kind == "dropped":
        with connect(port) as connection:
            request = body_of(table | {"stream": rng.random() < 0.5, "max_tokens": 500})
            connection.sendall(request[:rng.choice([3, 60, -3, len(request), len(request)])])
            time.sleep(rng.random() * 0.05)
        status = "gone"
    elif kind == "oversized":
        status, answer, _ = post(port, b"x" * 1_500_000)
        assert status == 413
    elif kind == "malformed":
        data = rng.choice([b"nonsense\r\n\r\n", b"GET / HTTP/9\r\n\r\n", body_of(b"{"), body_of({"prompt": 1}), rng.randbytes(200) + b"\n\r\n"])
        status = parse(raw(port, data))[0]
        assert 400 <= status < 500 or status == 505
    else:
        status = get(port, "/health")[0]
        assert status == 200
    return kind, status


def load(port, requests, clients, seed):
    """So many requests by so many clients at once -> how many ended in which way."""
    def work(i):
        rng = random.Random(seed * 1_000_003 + i)
        return one_client(port, rng.choices([*KINDS], [*KINDS.values()])[0], rng)

    with ThreadPoolExecutor(clients) as pool:
        return Counter(pool.map(work, range(requests)))


def resident(pid):
    """Bytes of memory that a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def listening(pid):
    """The addresses, in hexadecimal digits, at which a process listens."""
    inodes = {link.readlink().name.removeprefix("socket:[").removesuffix("]") for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for table in ("tcp", "tcp6") if Path(f"/proc/{pid}/net/{table}").exists()
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def check_load(run, requests, clients, warm_up):
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is measured by /proc")
    with command(run, "--max_tokens", "500") as (process, port):
        load(port, warm_up, clients, seed=1)
        before = resident(process.pid)
        ended = load(port, requests, clients, seed=2)
        wait_until(lambda: get(port, "/health")[1] == {"status": "ok", "model": "quick-fox", "active": 0, "waiting": 0})
        grown = resident(process.pid) - before
        assert sum(ended.values()) == requests and ended["whole", 200] > 0.2 * requests
        assert listening(process.pid) == {"0100007F"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
        out, errors = process.communicate()
        assert not errors, errors
    print(f"{requests} requests by {clients} clients: {dict(ended)}, memory {before / 2**20:.0f} MiB and {grown / 2**20:+.2f}")
    assert grown < 4 * 2**20


def test_many_clients_of_all_kinds(run):
    check_load(run, requests=200, clients=20, warm_up=150)


@pytest.mark.thorough
def test_fifty_clients_and_two_thousand_requests(run):
    check_load(run, requests=2000, clients=50, warm_up=500)


# The page, and OpenAI's own client


def test_the_page_is_whole_and_lets_nothing_else_in(server):
    status, page, headers = get(server, "/")
    assert status == 200 and b"<textarea" in page and not re.search(rb"(src|href)=.?(https?:)?//|@import|innerHTML|url\(", page)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and headers["X-Content-Type-Options"] == "nosniff"
    assert get(server, "/", method="HEAD")[1] == b""


@pytest.mark.oracle
def test_openais_client():
    openai = pytest.importorskip("openai")
    with serving(batch=2, line=4, max_tokens=100) as server:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").object == "model"
        settings = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 3}
        answer = client.completions.create(**settings, logprobs=2, n=2, temperature=0.9, top_p=0.9, stop=["\x00never"])
        assert [choice.index for choice in answer.choices] == [0, 1] and answer.usage.completion_tokens == 24
        assert answer.choices[0].finish_reason == "length" and len(answer.choices[0].logprobs.token_logprobs) == 12
        whole = client.completions.create(**settings).choices[0].text
        parts = list(client.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
        assert "".join(choice.text for part in parts for choice in part.choices) == whole and parts[-1].usage.completion_tokens == 12
        echoed = client.completions.create(model="tiny", prompt=[TOKENIZER.encode(PROMPT)], max_tokens=0, echo=True, logprobs=1)
        assert echoed.choices[0].text == PROMPT and echoed.choices[0].logprobs.token_logprobs[0] is None
        for error, call in [(openai.NotFoundError, lambda: client.completions.create(model="other", prompt="x")),
                            (openai.NotFoundError, lambda: client.models.retrieve("other")),
                            (openai.NotFoundError, lambda: client.embeddings.create(model="tiny", input="x")),
                            (openai.BadRequestError, lambda: client.completions.create(**settings | {"max_tokens": 101})),
                            (openai.BadRequestError, lambda: client.completions.create(**settings, logprobs=9)),
                            (openai.APIStatusError, lambda: client.completions.create(**settings | {"prompt": "x" * 2_000_000}))]:
            with pytest.raises(error) as raised:
                call()
            assert raised.value.body["message"] and raised.value.body["type"] == "invalid_request_error"
        server.service.engine.close()
        with pytest.raises(openai.InternalServerError) as raised:
            client.completions.create(**settings)
        assert raised.value.status_code == 503 and raised.value.response.headers["Retry-After"] == "1"
        client.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [path for path in ("/usr/bin/chromium", "/usr/bin/chromedriver") if Path(path).exists()]
    if len(programs) < 2:
        pytest.skip("no Chromium, or no driver for it")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,900",
                     f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


@pytest.mark.oracle
def test_the_page_in_a_browser(browser):
    with serving(batch=2, max_tokens=10**9, limits=Limits(seconds=3)) as server:
        find = lambda name: browser.find_element("id", name)
        told = lambda: find("status").text
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        wait_until(lambda: find("model").text == "tiny")
        for name, value in (("max_tokens", "30"), ("seed", "5"), ("temperature", "0.9")):
            find(name).clear()
            find(name).send_keys(value)
        find("prompt").send_keys("the <b>quick</b>")
        find("start").click()
        wait_until(lambda: "30 tokens in" in told())
        expected = generate_text(make_model(), TOKENIZER, "the <b>quick</b>", 30, seed=5, temperature=0.9)
        assert find("answer").get_property("textContent") == "the <b>quick</b>" + expected and not find("halt").is_enabled()

        find("max_tokens").clear()
        find("max_tokens").send_keys("100000000")
        find("stop").send_keys("never never never")
        find("start").click()
        lengths = []
        for _ in range(3):          # it grows while it comes
            wait_until(lambda: len(find("answer").get_property("textContent")) > max(lengths, default=100))
            lengths.append(len(find("answer").get_property("textContent")))
        find("halt").click()
        wait_until(lambda: told() == "stopped")
        wait_until(lambda: server.service.engine.counts() == (0, 0))

        find("seed").send_keys("00000000000000000000")          # too large: refused by the server, said on the page
        find("start").click()
        wait_until(lambda: "seed must be" in told())
        for width in (360, 1000):
            browser.set_window_size(width, 800)
            assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        said = [entry["message"] for entry in browser.get_log("browser")]
        assert len(said) == 1 and "400 (Bad Request)" in said[0], said
