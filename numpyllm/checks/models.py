"""A case for every kind of model, with its loss."""

import numpy as np

from .. import ops as text
from ..models import (GPT, LSTMLM, EncoderDecoder, EncoderDecoderConfig, GPTClassifier, GPTClassifierConfig, GPTConfig, LoRA,
                      LSTMConfig)
from ..models.lora import is_adapter
from ..random import Draws
from .case import bound_case, even, lengths, some_targets


def _gpt(rng, z, ops, **choices):
    size = even(z.D) if choices.get("position") == "rotary" else z.D
    heads = 2 * z.H if "n_kv_head" in choices else z.H
    return _model(rng, z, ops, GPT, GPTConfig, n_head=heads, n_embd=heads * size, **choices)


def _lstm_lm(rng, z, ops, **choices):
    return _model(rng, z, ops, LSTMLM, LSTMConfig, n_embd=z.C, **choices)


def some_starts(rng, z):
    """Where the example of each token begins: one to T examples a row."""
    begins = rng.random((z.B, z.T)) < 0.5
    return np.maximum.accumulate(np.where(begins, np.arange(z.T), 0), axis=1)


def _model(rng, z, ops, model_class, config_class, logits=False, logprobs=False, packed=False, recompute=False, trainable=None, lora=None,
           **choices):
    config = config_class(n_layer=2, block_size=z.S, vocab_size=z.V, **choices)
    ids, targets = rng.integers(0, z.V, (z.B, z.T)), some_targets(rng, z)
    draws, starts = Draws(0) if config.dropout else None, some_starts(rng, z) if packed else None

    def loss(model):
        scores, cache = model.forward(ids, draws, starts)
        found, _, c_loss = text.cross_entropy_forward(scores, targets)
        return found + model.added_loss(cache) if choices.get("n_expert") else found, c_loss

    def loss_back(model, dloss, cache):
        model.loss_and_gradients(ids, targets, starts, scale=dloss, draws=draws)

    if logprobs:
        call = lambda model: model.logprobs_forward(ids, targets, starts, draws=draws)
        back = lambda model, dy, cache: model.logprobs_backward(dy, cache)
    elif logits:
        call, back = lambda model: model.forward(ids, draws, starts), lambda model, dy, cache: model.backward(dy, cache)
    else:
        call, back = loss, loss_back
    options = {"recompute": recompute} | ({} if lora is None else {"lora": lora})
    return bound_case(rng, lambda: model_class(config, ops=ops, **options), ops, call, back,
                      trainable=is_adapter if trainable is None and lora is not None else trainable)


def _encoder_decoder(rng, z, ops, logits=False, n_layer=2, **choices):
    """Sources and targets of several lengths; label smoothing in the loss."""
    config = EncoderDecoderConfig(n_layer=n_layer, n_head=z.H, n_embd=z.H * z.D, block_size=z.S, vocab_size=z.V, label_smoothing=0.1,
                                  **choices)
    sources, targets = rng.integers(0, config.source_vocab_size, (z.B, z.S)), rng.integers(0, z.V, (z.B, z.T))
    for ids in (sources, targets):
        ids[np.arange(ids.shape[1]) >= lengths(rng, z, ids.shape[1])[:, None]] = -1
    draws = Draws(0) if config.dropout else None

    def loss(model):
        scores, _ = model.forward(sources, model.shifted(targets), draws)
        return text.cross_entropy_forward(scores, targets, label_smoothing=0.1)[::2]

    def loss_back(model, dloss, cache):
        model.loss_and_gradients(sources, targets, scale=dloss, draws=draws)

    if logits:
        call = lambda model: model.forward(sources, model.shifted(targets), draws)
        back = lambda model, dy, cache: model.backward(dy, cache)
    else:
        call, back = loss, loss_back
    return bound_case(rng, lambda: EncoderDecoder(config, ops=ops), ops, call, back)


def _classifier(rng, z, ops, logits=False, weighted=False, trainable=None, lora=None, **choices):
    """Texts of several lengths in one batch; some have padding."""
    K, size = z.F + 1, even(z.D) if choices.get("position") == "rotary" else z.D
    config = GPTClassifierConfig(n_layer=2, n_head=z.H, n_embd=z.H * size, block_size=z.S, vocab_size=z.V, n_classes=K, **choices)
    ids, ends, labels = rng.integers(0, z.V, (z.B, z.T)), lengths(rng, z, z.T), rng.integers(0, K, z.B)
    draws, weights = Draws(0) if config.dropout else None, rng.uniform(0.5, 2, K) if weighted else None

    def loss(model):
        scores, _ = model.forward(ids, ends, draws)
        losses, _, cache = text.cross_entropy_forward(scores, labels, per_row=True)
        return (losses if weights is None else losses * weights[labels]).sum(), cache

    def loss_back(model, dloss, cache):
        model.loss_and_gradients(ids, ends, labels, scale=dloss, draws=draws)

    if logits:
        call, back = lambda model: model.forward(ids, ends, draws), lambda model, dy, cache: model.backward(dy, cache)
    else:
        call, back = loss, loss_back
    options = {"class_weights": weights} | ({} if lora is None else {"lora": lora})
    return bound_case(rng, lambda: GPTClassifier(config, ops=ops, **options), ops, call, back, trainable=trainable)


