"""Texts with labels: read, split, put into batches; and how well a GPTClassifier names the labels of texts that it has not learnt.

Shapes: B texts in a batch, T tokens of its longest, K labels, N texts to be predicted.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data import content_share, read_records, split_by_content, text_field
from ..data.permutation import shuffled
from ..errors import InputError
from ..evaluation.metrics import accuracy, confusion_matrix, f1, macro_f1
from ..files import short
from ..random import generator
from ..training import newest_checkpoint
from ..training.checkpoint import pointer
from .packing import padded

POOL = 16       # batches whose texts are sorted by length together, so that little is padding


class Example(NamedTuple):
    text: str           # as the model reads it: cut, if it was too long
    ids: np.ndarray     # (n_tokens)
    label: str
    place: str          # FILE:LINE


class Examples(NamedTuple):
    """What was read, split, and is ready to be learnt. A text is in one part alone, upper case and blanks aside."""

    labels: list        # of the training part, sorted; a label's number is its place here
    train: list
    validation: list
    test: list
    skipped: list       # messages about records that were left out
    shared: int         # texts of `data` that were left out because they are in the test file


def read_examples(path, tokenizer, block_size, *, text_column="text", label_column="label", ending="", truncate=False,
                  skip_bad=False, skipped=None):
    """The labelled texts of a CSV, TSV or JSONL file -> a list of Example, in order.

    ending stands behind each text, and is what the model reads last: what followed a text in pre-training suits. A text that has with it
    more than block_size tokens is refused, or with `truncate` cut: its first tokens are kept. InputError, with file and line, for
    that, an empty text, a missing column or label; skip_bad, skipped as for read_records.
    """
    if text_column == label_column:
        raise InputError(f"a text and its label must be in two columns, got {text_column!r} for both: give --text_column or --label_column")
    places = []

    def parse(fields):
        text, ids = encode(text_field(fields, text_column), tokenizer, block_size, ending=ending, truncate=truncate)
        return Example(text, ids, _label(fields, label_column), "")

    read = read_records(path, parse, columns=(text_column, label_column), skip_bad=skip_bad, skipped=skipped, places=places)
    return [example._replace(place=place) for example, place in zip(read, places, strict=True)]


def encode(text, tokenizer, block_size, *, ending="", truncate=False):
    """A text -> as much of it as is read, its tokens with those of the ending (n). InputError where it is too long for the model and
    not to be cut."""
    ids, end = (tokenizer.encode_to_numpy(part, disallowed_special=()) for part in (text, ending))
    room = block_size - len(end)
    if room < 1:
        raise InputError(f"an ending must leave room for a text in the model's {block_size} tokens, it has {len(end)}")
    if len(ids) > room:
        if not truncate:
            raise InputError(f"a text must have at most the model's {block_size} tokens, this one has {len(ids) + len(end)}: shorten it, "
                             "or give --truncate to read its beginning alone")
        ids = ids[:room]
        text = tokenizer.decode(ids.tolist())
    return text, np.concatenate([ids, end]).astype(np.int64)


def load_examples(data, tokenizer, block_size, *, test=None, val_fraction=0.1, test_fraction=0.1, skip_bad=False, **options):
    """Read a file, and another to test on if there is one, and split -> Examples.

    Which part a text goes to follows from its content alone. Without a test file `test_fraction` of the texts are kept to test on,
    and val_fraction of all to stop early by; with one, texts that are in it are left out of the others. options: read_examples's.

    InputError for what cannot be read, for fewer than two labels, for a part without texts, and for a label that the training part
    lacks: nothing could be learnt of it.
    """
    if not (0 < val_fraction and 0 < test_fraction and val_fraction + (test_fraction if test is None else 0) < 1):
        raise InputError(f"val_fraction and test_fraction must be above 0, and leave something to learn from, got {val_fraction:g} and "
                         f"{test_fraction:g}")
    skipped, shared = [], 0
    options = {"skip_bad": skip_bad, "skipped": skipped} | options
    known = read_examples(data, tokenizer, block_size, **options)
    if test is None:
        known, tested = split_by_content(known, test_fraction, key=_text)
        train, validation = split_by_content(known, test_fraction + val_fraction, key=_text)
    else:
        tested = read_examples(test, tokenizer, block_size, **options)
        there = {content_share(example.text) for example in tested}
        kept = [example for example in known if content_share(example.text) not in there]
        shared = len(known) - len(kept)
        train, validation = split_by_content(kept, val_fraction, key=_text)
    for name, part in (("to learn from", train), ("to validate on", validation), ("to test on", tested)):
        if not part:
            raise InputError(f"{data}: the split leaves no text {name}: give more texts, or other fractions")
    labels = sorted({example.label for example in train})
    if len(labels) < 2:
        raise InputError(f"{data}: must have at least two labels to tell apart, the texts to learn from have {labels[0]!r} alone")
    validation, tested = (_with_known_labels(part, labels, skip_bad, skipped) for part in (validation, tested))
    return Examples(labels, train, validation, tested, skipped, shared)


def balanced_weights(examples, labels):
    """(K): N / (K times how often a label occurs), so that all labels together count as much as each other."""
    counts = np.bincount(numbers(examples, labels), minlength=len(labels))
    return len(examples) / (len(labels) * counts)


def numbers(examples, labels):
    """The labels of examples as numbers (N)."""
    places = {label: i for i, label in enumerate(labels)}
    return np.array([places[example.label] for example in examples], np.int64)


class ClassificationBatches:
    """Batches of texts of similar lengths, each text once in an epoch, in an order of its own in each: a pure function of (seed, step).

    All epochs, one shuffled after the other, are one endless row of texts. POOL batches at a time are sorted by length, cut, and shuffled
    again as whole batches. micro_batches: in a step, at most; micro-batch m of step s is batch number s * micro_batches + m.
    """

    def __init__(self, examples, labels, *, batch_size, seed, micro_batches=1):
        self.rows, self.labels = [example.ids for example in examples], numbers(examples, labels)
        self.lengths = np.array([len(ids) for ids in self.rows])
        self.batch_size, self.seed, self.micro_batches = batch_size, seed, micro_batches

    def __call__(self, step, micro=0):
        """-> ids (B, T), padded with 0 on the right, lengths (B), labels (B)."""
        pool, place = divmod(step * self.micro_batches + micro, POOL)
        rng = generator(self.seed, "batch/pool", step=pool)
        size = POOL * self.batch_size
        chosen = shuffled(pool * size, size, len(self.rows), self.seed, "texts")
        chosen = chosen[np.argsort(self.lengths[chosen], kind="stable")].reshape(POOL, -1)[rng.permutation(POOL)[place]]
        return *padded([self.rows[i] for i in chosen]), self.labels[chosen]


def log_probabilities(model, rows, *, batch_size=16):
    """Of the K labels for each text, rows of tokens -> (N, K), float64."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = np.empty((len(rows), model.config.n_classes))
    for first in range(0, len(rows), batch_size):
        chosen = order[first:first + batch_size]
        logits = model.logits(*padded([rows[i] for i in chosen])).astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        found[chosen] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def best_checkpoint(run):
    """The folder of a run's best checkpoint; of its newest, if none is said to be; or the checkpoint itself. Raises InputError."""
    best = pointer(run, "best")
    return newest_checkpoint(run if best is None else Path(run) / best)


