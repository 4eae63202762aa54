"""Decoding with a state: a recurrent model needs of its past no more than what one step hands to the next."""

import numpy as np

from .. import blas
from ..errors import InputError
from ..models import GPT, require_language_model
from .decoder import Decoder
from .weights import StoredWeights


def make_decoder(model, **options):
    """The Decoder that suits a model, with a cache or with a state; options as for Decoder. InputError for one that continues no text."""
    require_language_model(model, "what is to be decoded")
    return (Decoder if isinstance(model, GPT) else StateDecoder)(model, **options)


class StateDecoder(Decoder):
    """A Decoder for an LSTMLM, with the same methods. One thread; a token costs the same however many were before it, and no
    context's limit is ever reached."""

    def __init__(self, model, *, sequences=1, weights="float32", threads=None):
        if weights != "float32":
            stored = weights if isinstance(weights, StoredWeights) else StoredWeights(model, weights)
            if stored.kind != "float32":
                model = model.astype(model.parameters.dtype)
                stored.write_into(model)
        self.model, self.threads = model, 1
        self.past = model.past(sequences)
        self._tokens = [[] for _ in range(sequences)]
        self._states = [{} for _ in range(sequences)]       # {length: state} along the last `extend`, for `cut`
        self._blas = blas.limited(1)
        self._blas.__enter__()

    def close(self):
        """Let BLAS go."""
        if self._blas is not None:
            self._blas.__exit__(None, None, None)
            self._blas = None

    def start(self, ids, sequence=0):
        """Begin a sequence anew with these tokens, at least one -> logits (V) after the last."""
        ids = np.asarray(ids, np.int64).reshape(1, -1)
        if ids.size == 0:
            raise InputError("a prompt must have at least one token, got none: begin with a newline or an end-of-text token")
        state = self.model.past()
        h = self.model.trunk_step(ids, state)
        self._forget(sequence, state, ids[0].tolist())
        return self.model.head.step(h[:, -1], None)[0]

    def step(self, tokens, sequences=None):
        """One more token for each of these different sequences (default: all) -> logits (N, V) after each."""
        sequences = np.arange(len(self._tokens)) if sequences is None else np.asarray(sequences, np.int64)
        tokens = np.asarray(tokens, np.int64)
        state = self.past.of(sequences)
        logits = self.model.step(tokens[:, None], state)[:, 0]
        self.past.put(sequences, state)
        for token, sequence in zip(tokens.tolist(), sequences.tolist(), strict=True):
            self._tokens[sequence].append(token)
        return logits

    def extend(self, tokens, sequence=0):
        """Several tokens for one sequence, one after another -> logits (T, V) after each of them."""
        rows, self._states[sequence] = [], {}
        for token in tokens:
            rows.append(self.step([token], [sequence])[0])
            self._states[sequence][self.length(sequence)] = self.past.of([sequence])
        return np.stack(rows)

    def room(self, sequence=0):
        """There is room for any number; so many tokens are a useful one."""
        return self.model.config.block_size

    def cut(self, length, sequence=0):
        """Forget all but the first `length` tokens of a sequence. Further back than the last `extend` they are read again."""
        tokens = self._tokens[sequence][:length]
        if length == self.length(sequence):
            return
        if length in self._states[sequence]:
            self._forget(sequence, self._states[sequence][length], tokens)
        elif tokens:
            self.start(tokens, sequence)
        else:
            self._forget(sequence, self.model.past(), tokens)

    def copy(self, source, sequence):
        """Make a sequence the same as another one."""
        self._forget(sequence, self.past.of([source]), list(self._tokens[source]))

    def _forget(self, sequence, state, tokens):
        """From now on the sequence has this state and these tokens."""
        self.past.put([sequence], state)
        self._tokens[sequence], self._states[sequence] = tokens, {}
