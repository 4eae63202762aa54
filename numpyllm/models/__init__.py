"""Whole models: a config, and a class with forward, loss and backward."""

from .encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .gpt import GPT, GPTConfig

__all__ = ["GPT", "EncoderDecoder", "EncoderDecoderConfig", "GPTConfig"]
