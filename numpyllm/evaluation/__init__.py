"""How good is a model, and compared with what?"""

from .baselines import gzip_bits_per_byte, unigram_bits_per_byte

__all__ = ["gzip_bits_per_byte", "unigram_bits_per_byte"]