class ClassificationEvaluation(NamedTuple):
    labels: list
    right: np.ndarray       # (N)  the true labels' numbers
    predicted: np.ndarray   # (N)  those of the likeliest
    loss: float             # mean, weighted as in training, nats a text

    @property
    def accuracy(self):
        return accuracy(self.right, self.predicted)

    @property
    def macro_f1(self):
        """The mean of F1 over the labels that occur."""
        return macro_f1(self.right, self.predicted)

    @property
    def confusion(self):
        """Counts (K, K): row the right label, column the predicted one."""
        return confusion_matrix(self.right, self.predicted, len(self.labels))

    def __str__(self):
        return f"validation loss {self.loss:.4f}, accuracy {self.accuracy:.4f}, macro-F1 {self.macro_f1:.4f}"

    def metrics(self):
        return {"val/loss": self.loss, "val/accuracy": self.accuracy, "val/macro_f1": self.macro_f1}

    def summary(self):
        """All of it as what JSON can hold."""
        return {"texts": len(self.right), "loss": self.loss, "accuracy": self.accuracy, "macro_f1": self.macro_f1,
                "by_label": self.by_label(), "labels": self.labels, "confusion": self.confusion.tolist()}

    def by_label(self):
        """{label: {"precision", "recall", "f1", "texts"}}; a precision without predictions, or a recall without texts, is 0."""
        counts = self.confusion
        hits, claims, texts = counts.diagonal().tolist(), counts.sum(axis=0).tolist(), counts.sum(axis=1).tolist()
        return {label: {"precision": hits[i] / max(1, claims[i]), "recall": hits[i] / max(1, texts[i]),
                        "f1": f1(self.right, self.predicted, i), "texts": texts[i]} for i, label in enumerate(self.labels)}

    def table(self):
        """Lines of text: figures by label, and the confusion matrix."""
        names = [label if len(label) <= 40 else label[:37] + "..." for label in self.labels]
        wide = max(5, *map(len, names))
        lines = [f"{'label':{wide}}  precision  recall      F1   texts"]
        for name, row in zip(names, self.by_label().values(), strict=True):
            lines.append(f"{name:{wide}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['texts']:6}")
        lines += ["", "confusion matrix: a row for each right label, a column for each predicted one, in the same order"]
        cell = max(3, len(str(self.confusion.max())))
        for name, row in zip(names, self.confusion, strict=True):
            lines.append(f"{name:{wide}}  " + " ".join(f"{count:{cell}}" for count in row))
        return "\n".join(lines)


def evaluate_examples(model, examples, labels):
    """ClassificationEvaluation of a model on examples whose labels it knows."""
    right = numbers(examples, labels)
    logp = log_probabilities(model, [example.ids for example in examples])
    weights = np.ones(len(right)) if model.class_weights is None else model.class_weights[right]
    loss = -(weights * logp[np.arange(len(right)), right]).sum() / weights.sum()
    return ClassificationEvaluation(labels, right, logp.argmax(axis=1), float(loss) if math.isfinite(loss) else math.inf)


def _text(example):
    return example.text


def _label(fields, name):
    """A text, or a whole number as JSON may have it."""
    value = fields.get(name)
    return str(value) if type(value) is int else text_field(fields, name)


def _with_known_labels(examples, labels, skip_bad, skipped):
    """The examples whose label is known. InputError, with file and line, for another one, unless such are left out."""
    kept = []
    for example in examples:
        if example.label in labels:
            kept.append(example)
            continue
        message = f"{example.place}: the label {short(example.label)} is unknown: none of the texts to learn from has it"
        if not skip_bad:
            raise InputError(message)
        skipped.append(message)
    if not kept:
        raise InputError(f"{examples[0].place}: no text that was held out has a label that is known")
    return kept