MODELS = {
    "GPT, tied": _gpt,
    "GPT, tied, from logits": lambda *a: _gpt(*a, logits=True),
    "GPT, tied, no bias": lambda *a: _gpt(*a, bias=False),
    "GPT, untied": lambda *a: _gpt(*a, tied=False),
    "GPT, untied, no bias": lambda *a: _gpt(*a, tied=False, bias=False),
    "GPT, tied, dropout": lambda *a: _gpt(*a, dropout=0.3),
    "GPT, tied, dropout, recomputed": lambda *a: _gpt(*a, dropout=0.3, recompute=True),
    "GPT, as Llama": lambda *a: _gpt(*a, position="rotary", norm="rmsnorm", mlp="swiglu", n_hidden=11, n_kv_head=1, bias=False,
                                  tied=False),
    "GPT, ALiBi, window, squared ReLU": lambda *a: _gpt(*a, position="alibi", attention="window", window=2, mlp="squared_relu"),
    "GPT, post-norm, sinusoidal, fixed": lambda *a: _gpt(*a, position="sinusoidal", pre_norm=False, attention="fixed", window=2, mlp="relu"),
    "GPT, packed": lambda *a: _gpt(*a, packed=True),
    "GPT, packed, rotary, window, recomputed": lambda *a: _gpt(*a, packed=True, position="rotary", attention="window", window=2, dropout=0.3,
                                                              recompute=True),
    "GPT, packed, ALiBi, strided, log-probabilities": lambda *a: _gpt(*a, packed=True, logprobs=True, position="alibi", attention="strided",
                                                                     window=2, tied=False),
    "GPT, tied, first block and table frozen": lambda *a: _gpt(*a, trainable=lambda name: name.startswith(("blocks.1", "norm"))),
    "GPT, untied, table and biases trained": lambda *a: _gpt(*a, tied=False, dropout=0.3,
                                                             trainable=lambda name: name == "embedding.wte" or name.endswith(".b")),
    "GPT, LoRA": lambda *a: _gpt(*a, lora=LoRA(rank=2, alpha=2.0, targets=("qkv", "proj", "up", "down"))),
    "GPT, LoRA on qkv, dropout, recomputed": lambda *a: _gpt(
        *a, dropout=0.3, recompute=True, lora=LoRA(rank=2, alpha=2.0, dropout=0.3, targets=("qkv",))),
    "GPT, as Llama, LoRA, head trained": lambda *a: _gpt(
        *a, position="rotary", norm="rmsnorm", mlp="swiglu", n_hidden=11, n_kv_head=1, bias=False, tied=False,
        lora=LoRA(rank=3, alpha=2.0, targets=("qkv", "gate", "up", "down")), trainable=lambda name: is_adapter(name) or name == "head.w"),
    "GPTClassifier": _classifier,
    "GPTClassifier, from logits": lambda *a: _classifier(*a, logits=True),
    "GPTClassifier, class weights, dropout": lambda *a: _classifier(*a, weighted=True, dropout=0.3),
    "GPTClassifier, head and last block trained": lambda *a: _classifier(
        *a, weighted=True, trainable=lambda name: name.startswith(("blocks.1", "norm", "classifier"))),
    "GPTClassifier, head alone trained": lambda *a: _classifier(*a, trainable=lambda name: name.startswith("classifier")),
    "GPTClassifier, as Llama, LoRA": lambda *a: _classifier(
        *a, position="rotary", norm="rmsnorm", mlp="swiglu", n_hidden=11, bias=False, lora=LoRA(rank=2, alpha=2.0, targets=("qkv", "gate")),
        trainable=lambda name: is_adapter(name) or name.startswith("classifier")),
    "GPT, experts": lambda *a: _gpt(*a, n_expert=4, balance=0.7, n_hidden=3),
    "GPT, experts, from logits": lambda *a: _gpt(*a, n_expert=3, mlp="swiglu", n_hidden=2, bias=False, logits=True),
    "GPT, experts, post-norm, dropout, recomputed": lambda *a: _gpt(
        *a, n_expert=3, n_expert_used=1, balance=0.7, mlp="relu", n_hidden=3, pre_norm=False, dropout=0.3, recompute=True),
    "EncoderDecoder, pre, tied": _encoder_decoder,
    "EncoderDecoder, pre, untied": lambda *a: _encoder_decoder(*a, logits=True, n_layer=1, tied=False,
                                                               source_vocab_size=a[1].V + 2),
    "EncoderDecoder, post, shared": lambda *a: _encoder_decoder(*a, n_layer=1, pre_norm=False, shared=True),
    "EncoderDecoder, post, untied": lambda *a: _encoder_decoder(*a, n_layer=1, pre_norm=False, tied=False, bias=False,
                                                                dropout=0.3),
    "LSTM, tied": _lstm_lm,
    "LSTM, tied, from logits": lambda *a: _lstm_lm(*a, logits=True),
    "LSTM, log-probabilities": lambda *a: _lstm_lm(*a, logprobs=True),
    "LSTM, untied, dropout": lambda *a: _lstm_lm(*a, tied=False, dropout=0.3),
    "LSTM, tied, dropout, recomputed": lambda *a: _lstm_lm(*a, dropout=0.3, recompute=True),
    "LSTM, tied, biases trained": lambda *a: _lstm_lm(*a, trainable=lambda name: name.endswith(".b")),
}
