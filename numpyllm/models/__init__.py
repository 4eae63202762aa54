"""Whole models: a config, and a class with forward, loss and backward."""

from collections.abc import Callable
from typing import NamedTuple

from ..errors import InputError
from .classifier import GPTClassifier, GPTClassifierConfig, estimate_classifier
from .encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .estimate import estimate
from .gpt import GPT, GPTConfig, GPTTrunk
from .lora import LoRA
from .lstm_lm import LSTMLM, LSTMConfig, estimate_lstm

__all__ = ["ARCHITECTURES", "GPT", "LANGUAGE_MODELS", "LSTMLM", "Architecture", "EncoderDecoder",
           "EncoderDecoderConfig", "GPTClassifier", "GPTClassifierConfig", "GPTConfig", "GPTTrunk", "LSTMConfig",
           "LoRA", "architecture_of", "require_language_model"]


class Architecture(NamedTuple):
    model: type             # (config, ops=, seed=, dtype=, parameters=, recompute=)
    config: type            # a dataclass with block_size, vocab_size and more
    estimate: Callable      # (config, batch_size) -> Estimate


LANGUAGE_MODELS = {"gpt": Architecture(GPT, GPTConfig, estimate),
                   "lstm": Architecture(LSTMLM, LSTMConfig, estimate_lstm)}
ARCHITECTURES = LANGUAGE_MODELS | {"classifier": Architecture(GPTClassifier, GPTClassifierConfig, estimate_classifier)}


def architecture_of(model):
    """The name under which checkpoints and command lines know what kind of model this is."""
    return next(name for name, architecture in ARCHITECTURES.items() if type(model) is architecture.model)


def require_language_model(model, what):
    """InputError, in one line, if this model does not predict the next token; `what` begins the line."""
    if isinstance(model, GPTClassifier):
        raise InputError(f"{what} must be a model that continues texts, it is a classifier: numpyllm classify uses it")
