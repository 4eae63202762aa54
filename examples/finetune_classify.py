"""Which module of the standard library does a docstring come from? A small GPT is pre-trained, then fine-tuned to tell.

    python examples/finetune_classify.py                pre-trains out/small first (numpyllm train --config small), if it is not there

A few labelled docstrings of each module are learnt from, many are held out. Those are classified by the fine-tuned model, by one of
the same sizes that began with random parameters and had the same budget, and by a logistic regression on bags of words.

Names of modules are masked in the texts. Of docstrings that differ in nothing but capitals, digits, blanks and punctuation one is kept:
nothing that is tested on was learnt with its label, nor anything nearly like it. Pre-training did read the docstrings that are held
out, without labels, each among its neighbours: texts are cheap and labels are not, and that is what it is for.
"""

import json
import re
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from numpyllm import ops as text
from numpyllm.backend import load_backend
from numpyllm.cli import train
from numpyllm.cli.arguments import Parser, at_least, guarded
from numpyllm.data import content_share
from numpyllm.data.corpus import library_files, module_docstrings
from numpyllm.files import replacing
from numpyllm.finetuning import (ClassificationBatches, ClassificationEvaluation, evaluate_classifier, label_numbers,
                                 load_labelled_texts)
from numpyllm.interop import load_model
from numpyllm.models import GPTClassifier, GPTClassifierConfig
from numpyllm.training import RunFolder, TrainConfig, Trainer, best_checkpoint
from numpyllm.training import load_model as load_checkpoint_model

MODULES = ("asyncio", "email", "importlib", "logging", "multiprocessing", "tkinter", "unittest", "xml")
MASK = re.compile(rf"\b({'|'.join(MODULES)})\b", re.IGNORECASE)
MOST_TOKENS = 96            # of a docstring are read: its beginning tells what it is about
ENDING = "\n\n"             # stands behind a docstring in the embedded corpus; what follows depends on what it was about
DROPOUT = 0.1


def docstrings():
    """(text, module), the names of modules masked; each once, and none that two modules have."""
    folder, found = Path(sysconfig.get_path("stdlib")), {}
    for path in library_files():
        module = path.relative_to(folder).parts[0]
        for doc in module_docstrings(path) if module in MODULES else ():
            masked = MASK.sub("this", doc)
            found.setdefault("".join(re.findall("[a-z]", masked.casefold())), {})[module] = masked
    return [(masked, module) for letters, kept in found.items() if len(kept) == 1 and len(letters) >= 20
            for module, masked in kept.items()]


def few(examples, n):
    """The same with n texts of each label to learn from, which their hashes choose."""
    chosen = [example for label in examples.labels
              for example in sorted((e for e in examples.train if e.label == label), key=lambda e: content_share(e.text, seed=1))[:n]]
    return examples._replace(train=chosen)


def learn(model, examples, tokenizer, folder, args):
    """Train a classifier, keep the best by the validation loss -> its evaluation on the test part."""
    config = TrainConfig(batch_size=16, max_iters=args.steps, learning_rate=args.lr, warmup_iters=min(20, args.steps), eval_interval=20,
                         log_interval=20, keep_checkpoints=1, spike_zscore=0.0, threads=args.threads, seed=args.seed)
    batches = ClassificationBatches(examples.train, examples.labels, batch_size=config.batch_size, seed=config.seed)
    trainer = Trainer(model, config, batches, None, tokenizer, run_folder=RunFolder(folder, overwrite=True).open(),
                      evaluate=lambda: evaluate_classifier(model, examples.validation, examples.labels),
                      facts={"labels": examples.labels, "ending": ENDING, "truncate": True})
    trainer.run()
    best, _, _ = load_checkpoint_model(best_checkpoint(folder), ops=model.ops)
    return evaluate_classifier(best, examples.test, examples.labels)


