"""Text from a model, one token after another."""

import numpy as np

from ..errors import InputError
from ..random import generator
from .sampling import check_sampling, choose, token_probabilities


def generate(model, ids, max_new_tokens, *, temperature=1.0, top_k=None, top_p=None, seed=0, stop_token=None):
    """Yield up to max_new_tokens token ids that continue `ids`, a sequence of at least one token.

    Stops after stop_token, which is not yielded. The context grows to block_size tokens; then its last half is kept and
    grows again, since learned positions cannot slide. Draw number n is a pure function of (seed, n).
    Raises InputError for an empty prompt, ids out of range, or sampling settings that mean nothing.
    """
    check_sampling(temperature, top_k, top_p)
    block_size = model.config.block_size
    context = [int(i) for i in ids]
    if not context:
        raise InputError("a prompt must have at least one token, got none: begin with a newline or an end-of-text token")
    context = context[-block_size:]
    for n in range(max_new_tokens):
        logits, _ = model.forward(np.array([context], np.int64))
        probabilities = token_probabilities(logits[:, -1], temperature=temperature, top_k=top_k, top_p=top_p)
        token = int(choose(probabilities, generator(seed, "sample", step=n).random(1))[0])
        if token == stop_token:
            return
        yield token
        if len(context) == block_size:
            context = context[-max(1, block_size // 2):] if block_size > 1 else []
        context.append(token)


def generate_text(model, tokenizer, prompt, max_new_tokens, **settings):
    """The continuation of a prompt as text, ending at the tokenizer's end-of-text token if it has one."""
    ids = tokenizer.encode(prompt, allowed_special="all")
    return tokenizer.decode(list(generate(model, ids, max_new_tokens, stop_token=tokenizer.eot_token, **settings)))
