"""Whole models: a config, and a class with forward, loss and backward."""

from collections.abc import Callable
from typing import NamedTuple

from .encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .estimate import estimate
from .gpt import GPT, GPTConfig
from .lora import LoRA
from .lstm_lm import LSTMLM, LSTMConfig, estimate_lstm

__all__ = ["ARCHITECTURES", "GPT", "LSTMLM", "Architecture", "EncoderDecoder", "EncoderDecoderConfig", "GPTConfig", "LSTMConfig", "LoRA",
           "architecture_of"]


class Architecture(NamedTuple):
    model: type             # (config, ops=, seed=, dtype=, parameters=, recompute=)
    config: type            # a dataclass with block_size, vocab_size and more
    estimate: Callable      # (config, batch_size) -> Estimate


ARCHITECTURES = {"gpt": Architecture(GPT, GPTConfig, estimate), "lstm": Architecture(LSTMLM, LSTMConfig, estimate_lstm)}


def architecture_of(model):
    """The name under which checkpoints and command lines know what kind of model this is."""
    return next(name for name, architecture in ARCHITECTURES.items() if type(model) is architecture.model)
