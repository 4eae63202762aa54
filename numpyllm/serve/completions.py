"""/v1/completions as OpenAI defined it: a request's table becomes jobs for the engine, and their pieces become choices.

Of OpenAI's fields, best_of, suffix, logit_bias and the penalties for presence and frequency are not there: a request with any of
them, or with a field that nobody knows, is refused. top_k, min_p and repetition_penalty are there in addition.
"""

import difflib
import queue
import secrets
import time
from dataclasses import dataclass, field

from ..errors import InputError
from ..inference import Continuation, Engine, Job, Sampling, TextStream
from .refused import Refused

NOTHING = {"best_of": 1, "suffix": "", "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0}   # allowed as these alone
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
FIELDS = {"model", "prompt", "max_tokens", "n", "stream", "stream_options", "logprobs", "echo", "stop", "seed", "user",
          *SAMPLING, *NOTHING}
BETWEEN = {"temperature": (0, 100), "repetition_penalty": (0.01, 100)}      # beyond, arithmetic overflows
MOST_LIKELY = 5             # tokens that logprobs may ask for at each place
MOST_STOPS = 16
LEAST = -9999.0             # stands for the logarithm of zero, which JSON cannot hold


@dataclass(frozen=True)
class Service:
    """A model that is being served, under this name."""

    name: str
    engine: Engine
    tokenizer: object
    config: object              # GPTConfig
    max_tokens: int = 2048      # most that a request may ask for
    created: int = field(default_factory=lambda: int(time.time()))

    def model(self):
        """What /v1/models says of it."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "numpyllm"}

    def health(self):
        """What /health says."""
        active, waiting = self.engine.counts()
        return {"status": "ok", "model": self.name, "active": active, "waiting": waiting}


class Completion:
    """A request for completions, checked: jobs for the engine, whose pieces come out of `news`. Raises Refused."""

    def __init__(self, table, service):
        if not isinstance(table, dict):
            raise Refused(400, f"the body must be a JSON object, got {_kind(table)}")
        for name in table:
            if name not in FIELDS:
                near = difflib.get_close_matches(name, FIELDS, n=1)
                hint = f": did you mean {near[0]}?" if near else ""
                raise Refused(400, f"{_short(name)} is not known{hint}", param=_short(name))
        for name, nothing in NOTHING.items():
            if table.get(name) is not None and table[name] != nothing:
                raise Refused(400, f"{name} is not supported: leave it out", param=name)
        if table.get("model") not in (None, service.name):
            raise Refused(404, f"the model {_short(table['model'])} does not exist, there is {service.name}", param="model",
                          code="model_not_found")
        self.stream = _boolean(table, "stream")
        self.usage_in_stream = _stream_options(table, self.stream)
        self.echo = _boolean(table, "echo")
        self.id, self.created, self.model = f"cmpl-{secrets.token_hex(12)}", int(time.time()), service.name
        room = service.engine.sequences + service.engine.line
        n = _whole(table, "n", 1, 1, room)
        most = _whole(table, "max_tokens", min(16, service.max_tokens), 0, service.max_tokens)
        logprobs = _whole(table, "logprobs", None, 0, MOST_LIKELY)
        seed = _whole(table, "seed", None, -2**63, 2**63 - 1)
        seed = secrets.randbits(63) if seed is None else seed
        for name, (low, high) in BETWEEN.items():
            if table.get(name) is not None and not (_is_number(table[name]) and low <= table[name] <= high):
                raise Refused(400, f"{name} must be a number from {low} to {high}, got {_short(table[name])}", param=name)
        stops, sampling = _stops(table), _sampling(table)
        self.prompts = _prompts(table, service, room // n)
        score = logprobs if self.echo else None
        if score is not None and max(map(len, self.prompts)) > service.config.block_size:
            raise Refused(400, f"with echo and logprobs a prompt must fit into the context of {service.config.block_size} tokens, "
                          f"got {max(map(len, self.prompts))}", param="prompt")
        self.news, self.jobs, self._choices = queue.SimpleQueue(), [], []
        for number in range(n * len(self.prompts)):
            ids = self.prompts[number // n]
            text = Continuation(ids[-service.config.block_size:], most, sampling=sampling, seed=seed, index=number,
                                stop_token=service.tokenizer.eot_token, logprobs=logprobs)
            out = TextStream(service.tokenizer, stops)
            self.jobs.append(Job(text, out, self.news, number=number, streamed=self.stream, score_prompt=score))
            self._choices.append(_Choice(self.jobs[-1], service.tokenizer, ids if self.echo else [], logprobs))

    def table(self, pieces, *, usage):
        """The answer, or a part of it, that these Pieces amount to."""
        choices = [self._choices[piece.number].advance(piece) for piece in pieces]
        return self._answer(sorted(choices, key=lambda choice: choice["index"]), usage)

    def usage_table(self):
        """The last part of a stream, if it was asked for."""
        return self._answer([], True)

    def _answer(self, choices, usage):
        answer = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model, "choices": choices}
        prompt, completion = sum(map(len, self.prompts)), sum(len(job.text.tokens) for job in self.jobs)
        total = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return answer | ({"usage": total} if usage else {"usage": None} if self.usage_in_stream else {})


class _Choice:
    """One of the texts of an answer, as it grows."""

    def __init__(self, job, tokenizer, prompt, logprobs):
        self._job, self._tokenizer, self._logprobs = job, tokenizer, logprobs
        self._prompt = prompt                               # ids that are still to be said
        self._shown = 0                                     # tokens that were said
        self._length = self._offset = 0                     # characters that were said; that came before the next token
        self._decoder = tokenizer.stream_decoder()

    def advance(self, piece):
        """The choice with what is new in this Piece."""
        prompt, self._prompt = self._prompt, []
        text = self._tokenizer.decode(prompt) + piece.text
        self._length += len(text)
        told = None if self._logprobs is None else self._told(prompt, piece)
        return {"index": piece.number, "text": text, "logprobs": told, "finish_reason": piece.finish_reason}

    def _told(self, prompt, piece):
        """Log-probabilities of the tokens of which the text is certain: not of those that made a stop string."""
        rows = [(token, note) for token, note in zip(prompt, [None, *self._job.prompt_logprobs], strict=False)]
        new = slice(self._shown, piece.n_tokens)
        rows += zip(self._job.text.tokens[new], self._job.text.logprobs[new], strict=True)
        told = {"tokens": [], "token_logprobs": [], "top_logprobs": [] if self._logprobs else None, "text_offset": []}
        for i, (token, note) in enumerate(rows):
            if self._offset >= self._length:
                break
            told["tokens"].append(self._name(token))
            told["token_logprobs"].append(note and max(note.chosen, LEAST))
            if self._logprobs:
                likely = note and note.top | {token: note.chosen}
                told["top_logprobs"].append(note and {self._name(i): max(log, LEAST) for i, log in likely.items()})
            told["text_offset"].append(self._offset)
            self._offset += len(self._decoder.feed([token]))
            self._shown += i >= len(prompt)
        return told

    def _name(self, token):
        """A token as text; its bytes where they are none."""
        spelling = self._tokenizer.decode_single_token_bytes(token)
        try:
            return spelling.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)


def _prompts(table, service, most):
    """The prompts, at most so many, as lists of ids. An empty one, or none, begins with the end-of-text token."""
    prompt = table.get("prompt")
    prompt = "" if prompt is None else prompt
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and all(_is_whole(i) for i in prompt)):
        prompt = [prompt]
    if not (isinstance(prompt, list) and prompt and all(isinstance(one, (str, list)) for one in prompt)):
        raise Refused(400, "prompt must be a text, a list of texts, a list of ids, or a list of such lists", param="prompt")
    if len(prompt) > most:
        raise Refused(400, f"there must be at most {most} prompts (times n), got {len(prompt)}", param="prompt")
    return [_ids(one, service) for one in prompt]


def _ids(prompt, service):
    if isinstance(prompt, str):
        ids = service.tokenizer.encode(prompt, allowed_special="all")
    elif all(_is_whole(i) and 0 <= i < service.tokenizer.n_vocab for i in prompt):
        ids = prompt
        try:
            service.tokenizer.decode_tokens_bytes(ids)
        except InputError as error:
            raise Refused(400, str(error), param="prompt") from None
    else:
        raise Refused(400, f"ids in a prompt must be whole numbers from 0 to {service.tokenizer.max_token_value}", param="prompt")
    if not ids and service.tokenizer.eot_token is None:
        raise Refused(400, "a prompt must not be empty, this model's tokenizer has no token to begin with", param="prompt")
    return ids or [service.tokenizer.eot_token]


def _sampling(table):
    settings = {name: table[name] for name in SAMPLING if table.get(name) is not None}
    if settings.get("top_p") == 0:          # OpenAI allows it: the likeliest token alone
        settings["top_p"] = 1e-9
    try:
        return Sampling(**settings)
    except InputError as error:
        raise Refused(400, str(error), param=next((name for name in SAMPLING if str(error).startswith(name)), None)) from None


def _stops(table):
    stops = table.get("stop")
    stops = [] if stops is None else [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise Refused(400, f"stop must be a text or a list of at most {MOST_STOPS} texts, none of them empty", param="stop")
    return stops


def _stream_options(table, stream):
    options = table.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise Refused(400, "stream_options is for stream=true only: leave it out", param="stream_options")
    if not isinstance(options, dict) or not set(options) <= {"include_usage", "include_obfuscation"}:
        raise Refused(400, "stream_options must be an object with include_usage", param="stream_options")
    return _boolean(options, "include_usage")


def _boolean(table, name):
    value = table.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f"{name} must be true or false, got {_short(value)}", param=name)
    return bool(value)


def _whole(table, name, default, low, high):
    value = table.get(name)
    if value is None:
        return default
    if not _is_whole(value) or not low <= value <= high:
        raise Refused(400, f"{name} must be a whole number from {low} to {high}, got {_short(value)}", param=name)
    return value


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value):
    """A value as a message may repeat it."""
    try:
        told = value if isinstance(value, str) else repr(value)
    except ValueError:              # a number of more digits than Python writes
        told = "a very large number"
    return told if len(told) <= 60 else told[:57] + "..."


def _kind(value):
    return {list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(type(value), "a number")
