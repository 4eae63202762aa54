"""Beam search: the likeliest continuations that a bounded search finds (Graves 2012; Sutskever et al. 2014)."""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .sampling import log_softmax
from .state_decoder import make_decoder


class Beam(NamedTuple):
    tokens: list            # without the stop token
    log_probability: float  # of all its tokens, the stop token included, natural logarithm
    finished: bool          # the stop token was chosen

    def score(self, length_penalty):
        """log-probability / length^penalty (Wu et al. 2016 without its constants): 0 favours short texts, 1 is the mean a token."""
        return self.log_probability / max(1, len(self.tokens) + self.finished) ** length_penalty


def beam_search(model, ids, max_new_tokens, *, beams=4, length_penalty=1.0, stop_token=None):
    """The best continuations found, best first: a list of up to `beams` Beam.

    In each round every beam is continued by its likeliest tokens, and the likeliest `beams` of all results go on. It ends when
    `beams` texts are finished or max_new_tokens is reached. Equals: the earlier beam, then the smaller id.
    Raises InputError for fewer than one beam, an empty prompt, ids out of range.
    """
    if beams < 1:
        raise InputError(f"beams must be at least 1, got {beams}: 1 is greedy search")
    finished = []
    with make_decoder(model, sequences=2 * beams) as decoder:
        rows, alive = [decoder.start(ids, 0)], [Beam([], 0.0, False)]
        here, there = list(range(beams)), list(range(beams, 2 * beams))     # where beams lie now, and where the next ones will
        for _ in range(max_new_tokens):
            found = []
            for i, (beam, logits) in enumerate(zip(alive, rows, strict=True)):
                logs = log_softmax(logits)
                for token in np.argsort(-logs, kind="stable")[:beams + 1].tolist():
                    found.append((beam.log_probability + logs[token], i, token))
            found.sort(key=lambda item: -item[0])
            chosen = []
            for total, i, token in found:
                if token == stop_token:
                    if len(chosen) < beams:
                        finished.append(Beam(alive[i].tokens, float(total), True))
                elif len(chosen) < beams:
                    chosen.append((total, i, token))
            if len(finished) >= beams:
                alive = []
                break
            for slot, (_, i, _) in zip(there, chosen, strict=False):
                decoder.copy(here[i], slot)
            alive = [Beam([*alive[i].tokens, token], float(total), False) for total, i, token in chosen]
            here, there = there, here
            rows = decoder.step([token for _, _, token in chosen], here[:len(chosen)])
    best = sorted(finished + alive, key=lambda beam: -beam.score(length_penalty))
    return best[:beams]
