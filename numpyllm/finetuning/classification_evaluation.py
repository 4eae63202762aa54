"""How well a GPTClassifier names the labels of texts that it has not learnt.

Shapes: N texts, K labels.
"""

import math
from typing import NamedTuple

import numpy as np

from ..evaluation.metrics import accuracy, confusion_matrix, f1, macro_f1
from .classification_data import label_numbers
from .packing import padded


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
        """{label: {"precision", "recall", "f1", "texts"}}; a precision without predictions, or a
        recall without texts, is 0."""
        counts = self.confusion
        hits, claims, texts = counts.diagonal().tolist(), counts.sum(axis=0).tolist(), counts.sum(axis=1).tolist()
        return {label: {"precision": hits[i] / max(1, claims[i]), "recall": hits[i] / max(1, texts[i]),
                        "f1": f1(self.right, self.predicted, i), "texts": texts[i]}
                for i, label in enumerate(self.labels)}

    def table(self):
        """Lines of text: figures by label, and the confusion matrix."""
        names = [label if len(label) <= 40 else label[:37] + "..." for label in self.labels]
        wide = max(5, *map(len, names))
        lines = [f"{'label':{wide}}  precision  recall      F1   texts"]
        for name, row in zip(names, self.by_label().values(), strict=True):
            lines.append(f"{name:{wide}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  "
                         f"{row['texts']:6}")
        lines += ["",
                  "confusion matrix: a row for each right label, a column for each predicted one, in the same order"]
        cell = max(3, len(str(self.confusion.max())))
        for name, row in zip(names, self.confusion, strict=True):
            lines.append(f"{name:{wide}}  " + " ".join(f"{count:{cell}}" for count in row))
        return "\n".join(lines)


def evaluate_classifier(model, examples, labels):
    """ClassificationEvaluation of a model on examples whose labels it knows."""
    right = label_numbers(examples, labels)
    logp = log_probabilities(model, [example.ids for example in examples])
    weights = np.ones(len(right)) if model.class_weights is None else model.class_weights[right]
    loss = -(weights * logp[np.arange(len(right)), right]).sum() / weights.sum()
    return ClassificationEvaluation(labels, right, logp.argmax(axis=1),
                                    float(loss) if math.isfinite(loss) else math.inf)
