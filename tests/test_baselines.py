"""What the simpler means need, on texts where it is known."""

import gzip
import random

import numpy as np
import pytest

from numpyllm.errors import InputError
from numpyllm.evaluation import gzip_bits_per_byte, unigram_bits_per_byte
from numpyllm.extras import load_extra


def test_gzip_is_counted_in_bits_of_the_compressed_file():
    noise = "".join(map(chr, random.Random(0).choices(range(128), k=20_000)))
    assert gzip_bits_per_byte(noise) == pytest.approx(7, abs=0.1)       # 128 equally likely characters
    assert gzip_bits_per_byte("a" * 10_000) < 0.1
    text = "it was the best of times" * 9
    assert gzip_bits_per_byte(text) == 8 * len(gzip.compress(text.encode(), 9)) / len(text)


def test_unigram_by_hand():
    """Counts 3, 1 and none, each plus one: probabilities 4/7, 2/7, 1/7. Tokens of 1, 2 and 4 bytes."""
    found = unigram_bits_per_byte(np.array([0, 0, 1, 0]), np.array([2, 0, 1, 2]), np.array([1, 2, 4]))
    assert found == pytest.approx(-(np.log2(4 / 7) + np.log2(2 / 7) + np.log2(1 / 7)) / (1 + 2 + 4))


def test_a_missing_extra_names_its_command():
    with pytest.raises(InputError, match=r"no_such_package is not installed: pip install 'numpyllm\[plots\]'"):
        load_extra("no_such_package.figure", "plots")
