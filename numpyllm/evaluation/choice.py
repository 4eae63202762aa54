"""Multiple choice: which of several continuations does a model hold likeliest?

A model that only predicts text is asked nothing but that. By the sum over its tokens a short choice has an advantage; divided by its
bytes (lm-evaluation-harness's acc_bytes, and for ASCII its acc_norm) a long one of usual words has. Both are given.
"""

from typing import NamedTuple

import numpy as np

from ..data import read_records, text_field
from ..errors import InputError
from ..files import short
from ..random import generator
from .loglikelihood import check_fits, encode_pair, log_likelihoods


class Question(NamedTuple):
    context: str
    choices: tuple      # of texts; a blank comes between the context and each
    answer: float       # number of the right choice, from 0; a score on the scale of the choices' numbers if that is asked


class Answered(NamedTuple):
    question: Question
    logprobs: np.ndarray    # (choices) natural logarithm of each one's probability

    @property
    def raw(self):
        """Number of the likeliest choice, of equals the first."""
        return int(self.logprobs.argmax())

    @property
    def by_bytes(self):
        """Number of the choice that is likeliest for its length in bytes."""
        return int((self.logprobs / [len(choice.encode("utf-8")) for choice in self.question.choices]).argmax())

    @property
    def expected(self):
        """The mean of the choices' numbers, each weighed by its probability among them: a score, where they are a scale."""
        p = np.exp(self.logprobs - self.logprobs.max())
        return float(p @ np.arange(len(p)) / p.sum())


def read_questions(path, *, check=lambda question: None, skip_bad=False, skipped=None):
    """Questions from a file of {"question": text, "choices": [texts], "answer": number from 0, or the right choice} a line.

    check(question) may raise InputError for one that cannot be used. skip_bad, skipped and errors: those of read_records.
    """
    def parse(fields):
        question = question_of(fields)
        check(question)
        return question
    return read_records(path, parse, columns=("question", "choices", "answer"), skip_bad=skip_bad, skipped=skipped)


def question_of(fields):
    """{"question", "choices", "answer"} -> Question. InputError if they make none."""
    choices, answer = fields["choices"], fields["answer"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise InputError(f"choices must be a list of at least two texts, none empty, got {short(choices)}")
    choices = tuple(choice.strip() for choice in choices)
    if len(set(choices)) < len(choices):
        raise InputError(f"choices must differ, got {short(choices)}")
    if isinstance(answer, str) and answer.strip() in choices:
        answer = choices.index(answer.strip())
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise InputError(f"answer must be the number of a choice, from 0 to {len(choices) - 1}, or be one of them, got {short(answer)}")
    return Question(text_field(fields, "question"), choices, answer)


def checker(model, tokenizer):
    """A function of a Question that raises InputError if the model cannot be asked it: a choice does not fit, or is no token."""
    def check(question):
        for choice in question.choices:
            check_fits(model, encode_pair(tokenizer, question.context, f" {choice}")[1])
    return check


def answer_questions(model, tokenizer, questions, *, shots=0, pool=(), seed=0, batch_size=8, progress=None):
    """-> list of Answered, how many texts were cut at their left because they are longer than the model's context.

    shots: answered examples that come before each question, drawn from `pool` (Questions) by this seed; never the question itself,
    nor one of the same content. InputError where the pool has too few.
    """
    keys = [_content(example) for example in pool]
    pairs, counts = [], []
    for number, question in enumerate(questions):
        examples = _draw(question, pool, keys, shots, seed, number) if shots else ()
        context = "\n\n".join([*map(_answered, examples), question.context])
        pairs += [encode_pair(tokenizer, context, f" {choice}") for choice in question.choices]
        counts.append(len(question.choices))
    scored = log_likelihoods(model, pairs, batch_size=batch_size, progress=progress)
    ends = np.cumsum(counts)
    logprobs = np.split(np.array([one.logprob for one in scored]), ends[:-1])
    return [Answered(*both) for both in zip(questions, logprobs, strict=True)], sum(one.cut > 0 for one in scored)


def _draw(question, pool, keys, shots, seed, number):
    """So many examples for this question, in random order."""
    own, chosen = _content(question), []
    for i in generator(seed, "shots", step=number).permutation(len(pool)):
        if keys[i] != own:
            chosen.append(pool[i])
            if len(chosen) == shots:
                return chosen
    raise InputError(f"{shots} examples were asked for, there are {len(chosen)} besides the question itself: give more, or ask for fewer")


def _content(question):
    return " ".join(question.context.casefold().split())


def _answered(example):
    return f"{example.context} {example.choices[round(example.answer)]}"
