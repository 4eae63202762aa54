"""Fine-tuning: from a pre-trained model to one for a purpose."""

from .adapter import load_adapter, save_adapter
from .classification import (ClassificationBatches, ClassificationEvaluation, balanced_weights, best_checkpoint, evaluate_examples,
                             load_examples)
from .lora import add_lora, merge, merging
from .peft import load_peft, save_peft

__all__ = ["ClassificationBatches", "ClassificationEvaluation", "add_lora", "balanced_weights", "best_checkpoint", "evaluate_examples",
           "load_adapter", "load_examples", "load_peft", "merge", "merging", "save_adapter", "save_peft"]
