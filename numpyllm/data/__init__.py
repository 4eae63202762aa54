"""Text in, batches out; knows nothing of models."""

from .batches import Batches, consecutive
from .corpus import docstrings_text, embedded_text, load_text, source_text, split_by_position, topics_text

__all__ = ["Batches", "consecutive", "docstrings_text", "embedded_text", "load_text", "source_text",
           "split_by_position", "topics_text"]
