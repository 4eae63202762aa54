"""Instructions and answers to learn from: read from files and encoded.

    {"instruction": "Make it plural.", "input": "goose", "output": "geese"}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}

The first is Alpaca's; the input may be missing or empty. Of messages, every answer is learnt.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data import read_records, text_field
from ..errors import InputError
from ..files import short
from .templates import Message, check_order, encode_turns

COLUMNS = ("instruction", "output")     # of a file with columns; messages do not fit into one


class Conversation(NamedTuple):
    """Questions and answers to learn from."""

    question: str           # the first one, with its input: who holds out by it, holds out what has the same question
    turns: list             # of Turn
    ids: np.ndarray         # (T)
    targets: np.ndarray     # (T)   -1 where nothing is asked


def read_instructions(path, template, tokenizer, block_size, *, truncate=False, skip_bad=False, skipped=None):
    """The examples in a .json, .jsonl, .csv or .tsv file, as a template writes them: a list of Conversation.

    truncate    cut off what does not fit into block_size tokens, rather than call the example bad
    skip_bad, skipped, and InputError with the line of the file: as read_records
    """
    def parse(fields):
        messages = _messages(fields)
        for message in messages:
            _check_content(message, tokenizer)
        turns = template.turns(messages)
        first = next(message for message in messages if message.role == "user")
        return Conversation(f"{first.content}\n{first.input}".strip(), turns,
                            *encode_turns(turns, tokenizer, block_size, stop=template.stop, truncate=truncate))

    columns = COLUMNS if Path(path).suffix.lower() in (".csv", ".tsv") else ()
    return read_records(path, parse, columns=columns, skip_bad=skip_bad, skipped=skipped)


def spread(examples, n):
    """n of the examples, or all if there are fewer, evenly from beginning to end: files are often sorted."""
    places = np.linspace(0, len(examples) - 1, min(n, len(examples))).astype(int)
    return [examples[i] for i in places]


def _messages(fields):
    """A record -> list of Message, their order checked."""
    if fields.get("messages") is None:
        for name in COLUMNS:
            if fields.get(name) is None:
                raise InputError(f"must have a field {name!r}, or 'messages', it has "
                                 f"{', '.join(map(repr, fields)) or 'none'}")
        subject = "" if fields.get("input") is None else text_field(fields, "input", empty=True)
        return [Message("user", text_field(fields, "instruction"), subject),
                Message("assistant", text_field(fields, "output"))]
    messages = fields["messages"]
    if not isinstance(messages, list):
        raise InputError(f"messages must be a list, got {short(messages)}")
    found = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f"message {number} must be an object with role and content, got {short(message)}")
        try:
            found.append(Message(message["role"], text_field(message, "content")))
        except InputError as error:
            raise InputError(f"message {number}: {error}") from None
    check_order(found)
    return found


def _check_content(message, tokenizer):
    """InputError if it contains what is a control sign to this tokenizer: no text may end itself."""
    for token in tokenizer.special_tokens:
        if token in message.content or token in message.input:
            raise InputError(f"the text of the {message.role} must not contain {token!r}, which is no text to "
                             "this tokenizer: take it out")
