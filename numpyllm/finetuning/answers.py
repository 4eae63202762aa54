"""Answers that a model gives to prompts: the likeliest, one after the other, or drawn side by side."""

from typing import NamedTuple

from ..inference import Continuation, Sampling, TextStream, continue_many, make_decoder, stream
from .templates import STOP, ending


def generate_answers(model, tokenizer, prompts, max_new_tokens, *, stop=STOP, seed=0, **sampling):
    """The answers to prompts, as a template writes these, each a text up to its end: the likeliest token each
    time, unless fields of Sampling say otherwise."""
    end, answers = ending(tokenizer, stop), []
    with make_decoder(model) as decoder:
        for prompt in prompts:
            text = Continuation(tokenizer.encode(prompt, allowed_special="all"), max_new_tokens,
                                stop_token=end.token, seed=seed,
                                sampling=Sampling(**{"temperature": 0.0} | sampling), n_vocab=tokenizer.n_vocab)
            answers.append("".join(stream(decoder, tokenizer, text, stops=end.stops)))
    return answers


class SampledAnswer(NamedTuple):
    """What a model drew."""

    prompt: list            # ids
    tokens: list            # ids, the end among them if it was reached
    text: str               # without the end
    ended: bool             # False: it was cut off


def sample_answers(model, prompts, form, max_new_tokens, *, seed, **sampling):
    """A SampledAnswer to each of these Prompts, drawn side by side; by default from the model itself:
    temperature 1, nothing left out.

    Answer i draws as index i of the seed. sampling: the fields of Sampling.
    """
    end, tokenizer = form.ending, form.tokenizer
    texts = [Continuation(prompt.ids, max_new_tokens, seed=seed, index=i, stop_token=end.token,
                          n_vocab=tokenizer.n_vocab, sampling=Sampling(**sampling))
             for i, prompt in enumerate(prompts)]
    streams, said = [TextStream(tokenizer, end.stops) for _ in texts], [""] * len(texts)

    def over(i):
        said[i] += streams[i].feed(texts[i].tokens[-1])
        return streams[i].stopped

    with make_decoder(model, sequences=len(texts)) as decoder:
        continue_many(decoder, texts, over=over)
    answers = []
    for text, begun, rest in zip(texts, said, streams, strict=True):
        ended = text.finish_reason == "stop"
        tokens = text.tokens + ([end.token] if ended and end.token is not None else [])
        answers.append(SampledAnswer(text.prompt, tokens, begun + rest.flush(), ended))
    return answers
