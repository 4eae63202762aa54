"""What simpler means need to describe the same text, in bits per byte: a model should need fewer."""

import gzip

import numpy as np


def gzip_bits_per_byte(text):
    """Size of the text after `gzip -9`, which sees nothing but this text."""
    data = text.encode("utf-8", "replace")
    return 8 * len(gzip.compress(data, 9)) / len(data)


def unigram_bits_per_byte(train_tokens, val_tokens, byte_lengths):
    """A model that knows how often each token occurs in the training text and nothing else.

    train_tokens, val_tokens: ids; byte_lengths (V): bytes a token stands for. Counts begin at one for every token
    (Laplace), so that none is impossible. The first validation token is not counted, as for the other models.
    """
    counts = np.bincount(train_tokens, minlength=len(byte_lengths)) + 1.0
    bits = -np.log2(counts / counts.sum())
    return float(bits[val_tokens[1:]].sum() / byte_lengths[val_tokens[1:]].sum())
