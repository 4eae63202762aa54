"""One text that is being continued: which tokens it has, which comes next, when it ends."""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..random import generator
from .sampling import Sampling, choose, log_softmax


class LogProbability(NamedTuple):
    """How likely the model itself held a chosen token, whatever sampling made of it."""

    chosen: float           # natural logarithm
    top: dict               # {token: log-probability} of the likeliest


def log_probability(logits, token, n_top):
    """LogProbability of a token and of the n_top likeliest ones, by logits (V)."""
    logs = log_softmax(logits)
    best = np.argsort(-logs, kind="stable")[:n_top]
    return LogProbability(float(logs[token]), {int(i): float(logs[i]) for i in best})


class Continuation:
    """Give it logits, it chooses a token; None when it is over, and `finish_reason` says why: "stop" or "length".

    Draw number n is a pure function of (seed, index, n): index numbers the texts that are continued with one seed.
    stop_token ends it and is not one of its tokens. n_vocab: tokens from there on are never chosen; a model may have
    more than its tokenizer knows. logprobs: how many likely tokens to note at each choice, 0 for the chosen one
    alone, None for nothing.
    """

    def __init__(self, ids, max_new_tokens, *, sampling=Sampling(), seed=0, index=0, stop_token=None, n_vocab=None,
                 logprobs=None):
        self.prompt = [int(i) for i in ids]
        self.tokens, self.logprobs = [], []
        self.guessed, self.right = 0, 0         # tokens that were guessed ahead (lookup.py), and that came true
        self.finish_reason = None if max_new_tokens > 0 else "length"
        self._most, self._sampling, self._seed, self._index = max_new_tokens, sampling, seed, index
        self._stop_token, self._n_vocab, self._note = stop_token, n_vocab, logprobs

    def take(self, logits):
        """Choose the next token from logits (V) -> token, or None when it is over."""
        if self.finish_reason is not None:
            return None
        logits, uniform = logits[:self._n_vocab], 0.0
        if self._sampling.temperature > 0:
            uniform = generator(self._seed, "sample", step=len(self.tokens), micro=self._index).random()
        seen = self.prompt + self.tokens if self._sampling.repetition_penalty != 1 else ()
        token = choose(logits, self._sampling, uniform, seen)
        if token == self._stop_token:
            self.finish_reason = "stop"
            return None
        self.tokens.append(token)
        if self._note is not None:
            self.logprobs.append(log_probability(logits, token, self._note))
        if len(self.tokens) == self._most:
            self.finish_reason = "length"
        return token

    def stop(self):
        """End it from outside: its text has reached a stop string."""
        self.finish_reason = "stop"


class TextStream:
    """Tokens in, text out as it comes: never half a character, never (part of) a stop string."""

    def __init__(self, tokenizer, stops=()):
        if "" in stops:
            raise InputError("a stop string must not be empty: it would be there before the first token")
        self._decoder, self._stops, self._held = tokenizer.stream_decoder(), tuple(stops), ""
        self.stopped = False

    def feed(self, token):
        """-> the text that is certain now; `stopped` says whether a stop string was reached: then nothing more comes."""
        return self._pass_on(self._decoder.feed([token]), held_back=True)

    def flush(self):
        """The rest, when no token will come any more."""
        return self._pass_on(self._decoder.flush(), held_back=False)

    def _pass_on(self, text, held_back):
        if self.stopped:
            return ""
        text, self._held = self._held + text, ""
        ends = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return text[:min(ends)]
        if held_back:
            keep = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
            text, self._held = text[:len(text) - keep], text[len(text) - keep:]
        return text
