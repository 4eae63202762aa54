"""Models of others, in and out: GPT-2 in Hugging Face's layout."""

from .convert import load_model, save_model
from .pretrained import is_pretrained, load_pretrained, save_pretrained

__all__ = ["is_pretrained", "load_model", "load_pretrained", "save_model", "save_pretrained"]
