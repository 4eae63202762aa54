"""How likely a model holds a continuation after a context: what a multiple choice is decided by.

Text is cut into a context and a continuation as lm-evaluation-harness does, so that figures compare.
"""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..models import GPT

ROWS = 256              # of logits (V) that are there at once


class Scored(NamedTuple):
    logprob: float      # natural logarithm of the continuation's probability: the sum over its tokens
    greedy: bool        # whether each of them is the likeliest one there
    cut: int            # tokens at the left of the context that did not fit and were not read


def longest_context(model):
    """Tokens that a model reads at most; None if there is no limit."""
    return model.config.block_size if isinstance(model, GPT) else None


def encode_pair(tokenizer, context, continuation, **special):
    """-> ids of the context, ids of the continuation, both at least one.

    Blanks at the end of the context move to the continuation, for in a text they belong to the word that follows.
    Both are encoded together and cut where the context alone would end. An empty context is what begins a text, else
    <|endoftext|>. special: as for Tokenizer.encode, by default nothing in the text is special. InputError for an
    empty context without that token, or a continuation of no token.
    """
    special = special or {"disallowed_special": ()}
    blanks = len(context) - len(context.rstrip())
    context, continuation = context[:len(context) - blanks], context[len(context) - blanks:] + continuation
    before = tokenizer.encode(context, **special)
    after = tokenizer.encode(context + continuation, **special)[len(before):]
    if not before:
        if tokenizer.eot_token is None:
            raise InputError("the context must not be empty: the tokenizer has no <|endoftext|> to stand for it")
        before = [tokenizer.eot_token]
        if after[:1] == before:
            after = after[1:]           # it says so itself
    if not after:
        raise InputError(f"the continuation {continuation[:60]!r} must add at least one token to its context")
    return before, after


def check_fits(model, continuation):
    """InputError if a continuation is longer than what the model can read: it would lose its own beginning."""
    most = longest_context(model)
    if most is not None and len(continuation) > most:
        raise InputError(f"a continuation must have at most block_size={most} tokens, this one has {len(continuation)}")


def log_likelihoods(model, pairs, *, batch_size=8, progress=None):
    """A Scored for each (context, continuation), sequences of ids, of at least one each.

    Of what is longer than the model's context, the left is not read. Pairs that differ in their last token alone are read once.
    batch_size: how many texts are read side by side, those of like length together, padded on the right. progress: called as
    progress(done, total), in texts.
    """
    most = longest_context(model)
    wanted, cut = {}, []            # tokens that are read: the pairs that want what comes after them
    for i, (context, continuation) in enumerate(pairs):
        check_fits(model, continuation)
        tokens = (*context, *continuation)
        cut.append(0 if most is None else max(0, len(tokens) - most - 1))
        wanted.setdefault(tokens[cut[-1]:-1], []).append(i)
    found = [None] * len(pairs)
    texts = sorted(wanted, key=lambda tokens: (-len(tokens), tokens))
    for first in range(0, len(texts), batch_size):
        batch = texts[first:first + batch_size]
        ids = np.zeros((len(batch), len(batch[0])), np.int64)           # padding is behind: no token looks at it
        for row, tokens in zip(ids, batch, strict=True):
            row[:len(tokens)] = tokens
        hs = model.trunk_step(ids, model.past(len(ids)))
        for h, tokens in zip(hs, batch, strict=True):
            for i in wanted[tokens]:
                continuation = np.asarray(pairs[i][1])
                found[i] = Scored(*_score(model.head, h[len(tokens) - len(continuation):len(tokens)], continuation), cut[i])
        if progress is not None:
            progress(first + len(batch), len(texts))
    return found


def _score(head, h, targets):
    """h (N, C), targets (N) -> sum of their log-probabilities in float64, whether each is the likeliest."""
    total, greedy = 0.0, True
    for first in range(0, len(targets), ROWS):
        logits, right = head.step(h[first:first + ROWS], None), targets[first:first + ROWS]
        greedy = greedy and bool((logits.argmax(-1) == right).all())
        logits = logits.astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        total += float((logits[np.arange(len(right)), right] - np.log(np.exp(logits).sum(-1))).sum())
    if not np.isfinite(total):
        raise InputError("the model's logits are no finite numbers: its training went wrong, or its file is damaged")
    return total, greedy
