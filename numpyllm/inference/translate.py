"""From a source to a target with an encoder-decoder: the source is read once, the target written a token at a time, greedily
or by beam search. Keys and values of the memory are made once, those of the target kept (models/encoder_decoder.py)."""

import numpy as np

from ..errors import InputError
from .beam import check_beams, search


def translate(model, sources, *, max_new_tokens=None, stop_token=None):
    """The likeliest token, again and again, for many sources at once: sources (B, S), -1 behind the end of each -> B lists of
    tokens, the stop token not among them.

    max_new_tokens: as many as the model can write, block_size, if None. Of equally likely tokens the smaller id is taken.
    Raises InputError for sources that the model refuses and for more tokens than it can write.
    """
    most, past = _most(model, max_new_tokens), model.begin(sources)
    targets = [[] for _ in sources]
    writing, tokens = np.arange(len(targets)), np.full(len(targets), model.config.start_token)
    for _ in range(most):
        tokens = model.step(tokens, past).argmax(axis=-1)
        goes_on = tokens != stop_token
        if not goes_on.all():                       # those that are finished cost nothing any more
            writing, tokens = writing[goes_on], tokens[goes_on]
            past.select(np.flatnonzero(goes_on))
        if len(writing) == 0:
            break
        for i, token in zip(writing.tolist(), tokens.tolist(), strict=True):
            targets[i].append(token)
    return targets


def translate_by_beams(model, source, *, beams=4, length_penalty=1.0, max_new_tokens=None, stop_token=None):
    """The best targets found for one source (a sequence of tokens), best first: a list of up to `beams` Beam, as beam_search."""
    check_beams(beams)
    most, past = _most(model, max_new_tokens), model.begin(np.asarray(source).reshape(1, -1))

    def advance(parents, tokens):
        past.select(parents)
        return model.step(tokens, past)

    return search(model.step([model.config.start_token], past)[0], advance, most, beams, length_penalty, stop_token)


def _most(model, max_new_tokens):
    if max_new_tokens is None:
        return model.config.block_size
    if not 1 <= max_new_tokens <= model.config.block_size:
        raise InputError(f"max_new_tokens must be 1 to block_size={model.config.block_size}, got {max_new_tokens}")
    return max_new_tokens
