"""Fine-tuning: from a pre-trained model to one for a purpose."""

from .adapter import load_adapter, save_adapter
from .lora import add_lora, merge, merging

__all__ = ["add_lora", "load_adapter", "merge", "merging", "save_adapter"]
