"""What a run learns from: a text, or tokens that `numpyllm data prepare` or somebody else made of one."""

import hashlib
from typing import NamedTuple

import numpy as np

from .. import tokenizer as tokenizers
from ..data import EpochBatches, TokenRow, is_token_data, load_text, open_data, split_by_position
from ..errors import InputError
from ..tokenizer.base import Tokenizer

TRAINED = "bpe", "character"        # --tokenizer: a kind to train, not a file


class Source(NamedTuple):
    sha256: str
    tokenizer: Tokenizer
    train: np.ndarray | EpochBatches        # for a Trainer
    validation: np.ndarray | TokenRow
    val_text: str | None                    # of a text
    first: str                              # character, to begin samples with
    summary: str


def open_source(path, model_config, train_config, *, tokenizer, make_tokenizer, sha256=None):
    """-> Source. A text's batches are drawn with replacement, those of prepared tokens epoch by epoch.

    path            of a text, of tokens (data.is_token_data), or None for the embedded corpus
    tokenizer       of a run that goes on; a file, which --tokenizer named; or none of these
    make_tokenizer  called with (train_text, text) for a new run on a text
    sha256          of the source of a run that goes on, which it must still be
    InputError for what cannot be used.
    """
    if path is not None and is_token_data(path):
        return _tokens(path, model_config, train_config, tokenizer, sha256)
    return _text(path, model_config, tokenizer, make_tokenizer, sha256)


def _text(path, model_config, tokenizer, make_tokenizer, expected):
    text = load_text(path)
    sha256 = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    _check_unchanged(path or "the embedded corpus", sha256, expected)
    train_text, val_text = split_by_position(text)
    n_bytes = len(val_text.encode("utf-8", "replace"))
    if n_bytes <= model_config.block_size:      # no tokenizer makes more tokens than bytes
        raise InputError(f"the validation text, a tenth of the whole, must be longer than one context, got {n_bytes} bytes for "
                         f"block_size={model_config.block_size}: give more text or a smaller block_size")
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = make_tokenizer(train_text, text)
    train, val = (tokenizer.encode_to_numpy(part, disallowed_special=()) for part in (train_text, val_text))
    return Source(sha256, tokenizer, train, val, val_text, text[:1],
                  f"{len(text):,} characters, {len(train):,} tokens to train on, {len(val):,} to validate")


def _tokens(path, model_config, config, tokenizer, expected):
    data = open_data(path)
    _check_unchanged(path, data.sha256, expected)
    if data.val is None:
        raise InputError(f"{path} must have tokens to validate on, it has none: prepare it with a --val_fraction, or put a val.bin "
                         "beside its train.bin")
    if isinstance(tokenizer, str) and tokenizer not in TRAINED:
        tokenizer = tokenizers.load(tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = data.load_tokenizer()
    data.check(tokenizer)
    train = EpochBatches(data.train, batch_size=config.batch_size, block_size=model_config.block_size, seed=config.seed,
                         micro_batches=config.gradient_accumulation_steps)
    return Source(data.sha256, tokenizer, train, data.val, None, tokenizer.decode(data.val.read(0, min(8, len(data.val))))[:1],
                  f"{len(data.train):,} tokens to train on, {train.n_windows:,} windows an epoch, {len(data.val):,} to validate")


def _check_unchanged(path, sha256, expected):
    if expected is not None and sha256 != expected:
        raise InputError(f"{path} is not the text that the run was trained on: resume with that text, or train into another "
                         "--out_dir")
