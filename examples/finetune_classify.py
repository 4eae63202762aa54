"""Which module of the standard library does a docstring come from? A small GPT is pre-trained, then fine-tuned to tell.

    numpyllm train --config small                       three minutes on two cores; done here if it was not
    python examples/finetune_classify.py                two more

The same held-out docstrings are classified by the fine-tuned model, by the same model that began with random parameters and had
the same budget, and by a logistic regression on bags of words. Names of modules are masked in the texts, and of docstrings that differ in nothing but
capitals, digits, blanks and punctuation one is kept: nothing that is tested on was learnt, nor anything nearly like it.
"""

import ast
import json
import re
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np

from numpyllm import ops as text
from numpyllm.backend import load_backend
from numpyllm.cli import train
from numpyllm.cli.arguments import Parser, at_least, guarded
from numpyllm.data.corpus import library_files, module_docstrings
from numpyllm.finetuning import ClassificationBatches, ClassificationEvaluation, best_checkpoint, evaluate_examples, load_examples
from numpyllm.finetuning.classification import numbers
from numpyllm.interop import load_model
from numpyllm.models import GPTClassifier
from numpyllm.random import generator
from numpyllm.training import RunFolder, TrainConfig, Trainer
from numpyllm.training import load_model as load_checkpointed

MODULES = ("asyncio", "email", "importlib", "logging", "multiprocessing", "tkinter", "unittest", "xml")
MASK = re.compile(rf"\b({'|'.join(MODULES)})\b", re.IGNORECASE)
MOST_TOKENS = 96            # of a docstring are read: its beginning tells what it is about


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


def finetune(model, examples, tokenizer, folder, *, steps, learning_rate, seed):
    """Train a classifier, keep the best by the validation loss -> its evaluation on the test part."""
    config = TrainConfig(batch_size=16, max_iters=steps, learning_rate=learning_rate, warmup_iters=20, eval_interval=50, log_interval=50,
                         weight_decay=0.1, keep_checkpoints=1, spike_zscore=0.0, seed=seed)
    batches = ClassificationBatches(examples.train, examples.labels, batch_size=config.batch_size, seed=seed)
    trainer = Trainer(model, config, batches, None, tokenizer, run_folder=RunFolder(folder, overwrite=True).open(),
                      evaluate=lambda: evaluate_examples(model, examples.validation, examples.labels), facts={"labels": examples.labels})
    trainer.run()
    best, _, _ = load_checkpointed(best_checkpoint(folder), ops=model.ops)
    return evaluate_examples(best, examples.test, examples.labels)


def bag_of_words(examples, *, steps=300, learning_rate=0.1):
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
    (x, x_val, x_test), (y, y_val, y_test) = map(features, parts), (numbers(part, examples.labels) for part in parts)
    best, chosen = np.inf, None
    for decay in (0.0, 0.003, 0.01, 0.03, 0.1):
        flat = np.zeros((len(vocabulary) + 1) * K, np.float32)
        w, b = flat[:-K].reshape(-1, K), flat[-K:]
        m, v = np.zeros_like(flat), np.zeros_like(flat)
        for step in range(1, steps + 1):
            logits, c_linear = text.linear_forward(x, w, b)
            _, count, c_loss = text.cross_entropy_forward(logits, y)
            _, dw, db = text.linear_backward(text.cross_entropy_backward(np.float32(1 / count), c_loss), c_linear)
            text.adamw_update(flat, np.concatenate([dw.reshape(-1), db]), m, v, step=step, lr=learning_rate, weight_decay=decay)
            loss, count, _ = text.cross_entropy_forward(text.linear_forward(x_val, w, b)[0], y_val)
            if loss / count < best:
                best, chosen = loss / count, (w.copy(), b.copy())
    logits, _ = text.linear_forward(x_test, *chosen)
    loss, count, _ = text.cross_entropy_forward(logits, y_test)
    return ClassificationEvaluation(examples.labels, y_test, logits.argmax(axis=1), float(loss / count)), flat.size
