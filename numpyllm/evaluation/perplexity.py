"""How well a model predicts a long text: in windows that overlap, so that each token has a past, and each counted once.

    tokens   0 1 2 3 4 5 6 7 8 9 ...
    window   [0 . . . . .]              window=6, stride=3: 1 to 5 are predicted, nothing predicts the first of all
                   [. . . 6 7 8]        the first three are read and not counted again
                         [. . . 9 ...

It is the protocol of transformers' documentation ("Perplexity of fixed-length models"), each window weighed by the tokens it
predicts. Chapter: docs/evaluation.md.
"""

import math
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .loglikelihood import longest_context
from .metrics import confidence_interval


class Perplexity(NamedTuple):
    nats: float             # minus the log-probability of all predicted tokens
    tokens: int             # predicted ones: all but the first
    words: int              # of the text, as count_words counts
    bytes: int              # that the predicted tokens stand for
    windows: list           # (nats, tokens) of each

    @property
    def loss(self):
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def token_perplexity(self):
        return _exp(self.loss)

    @property
    def word_perplexity(self):
        """exp(nats a word), NaN for a text without words: unlike the first, it compares across tokenizers."""
        return _exp(self.nats / self.words) if self.words else float("nan")

    @property
    def bits_per_byte(self):
        """Compares across tokenizers, and needs no idea of a word. NaN where no token stands for any byte."""
        return self.nats / math.log(2) / self.bytes if self.bytes else float("nan")

    def interval(self, *, seed=0, resamples=1000, level=0.95):
        """(low, high) for token_perplexity, by drawing windows with replacement; NaN for fewer than two windows."""
        if len(self.windows) < 2:
            return float("nan"), float("nan")
        rows = np.array(self.windows)
        return confidence_interval(lambda row: _exp(row[:, 0].sum() / row[:, 1].sum()), rows, seed=seed, resamples=resamples, level=level)


def windows(n, window, stride):
    """Yield (begin, first, end) for n tokens: tokens begin .. end - 1 are read, of which those from `first` on are predicted."""
    begin, first = 0, 1
    while first < n:
        end = min(begin + window, n)
        yield begin, first, end
        begin, first = begin + stride, end


def default_window(model):
    """(window, stride): the model's context, for an LSTM what it was trained with, and half of it."""
    window = max(2, model.config.block_size)
    return window, window // 2


def perplexity(model, ids, byte_lengths, *, words=0, window=None, stride=None, batch_size=4, progress=None):
    """Perplexity of a text as tokens, ids (N), at least two.

    byte_lengths (V): bytes that each token stands for; words: how many the text has; window, stride: in tokens, by default
    default_window's; batch_size: windows side by side; progress: called as progress(done, total), in tokens.
    InputError for a window that the model cannot read, or a stride that would leave tokens out.
    """
    default, half = default_window(model)
    window = default if window is None else window
    stride = (half if window == default else window // 2) if stride is None else stride
    check_windows(model, window, stride)
    ids = np.asarray(ids)
    if len(ids) < 2:
        raise InputError(f"a text must have at least 2 tokens, got {len(ids)}: the first is not predicted")
    n_bytes, parts = 0, []
    for batch in _batches(windows(len(ids), window, stride), batch_size):
        length = max(end - begin for begin, _, end in batch) - 1
        inputs, targets = np.zeros((len(batch), length), np.int64), np.full((len(batch), length), -1, np.int64)
        for row, (begin, first, end) in enumerate(batch):
            inputs[row, :end - begin - 1] = ids[begin:end - 1]
            targets[row, first - begin - 1:end - begin - 1] = ids[first:end]
        logprobs = model.logprobs(inputs, targets)
        for row, (_, first, end) in zip(logprobs, batch, strict=True):
            parts.append((-float(row.sum(dtype=np.float64)), end - first))
            n_bytes += int(byte_lengths[ids[first:end]].sum())
        if progress is not None:
            progress(batch[-1][2], len(ids))
    nats = math.fsum(part for part, _ in parts)
    if not math.isfinite(nats):
        raise InputError("the model's logits are no finite numbers: its training went wrong, or its file is damaged")
    return Perplexity(nats, len(ids) - 1, words, n_bytes, parts)


def check_windows(model, window, stride):
    """InputError unless the model can read such windows, and each token falls into one that predicts it."""
    most = longest_context(model)
    if window < 2 or (most is not None and window > most + 1):
        bounds = "at least 2" if most is None else f"from 2 to {most + 1}, block_size and the token after it"
        raise InputError(f"window must be {bounds}, got {window}")
    if not 1 <= stride < window:
        raise InputError(f"stride must be from 1 to {window - 1} for window={window}, got {stride}: windows share at least one token, or the "
                         "first of each would not be predicted")


def count_words(text, *, line_ends=False):
    """Words between blanks of any kind. line_ends: each end of a line is one more, as the <eos> of WikiText's authors."""
    return len(text.split()) + (text.count("\n") if line_ends else 0)


def _batches(spans, size):
    batch = []
    for span in spans:
        batch.append(span)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _exp(nats):
    return math.exp(nats) if nats < 700 else math.inf
