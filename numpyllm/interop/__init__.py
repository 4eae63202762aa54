"""Models in other layouts than a run's: GPT-2, Llama and Mistral in Hugging Face's, llama2.c's files, weights in fewer bytes."""

from .convert import load_model, save_model
from .llama2c import is_llama2c, load_llama2c
from .pretrained import is_pretrained, load_pretrained, save_pretrained
from .quantized import load_decodable, save_quantized

__all__ = ["is_llama2c", "is_pretrained", "load_decodable", "load_llama2c", "load_model", "load_pretrained", "save_model",
           "save_pretrained", "save_quantized"]
