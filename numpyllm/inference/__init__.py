"""Running a trained model."""

from .generate import generate, generate_text
from .sampling import choose, token_probabilities

__all__ = ["choose", "generate", "generate_text", "token_probabilities"]