def bag_of_words(examples, *, steps=300, learning_rate=0.03):
    """Logistic regression on the words of a text: a linear map, cross-entropy and AdamW, each step on all texts. The weight decay and
    the number of steps are those of the lowest validation loss."""
    words = lambda example: re.findall(r"\w+", example.text.casefold())
    vocabulary = {word: i for i, word in enumerate(sorted({word for example in examples.train for word in words(example)}))}

    def features(part):
        """(N, V): log(1 + how often), each row of length 1."""
        x = np.zeros((len(part), len(vocabulary)), np.float32)
        for row, example in zip(x, part, strict=True):
            np.add.at(row, [vocabulary[word] for word in words(example) if word in vocabulary], 1)
        x = np.log1p(x)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)

    K, parts = len(examples.labels), (examples.train, examples.validation, examples.test)
    (x, x_val, x_test), (y, y_val, y_test) = map(features, parts), (label_numbers(part, examples.labels) for part in parts)
    best, chosen = np.inf, None
    for decay in (0.0, 0.01, 0.03, 0.1, 0.3):
        flat = np.zeros((len(vocabulary) + 1) * K, np.float32)
        w, b = flat[:-K].reshape(-1, K), flat[-K:]
        m, v = np.zeros_like(flat), np.zeros_like(flat)
        for step in range(1, steps + 1):
            logits, c_linear = text.linear_forward(x, w, b)
            _, count, c_loss = text.cross_entropy_forward(logits, y)
            _, dw, db = text.linear_backward(text.cross_entropy_backward(np.float32(1 / count), c_loss), c_linear)
            text.adamw_update(flat, np.concatenate([dw.reshape(-1), db]), m, v, step=step, lr=learning_rate, weight_decay=decay)
            if step % 10 == 0:
                loss, count, _ = text.cross_entropy_forward(text.linear_forward(x_val, w, b)[0], y_val)
                if loss / count < best:
                    best, chosen = loss / count, (w.copy(), b.copy())
    logits, _ = text.linear_forward(x_test, *chosen)
    loss, count, _ = text.cross_entropy_forward(logits, y_test)
    return ClassificationEvaluation(examples.labels, y_test, logits.argmax(axis=1), float(loss / count)), flat.size


def main(argv=None):
    parser = Parser(prog="finetune_classify.py", description="Fine-tune a small GPT to say which module a docstring comes from.")
    parser.add_argument("--model", default="out/small", metavar="DIR", help="the pre-trained model; trained into this folder if there is none")
    parser.add_argument("--out_dir", default="out/docstrings", metavar="DIR", help="where examples and the two trained classifiers go")
    parser.add_argument("--labels", type=at_least(0), default=40,
                        help="labelled docstrings of each module to learn from; 0: all that are not held out")
    parser.add_argument("--steps", type=at_least(1), default=160, help="steps of fine-tuning, and of training from scratch")
    parser.add_argument("--lr", type=float, default=5e-4, help="highest learning rate of both")
    parser.add_argument("--threads", type=at_least(1), default=None, help="replicas of the model (default: one a core)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="all randomness of the two follows from it")
    args = parser.parse_args(argv)
    if not Path(args.model).exists():
        code = train.main(["--config", "small", "--out_dir", args.model, *(["--threads", str(args.threads)] if args.threads else [])])
        if code:
            return code
    gpt, tokenizer = load_model(args.model, ops=load_backend())
    out = Path(args.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    data = out / "docstrings.jsonl"
    with replacing(data) as file:
        file.write("".join(json.dumps({"text": doc, "label": module}) + "\n" for doc, module in docstrings()).encode())
    examples = load_labelled_texts(data, tokenizer, min(MOST_TOKENS, gpt.config.block_size), ending=ENDING, truncate=True, val_fraction=0.15,
                             test_fraction=0.45)
    examples = few(examples, args.labels) if args.labels else examples
    K = len(examples.labels)
    print(f"{len(examples.train):,} docstrings of {K} modules to learn from, {len(examples.validation):,} to stop early by, "
          f"{len(examples.test):,} to test on")

    rows = []

    def add(name, make):
        started = time.perf_counter()
        found, n_params = make()
        rows.append((name, n_params, found, time.perf_counter() - started))
        return found

    def classifier(name, model):
        print(f"\n{name}")
        return learn(model, examples, tokenizer, out / name.replace(" ", "-"), args), model.n_params()

    config = replace(gpt.config, dropout=DROPOUT)
    finetuned = add("fine-tuned", lambda: classifier("fine-tuned", GPTClassifier.from_gpt(gpt, K, dropout=DROPOUT, seed=args.seed)))
    add("from scratch", lambda: classifier("from scratch", GPTClassifier(GPTClassifierConfig(**vars(config), n_classes=K), ops=gpt.ops,
                                                                        seed=args.seed)))
    add("bag of words", lambda: bag_of_words(examples))
    print(f"\n{finetuned.table()}\n\nthe same {len(examples.test):,} held-out docstrings\n"
          f"{'':14}{'parameters':>10}  accuracy  macro-F1    loss  seconds")
    for name, n_params, found, seconds in rows:
        print(f"{name:14}{n_params:10,}  {found.accuracy:8.4f}  {found.macro_f1:8.4f}  {found.loss:6.4f}  {seconds:7.0f}")
    print(f"{'always the most frequent':24}  {max(np.bincount(finetuned.right)) / len(finetuned.right):8.4f}")
    print(f"\nnumpyllm classify --model {out / 'fine-tuned'} 'Return the next event of the loop.' names a module")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
