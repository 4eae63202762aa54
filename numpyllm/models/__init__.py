"""Whole models: a config, and a class with forward, loss and backward."""

from .gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig"]
