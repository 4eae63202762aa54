"""Fine-tuning: from a pre-trained model to one for a purpose."""

from .adapter import load_adapter, save_adapter
from .lora import add_lora, merge, merging
from .peft import load_peft, save_peft

__all__ = ["add_lora", "load_adapter", "load_peft", "merge", "merging", "save_adapter", "save_peft"]
