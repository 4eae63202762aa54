"""numpyllm finetune classify: learn to name the label of a text, from examples in a CSV, TSV or JSONL file."""

import hashlib
import shlex
from pathlib import Path

from ..errors import InputError
from ..files import read_bytes, write_json
from ..finetuning import ClassificationBatches, add_lora, balanced_weights, evaluate_classifier, load_labelled_texts
from ..models import GPTClassifier
from ..training import Trainer, best_checkpoint, load_model
from .arguments import Parser
from .finetuning import (add_finetuning_options, lora_of, observers, open_finetuning, require_gpt, run_finetuning,
                         trainable_parts)

KEPT = ("text_column", "label_column", "ending", "test", "test_fraction", "truncate", "class_weights", "dropout")
WEIGHTS = ("none", "balanced")
RESULT = "classification.json"


def main(argv=None):
    parser = Parser(prog="numpyllm finetune classify",
                    description="Learn to name the label of a text: a linear head reads a GPT's last token. Part of "
                                "the texts is held out to stop early by, another part to test the best checkpoint "
                                "on.",
                    epilog="""examples:
  numpyllm finetune classify --model out/small --data reviews.csv --out_dir out/reviews
  numpyllm finetune classify --model gpt2 --data train.tsv --test test.tsv --text_column sentence --patience 3
  numpyllm finetune classify --model out/small --data mails.jsonl --freeze 2 --class_weights balanced --truncate""")
    add_finetuning_options(parser, data_help="labelled texts: .csv, .tsv, .jsonl or .json", out_dir="out/classifier",
                           defaults={"batch_size": 16, "weight_decay": 0.1, "max_iters": 300, "spike_zscore": 0.0})
    parser.add_argument("--text_column", default="text", metavar="NAME", help="the column, or field, of the text")
    parser.add_argument("--label_column", default="label", metavar="NAME", help="that of its label")
    parser.add_argument("--ending", default="", metavar="TEXT",
                        help="stands behind each text and is read last: what followed texts in pre-training "
                             "suits, say $'\\n\\n'")
    parser.add_argument("--test", default=None, metavar="FILE",
                        help="labelled texts to test on at the end; what is among them is not learnt")
    parser.add_argument("--test_fraction", type=float, default=0.1,
                        help="without --test: part of the texts that is kept to test on, chosen by content")
    parser.add_switch("--truncate",
                      help="of a text that is longer than the context read the beginning, rather than refuse it")
    parser.add_argument("--class_weights", choices=WEIGHTS, default="none",
                        help="balanced: an example counts the more the rarer its label is, all labels alike in sum")
    parser.add_argument("--dropout", type=float, default=None, help="while training (default: the model's)")
    args = parser.parse_args(argv)
    if args.test is not None:
        args.test = str(Path(args.test).resolve())

    opened = open_finetuning(args, "classify", kept=KEPT)
    require_gpt(opened)
    opened = opened._replace(facts=opened.facts | _facts_of_test(args, opened))
    config = opened.model.config
    examples = load_labelled_texts(args.data, opened.tokenizer, config.block_size, test=args.test,
                                   val_fraction=args.val_fraction, test_fraction=args.test_fraction,
                                   text_column=args.text_column, label_column=args.label_column,
                                   ending=args.ending, truncate=args.truncate, skip_bad=args.skip_bad)
    _tell(examples, args)
    model = _classifier(opened, args, examples)
    train = opened.train
    trainer = Trainer(model, train,
                      ClassificationBatches(examples.train, examples.labels, batch_size=train.batch_size,
                                            seed=train.seed, micro_batches=train.gradient_accumulation_steps),
                      None, opened.tokenizer, run_folder=opened.run, observers=observers(opened),
                      facts=opened.facts | {"labels": examples.labels},
                      evaluate=lambda: evaluate_classifier(model, examples.validation, examples.labels))
    code = run_finetuning(opened, trainer)
    if code:
        return code
    folder = best_checkpoint(opened.run.path)
    saved, _, state = load_model(folder, ops=opened.ops)
    best = model.replica(saved.parameters)      # which weighs labels as in training: a checkpoint does not say how
    found = evaluate_classifier(best, examples.test, examples.labels)
    write_json(opened.run.path / RESULT, {"step": state["step"]} | found.summary())
    print(f"\ntest: {len(examples.test):,} texts, the model after step {state['step']}"
          f"\naccuracy {found.accuracy:.4f}, macro-F1 {found.macro_f1:.4f}, loss {found.loss:.4f}\n\n{found.table()}\n"
          f"\nnumpyllm classify --model {shlex.quote(str(opened.run.path))} 'a text' names its label; {RESULT} there "
          "holds these figures")
    return 0


def _facts_of_test(args, opened):
    """What a resumed run must find unchanged of the test file."""
    if args.test is None:
        return {}
    facts = {"test_sha256": hashlib.sha256(read_bytes(args.test)).hexdigest()}
    if opened.state is not None and opened.state["facts"].get("test_sha256") != facts["test_sha256"]:
        raise InputError(f"{args.test} is no longer what the run is tested on, and did not learn from: put that "
                         "back, or train into another --out_dir")
    return facts


def _tell(examples, args):
    counts = {label: sum(example.label == label for example in examples.train) for label in examples.labels}
    print(f"{len(examples.train):,} texts to learn from, {len(examples.validation):,} to validate on, "
          f"{len(examples.test):,} to test on; {len(counts)} labels, {min(counts.values()):,} to "
          f"{max(counts.values()):,} texts each")
    if examples.shared:
        print(f"{examples.shared:,} texts of {args.data} are in {args.test}, too: left out")
    if examples.skipped:
        print(f"{len(examples.skipped):,} records cannot be used and were left out, the first because: "
              f"{examples.skipped[0]}")


def _classifier(opened, args, examples):
    """The model that was opened with a new head, frozen in part or with LoRA as the options say."""
    weights = balanced_weights(examples.train, examples.labels) if args.class_weights == "balanced" else None
    trainable, lora, seed = trainable_parts(args, opened.model.config.n_layer), lora_of(args), opened.train.seed
    model = GPTClassifier.from_gpt(opened.model, len(examples.labels), dropout=args.dropout, seed=seed,
                                   class_weights=weights, recompute=opened.train.recompute, trainable=trainable)
    return model if lora is None else add_lora(model, lora, trainable=trainable, seed=seed)
