"""Prompts, and how they and their answers are written down for one model."""

from typing import NamedTuple

from ..data import read_records, text_field
from ..errors import InputError
from ..tokenizer.base import Tokenizer
from .templates import Template, encode_answer, ending


class Form(NamedTuple):
    """How prompts and answers are written down for one model."""

    template: Template
    tokenizer: Tokenizer
    block_size: int

    def encode(self, prompt, answer):
        """-> ids, targets (T), as templates.encode_answer."""
        self._check(prompt)
        return encode_answer(self.template.prompt(prompt), answer, self.tokenizer, self.block_size,
                             stop=self.template.stop)

    def prompt_ids(self, prompt):
        """The tokens that stand before an answer, a list."""
        self._check(prompt)
        return self.tokenizer.encode(self.template.prompt(prompt), allowed_special="all")

    def _check(self, prompt):
        """InputError if it contains what is a control sign to this tokenizer: no prompt may end itself."""
        for token in self.tokenizer.special_tokens:
            if token in prompt:
                raise InputError(f"a prompt must not contain {token!r}, which is no text to this tokenizer: take it out")

    @property
    def ending(self):
        """templates.Ending of answers."""
        return ending(self.tokenizer, self.template.stop)


class Prompt(NamedTuple):
    text: str
    ids: list


def read_prompts(path, form, most, *, skip_bad=False, skipped=None):
    """The prompts of a file with a field `prompt` (others are not read): a list of Prompt, each only once.

    most: tokens that a prompt may have, as it is written. skip_bad, skipped, and InputError with the line of the
    file: as data.read_records.
    """
    def parse(fields):
        prompt = text_field(fields, "prompt")
        ids = form.prompt_ids(prompt)
        if len(ids) > most:
            raise InputError(f"a prompt must leave room for an answer: it may have {most} tokens, it has {len(ids)}")
        return Prompt(prompt, ids)

    found = read_records(path, parse, columns=("prompt",), skip_bad=skip_bad, skipped=skipped)
    return list({prompt.text: prompt for prompt in found}.values())
