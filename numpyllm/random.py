"""Every random number is a pure function of (seed, name, step, micro-batch): no generator state to save or share.

Philox (Salmon et al. 2011) turns a key and a counter into random bits. The key names the purpose, the counter holds
step and micro-batch, and what is left of it counts upwards through one draw.
"""

import hashlib

import numpy as np

WORDS_PER_COUNT = 4     # Philox makes four 64-bit words from one value of its counter


def generator(seed, name, *, step=0, micro=0, skip=0):
    """A numpy Generator for this purpose at this step. skip leaves out that many counts (of 256 bits) at the front."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()    # hash() would be salted
    key = np.frombuffer(digest, "<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[skip, 0, micro, step]))


class Draws:
    """The random masks of one micro-batch. first_row says where in it the rows begin that are computed here: the masks
    belong to the whole micro-batch, so they do not depend on how it was divided."""

    def __init__(self, seed, *, step=0, micro=0, first_row=0):
        self.seed, self.step, self.micro, self.first_row = seed, step, micro, first_row

    def keep(self, name, shape, p):
        """Boolean mask of this shape, rows first: False with probability p (to 32 bits), independently."""
        B, *rest = shape
        words = -(-int(np.prod(rest)) // 2)                             # two 32-bit draws a word
        words = -(-words // WORDS_PER_COUNT) * WORDS_PER_COUNT          # a row starts at a count of its own
        bits = generator(self.seed, name, step=self.step, micro=self.micro,
                         skip=self.first_row * words // WORDS_PER_COUNT).bit_generator
        draws = bits.random_raw(B * words).astype("<u8").view("<u4").reshape(B, -1)
        return (draws[:, :int(np.prod(rest))] >= np.uint32(p * 2**32)).reshape(shape)
