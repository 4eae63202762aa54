"""Text from a model, one token after another.

`model` is a GPT or an LSTMLM, or a Decoder that was made from one: making it takes time, so who generates often makes it once.
"""

from contextlib import contextmanager, nullcontext

from .continuation import Continuation, TextStream
from .decoder import Decoder
from .lookup import propose
from .sampling import Sampling
from .state_decoder import make_decoder


def generate(model, ids, max_new_tokens, *, seed=0, stop_token=None, lookup=0, **sampling):
    """Yield up to max_new_tokens token ids that continue `ids`, a sequence of at least one token.

    Stops before stop_token. sampling: the fields of Sampling. At the context's limit the last half is kept (Decoder.step). lookup:
    how many tokens to guess ahead (lookup.py); the tokens are the same with it, to the bit.
    Raises InputError for an empty prompt, ids out of range, or settings that mean nothing.
    """
    text = Continuation(ids, max_new_tokens, sampling=Sampling(**sampling), seed=seed, stop_token=stop_token)
    with open_decoder(model) as decoder:
        yield from continue_text(decoder, text, lookup=lookup)


def continue_text(decoder, text, *, sequence=0, lookup=0):
    """Yield the tokens of one Continuation as they are chosen. text.guessed and text.right count guesses, and those that came true."""
    rows, guesses = [decoder.start(text.prompt, sequence)], []
    while True:
        fed = decoder.length(sequence) - len(guesses)               # tokens before the guesses
        for right, logits in enumerate(rows):
            token = text.take(logits)
            if token is None:
                return
            yield token
            if text.finish_reason is not None:
                return
            if right == len(guesses) or guesses[right] != token:
                break
            text.right += 1
        decoder.cut(fed + right, sequence)
        if lookup:
            guesses = propose(text.prompt + text.tokens, min(lookup, decoder.room(sequence) - 1))
            text.guessed += len(guesses)
        rows = decoder.extend([token, *guesses], sequence)


def generate_many(model, prompts, max_new_tokens, *, seed=0, stop_token=None, **sampling):
    """Continue several prompts side by side, of any lengths -> a list of lists of tokens. Prompt i draws as index i of the seed."""
    texts = [Continuation(ids, max_new_tokens, sampling=Sampling(**sampling), seed=seed, index=i, stop_token=stop_token)
             for i, ids in enumerate(prompts)]
    with open_decoder(model, len(texts)) as decoder:
        continue_many(decoder, texts)
    return [text.tokens for text in texts]


def continue_many(decoder, texts, *, over=lambda i: False):
    """Continue several Continuations side by side, each to its end, with a Decoder that has room for them. over(i) is asked after each
    token of text i: true ends it."""
    rows, active = [decoder.start(text.prompt, i) for i, text in enumerate(texts)], list(range(len(texts)))
    while active:
        chosen = {}
        for i, logits in zip(active, rows, strict=True):
            token = texts[i].take(logits)
            if token is not None and over(i):
                texts[i].stop()
            if texts[i].finish_reason is None:
                chosen[i] = token
        active = list(chosen)
        if active:
            rows = decoder.step(list(chosen.values()), active)


def generate_text(model, tokenizer, prompt, max_new_tokens, **settings):
    """The continuation of a prompt as text, ending at the tokenizer's end-of-text token if it has one."""
    return "".join(stream_text(model, tokenizer, prompt, max_new_tokens, **settings))


def stream_text(model, tokenizer, prompt, max_new_tokens, *, stops=(), seed=0, lookup=0, **sampling):
    """Yield the continuation of a prompt in pieces, as they are certain: whole characters, and nothing of a stop string."""
    ids = tokenizer.encode(prompt, allowed_special="all")
    text = Continuation(ids, max_new_tokens, sampling=Sampling(**sampling), seed=seed, stop_token=tokenizer.eot_token,
                        n_vocab=tokenizer.n_vocab)
    with open_decoder(model) as decoder:
        yield from stream(decoder, tokenizer, text, stops=stops, lookup=lookup)


def stream(decoder, tokenizer, text, *, stops=(), lookup=0):
    """As stream_text, for a Continuation."""
    out = TextStream(tokenizer, stops)
    for token in continue_text(decoder, text, lookup=lookup):
        if piece := out.feed(token):
            yield piece
        if out.stopped:
            text.stop()
            return
    if piece := out.flush():
        yield piece


@contextmanager
def open_decoder(model, sequences=1):
    """A Decoder as it is, or one for a model, closed at the end."""
    with nullcontext(model) if isinstance(model, Decoder) else make_decoder(model, sequences=sequences) as decoder:
        yield decoder
