"""Text in, batches out; knows nothing of models."""

from .batches import Batches, EpochBatches, consecutive
from .corpus import docstrings_text, embedded_text, load_text, source_text, split_by_position, topics_text
from .documents import Reading
from .folder import TokenData, is_token_data, open_data
from .prepare import prepare
from .records import content_share, hold_out, read_lines, read_records, split_by_content, text_field
from .token_row import TokenRow

__all__ = ["Batches", "EpochBatches", "Reading", "TokenData", "TokenRow", "consecutive", "content_share", "docstrings_text",
           "embedded_text", "hold_out", "is_token_data", "load_text", "open_data", "prepare", "read_lines", "read_records",
           "source_text", "split_by_content", "split_by_position", "text_field", "topics_text"]
