"""numpyllm classify: the labels of texts, with their probabilities, by a model of numpyllm finetune classify."""

import json
import sys
from pathlib import Path

import numpy as np

from ..backend import BACKENDS, load_backend
from ..data import read_lines, read_records, text_field
from ..errors import InputError
from ..finetuning import encode_text, log_probabilities
from ..models import architecture_of
from ..training import best_checkpoint, load_model
from .arguments import Parser, at_least


def main(argv=None):
    parser = Parser(prog="numpyllm classify", description="Name the labels of texts, likeliest first.",
                    epilog="""examples:
  numpyllm classify --model out/reviews "What a waste of an evening." "A delight from the first minute."
  numpyllm classify --model out/reviews --data new.csv --json > labels.jsonl""")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="what is to be classified")
    parser.add_argument("--model", required=True, metavar="DIR",
                        help="folder of a run (its best checkpoint is taken), or of one checkpoint")
    parser.add_argument("--data", default=None, metavar="FILE",
                        help="texts: .csv, .tsv, .jsonl or .json with a column of them, or .txt with one a line")
    parser.add_argument("--text_column", default=None, metavar="NAME",
                        help="that column (default: the one that it was trained with)")
    parser.add_switch("--truncate", default=None,
                      help="of a text that is longer than the context read the beginning (default: as in training)")
    parser.add_switch("--skip_bad", help="leave out texts that cannot be used rather than refuse the file")
    parser.add_argument("--top", type=at_least(1), default=3, help="most labels to name")
    parser.add_argument("--json", action="store_true",
                        help="a JSON object a line: text, label, probabilities of all labels")
    parser.add_argument("--backend", choices=BACKENDS, default="numba", help="compiled kernels, or plain NumPy")
    args = parser.parse_args(argv)
    if bool(args.texts) == bool(args.data):
        raise InputError("texts must come on the command line or from --data, "
                         + ("not from both" if args.data else "got none"))

    model, tokenizer, state = load_model(best_checkpoint(args.model), ops=load_backend(args.backend))
    facts = state["facts"]
    labels = facts.get("labels")
    if architecture_of(model) != "classifier" or not _are_labels(labels, model.config.n_classes):
        raise InputError(f"{args.model} must hold a classifier, with its labels: numpyllm finetune classify trains one")
    truncate = bool(facts.get("truncate")) if args.truncate is None else args.truncate
    texts, rows = [], []

    def add(text):
        rows.append(encode_text(text, tokenizer, model.config.block_size, ending=facts.get("ending", ""),
                                truncate=truncate)[1])
        texts.append(text)

    for number, text in enumerate(args.texts, 1):
        try:
            add(text_field({"TEXT": text}, "TEXT"))
        except InputError as error:
            raise InputError(f"text {number}: {error}") from None
    skipped = []
    if args.data:
        _read(args.data, args.text_column or facts.get("text_column", "text"), add, args.skip_bad, skipped)
        if not texts:
            raise InputError(f"{args.data}: must hold texts, one a line, it holds none"
                             + f" that can be used, and {len(skipped)} that cannot" * bool(skipped))
    probabilities = np.exp(log_probabilities(model, rows))
    for text, row in zip(texts, probabilities, strict=True):
        print(_told(text, labels, row, args))
    if skipped:
        print(f"numpyllm: note: {len(skipped):,} texts were left out, the first because: {skipped[0]}", file=sys.stderr)
    return 0


def _told(text, labels, row, args):
    order = np.argsort(-row, kind="stable")
    if args.json:
        return json.dumps({"text": text, "label": labels[order[0]],
                           "probabilities": {labels[i]: round(float(row[i]), 6) for i in order}},
                          ensure_ascii=False)
    shown = " ".join(text.split())
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return "  ".join(f"{labels[i]} {row[i]:.3f}" for i in order[:args.top]) + f"  | {shown}"


def _read(path, column, add, skip_bad, skipped):
    """Hand each text of a file to add(text). InputError, with file and line, for one that cannot be used."""
    if Path(path).suffix.lower() == ".txt":
        read_lines(path, add, skip_bad=skip_bad, skipped=skipped)
    else:
        read_records(path, lambda fields: add(text_field(fields, column)), columns=(column,), skip_bad=skip_bad,
                     skipped=skipped)


def _are_labels(labels, n_classes):
    return isinstance(labels, list) and len(labels) == n_classes and all(isinstance(label, str) for label in labels)
