"""How well does a model predict a text? In nats a token, as perplexity, and in bits a byte."""

import math
from typing import NamedTuple


class Evaluation(NamedTuple):
    loss: float             # mean, nats a token
    perplexity: float       # exp(loss): as unsure as between so many equally likely tokens
    bits_per_byte: float    # of the text: unlike the other two it compares across tokenizers
    tokens: int             # targets counted

    def __str__(self):
        return f"validation loss {self.loss:.4f}, perplexity {self.perplexity:.2f}, {self.bits_per_byte:.4f} bits per byte"

    def metrics(self):
        return {"val/loss": self.loss, "val/bpb": self.bits_per_byte}


def evaluate(model, batches, byte_lengths):
    """Evaluation over batches of (ids, targets) or (ids, targets, starts); byte_lengths (V) says how many bytes each token stands for."""
    loss, count, n_bytes = 0.0, 0, 0
    for ids, targets, *starts in batches:
        batch_loss, batch_count = model.loss(ids, targets, *starts)
        loss, count = loss + float(batch_loss), count + batch_count
        n_bytes += int(byte_lengths[targets[targets != -1]].sum())
    mean = loss / max(1, count)
    return Evaluation(mean, math.exp(min(mean, 700.0)), loss / math.log(2) / max(1, n_bytes), count)
