"""A shuffle that is computed, not stored: where does number x of 0 ... n - 1 go? One answer costs a few operations, whichever
x it is and however large n, and needs none of the others.

    Feistel network (Luby and Rackoff 1988)     The bits of x are cut into a left and a right half. A round replaces one half by
                                                itself xor a function of the other: left ^= f(right). Doing it again undoes it,
                                                whatever f is, so each round is a bijection, and so are all of them together.
    Cycle walking (Black and Rogaway 2002)      That is a bijection of 0 ... 2^b - 1, and n is seldom a power of two. Where
                                                it leads to n or beyond, apply it again until it does not. The way from x is
                                                along its cycle, which comes back to x < n at last, so it ends; and two x cannot
                                                meet, for the way back from y < n is the same walk with the inverse.

With the smallest b for n (2 at least), less than half of all places are n or beyond, so on average less than two applications
are needed. Not meant for secrets: f is a good mixer of bits, no cipher.
"""

import numpy as np

from ..random import generator

ROUNDS = 12         # Luby and Rackoff need 3 or 4 where the halves are long; short ones need more (see the test)


class Permutation:
    """A bijection of 0 ... n - 1 on itself that looks random: `permutation(x)`, x an integer array of any shape, gives int64.

    keys    (ROUNDS,) uint64: random, and all that the bijection depends on beside n, which is at least 1
    """

    def __init__(self, n, keys):
        self.n, self.keys = n, keys
        bits = max(2, (n - 1).bit_length())
        self._right_bits = np.uint64(bits // 2)
        self._right_mask = np.uint64(2**(bits // 2) - 1)
        self._left_mask = np.uint64(2**(bits - bits // 2) - 1)

    def __call__(self, x):
        y = self._network(np.asarray(x, np.uint64))
        while (outside := y >= self.n).any():
            y[outside] = self._network(y[outside])
        return y.astype(np.int64)

    def _network(self, x):
        """The bijection of 0 ... 2^bits - 1."""
        left, right = x >> self._right_bits, x & self._right_mask
        for left_key, right_key in self.keys.reshape(-1, 2):
            left = left ^ (_mixed(right, left_key) & self._left_mask)
            right = right ^ (_mixed(left, right_key) & self._right_mask)
        return left << self._right_bits | right


def shuffled(first, count, n, seed, name):
    """Numbers first ... first + count - 1 of an endless row: 0 ... n - 1 in a drawn order, then in another, and so on. (count,) int64."""
    epochs, places = np.divmod(np.arange(first, first + count), n)
    for epoch in np.unique(epochs):
        rng, here = generator(seed, f"epoch/{name}", step=int(epoch)), epochs == epoch
        places[here] = Permutation(n, rng.bit_generator.random_raw(ROUNDS))(places[here])
    return places


def _mixed(x, key):
    """64 bits that each depend on all of x and key: the finishing steps of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (x ^ key) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)
