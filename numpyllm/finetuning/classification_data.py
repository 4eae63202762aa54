"""Texts with labels, to learn to name the label: read from files, encoded, split into parts that
have no text in common."""

from typing import NamedTuple

import numpy as np

from ..data import content_share, read_records, split_by_content, text_field
from ..errors import InputError
from ..files import short


class LabelledText(NamedTuple):
    text: str           # as the model reads it: cut, if it was too long
    ids: np.ndarray     # (n_tokens)
    label: str
    place: str          # FILE:LINE


class LabelledTexts(NamedTuple):
    """What was read, split, and is ready to be learnt. A text is in one part alone, upper
    case and blanks aside."""

    labels: list        # of the training part, sorted; a label's number is its place here
    train: list
    validation: list
    test: list
    skipped: list       # messages about records that were left out
    shared: int         # texts of `data` that were left out because they are in the test file


def read_labelled_texts(path, tokenizer, block_size, *, text_column="text", label_column="label", ending="",
                        truncate=False, skip_bad=False, skipped=None):
    """The labelled texts of a CSV, TSV or JSONL file -> a list of LabelledText, in order.

    ending stands behind each text, and is what the model reads last: what followed a text in pre-training
    suits. A text that has with it more than block_size tokens is refused, or with `truncate` cut: its first
    tokens are kept. InputError, with file and line, for that, an empty text, a missing column or label;
    skip_bad, skipped as for read_records.
    """
    if text_column == label_column:
        raise InputError(f"a text and its label must be in two columns, got {text_column!r} for both: give "
                         "--text_column or --label_column")
    places = []

    def parse(fields):
        text, ids = encode_text(text_field(fields, text_column), tokenizer, block_size, ending=ending,
                                truncate=truncate)
        return LabelledText(text, ids, _label(fields, label_column), "")

    read = read_records(path, parse, columns=(text_column, label_column), skip_bad=skip_bad, skipped=skipped,
                        places=places)
    return [example._replace(place=place) for example, place in zip(read, places, strict=True)]


def encode_text(text, tokenizer, block_size, *, ending="", truncate=False):
    """A text -> as much of it as is read, its tokens with those of the ending (n). InputError where it is too long
    for the model and not to be cut."""
    ids = tokenizer.encode_to_numpy(text, disallowed_special=())
    end = tokenizer.encode_to_numpy(ending, disallowed_special=(), begin=False)
    room = block_size - len(end)
    if room < 1:
        raise InputError(f"an ending must leave room for a text in the model's {block_size} tokens, it has {len(end)}")
    if len(ids) > room:
        if not truncate:
            raise InputError(f"a text must have at most the model's {block_size} tokens, this one has "
                             f"{len(ids) + len(end)}: shorten it, or give --truncate to read its beginning alone")
        ids = ids[:room]
        text = tokenizer.decode(ids.tolist())
    return text, np.concatenate([ids, end]).astype(np.int64)


def load_labelled_texts(data, tokenizer, block_size, *, test=None, val_fraction=0.1, test_fraction=0.1,
                        skip_bad=False, **options):
    """Read a file, and another to test on if there is one, and split -> LabelledTexts.

    Which part a text goes to follows from its content alone. Without a test file `test_fraction` of the texts are
    kept to test on, and val_fraction of all to stop early by; with one, texts that are in it are left out of the
    others. options: read_labelled_texts's.

    InputError for what cannot be read, for fewer than two labels, for a part without texts, and for a label that
    the training part lacks: nothing could be learnt of it.
    """
    if not (0 < val_fraction and 0 < test_fraction and val_fraction + (test_fraction if test is None else 0) < 1):
        raise InputError("val_fraction and test_fraction must be above 0, and leave something to learn from, got "
                         f"{val_fraction:g} and {test_fraction:g}")
    skipped, shared = [], 0
    options = {"skip_bad": skip_bad, "skipped": skipped} | options
    known = read_labelled_texts(data, tokenizer, block_size, **options)
    if test is None:
        known, tested = split_by_content(known, test_fraction, key=_text)
        train, validation = split_by_content(known, test_fraction + val_fraction, key=_text)
    else:
        tested = read_labelled_texts(test, tokenizer, block_size, **options)
        there = {content_share(example.text) for example in tested}
        kept = [example for example in known if content_share(example.text) not in there]
        shared = len(known) - len(kept)
        train, validation = split_by_content(kept, val_fraction, key=_text)
    for name, part in (("to learn from", train), ("to validate on", validation), ("to test on", tested)):
        if not part:
            raise InputError(f"{data}: the split leaves no text {name}: give more texts, or other fractions")
    labels = sorted({example.label for example in train})
    if len(labels) < 2:
        raise InputError(f"{data}: must have at least two labels to tell apart, the texts to learn from have "
                         f"{labels[0]!r} alone")
    validation, tested = (_with_known_labels(part, labels, skip_bad, skipped) for part in (validation, tested))
    return LabelledTexts(labels, train, validation, tested, skipped, shared)


def balanced_weights(examples, labels):
    """(K): N / (K times how often a label occurs), so that all labels together count as much as each other."""
    counts = np.bincount(label_numbers(examples, labels), minlength=len(labels))
    return len(examples) / (len(labels) * counts)


def label_numbers(examples, labels):
    """The labels of examples as numbers (N)."""
    places = {label: i for i, label in enumerate(labels)}
    return np.array([places[example.label] for example in examples], np.int64)


def _text(example):
    return example.text


def _label(fields, name):
    """A text, or a whole number as JSON may have it."""
    value = fields.get(name)
    return str(value) if type(value) is int else text_field(fields, name)


def _with_known_labels(examples, labels, skip_bad, skipped):
    """The examples whose label is known. InputError, with file and line, for another one,
    unless such are left out."""
    kept = []
    for example in examples:
        if example.label in labels:
            kept.append(example)
            continue
        message = (f"{example.place}: the label {short(example.label)} is unknown: none of the texts to learn from "
                   "has it")
        if not skip_bad:
            raise InputError(message)
        skipped.append(message)
    if not kept:
        raise InputError(f"{examples[0].place}: no text that was held out has a label that is known")
    return kept
