"""Models in other layouts than a run's: GPT-2 in Hugging Face's, weights in fewer bytes."""

from .convert import load_model, save_model
from .pretrained import is_pretrained, load_pretrained, save_pretrained
from .quantized import load_decodable, save_quantized

__all__ = ["is_pretrained", "load_decodable", "load_model", "load_pretrained", "save_model", "save_pretrained", "save_quantized"]
