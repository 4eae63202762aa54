"""The shuffle that is not stored: a bijection, uniform, and each answer without the others; and the batches made with it."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm.data import Batches, EpochBatches, TokenRow, consecutive
from numpyllm.data.permutation import ROUNDS, Permutation
from numpyllm.errors import InputError
from numpyllm.random import generator


def permutation(n, number=0):
    return Permutation(n, generator(7, "test", step=number).bit_generator.random_raw(ROUNDS))


def chi_square(counts, expected):
    return ((np.asarray(counts) - expected) ** 2 / expected).sum()


@given(n=st.integers(1, 5000), number=st.integers(0, 2**32))
def test_a_bijection(n, number):
    there = permutation(n, number)(np.arange(n))
    assert there.dtype == np.int64 and np.array_equal(np.sort(there), np.arange(n))


@given(n=st.integers(1, 2**62), x=st.integers(0, 2**62), number=st.integers(0, 99))
def test_each_place_alone_and_in_any_company(n, x, number):
    places = np.array([[x % n, 0], [n - 1, x % n]])
    there = permutation(n, number)(places)
    assert there.shape == (2, 2) and there[0, 0] == there[1, 1] and ((0 <= there) & (there < n)).all()
    assert there[1, 0] == permutation(n, number)(np.array([n - 1]))[0]


def test_known_values():
    """They are part of what a seed means: a change would change every run."""
    assert permutation(10)(np.arange(10)).tolist() == [2, 5, 4, 8, 9, 3, 6, 1, 0, 7]
    assert permutation(10**12)(np.arange(3)).tolist() == [93376104572, 555864439279, 228586947916]


@pytest.mark.parametrize("n", [3, 4, 5])
def test_all_orders_are_equally_likely(n):
    tries = 6000
    counts = Counter(tuple(permutation(n, i)(np.arange(n))) for i in range(tries))
    orders = list(permutations(range(n)))
    found = chi_square([counts[order] for order in orders], tries / len(orders))
    assert abs(found - (len(orders) - 1)) < 5 * np.sqrt(2 * len(orders))


@pytest.mark.parametrize("n", [7, 16, 17, 64])
def test_pairs_of_neighbours_go_anywhere_equally_often(n):
    tries, counts = 5000, np.zeros((n, n))
    for i in range(tries):
        counts[tuple(permutation(n, i)(np.array([0, 1])))] += 1
    assert (counts.diagonal() == 0).all()
    found = chi_square(counts[~np.eye(n, dtype=bool)], tries / (n * (n - 1)))
    assert abs(found - (n * (n - 1) - 1)) < 5 * np.sqrt(2 * n * (n - 1))


def test_a_large_one_has_no_trace_of_order():
    n = 100_003
    there = permutation(n)(np.arange(n))
    assert abs(np.corrcoef(there, np.arange(n))[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(there[1:], there[:-1])[0, 1]) < 5 / np.sqrt(n)
    assert (there == np.arange(n)).sum() < 10           # one is expected
    assert 0.49 < (np.diff(there) > 0).mean() < 0.51


def row(n, parts=3):
    return TokenRow(np.array_split(np.arange(n, dtype=np.uint16), parts))


class TestTokenRow:
    @given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6), data=st.data())
    def test_reads_as_one_array(self, lengths, data):
        whole = np.arange(100, 100 + sum(lengths), dtype=np.uint16)
        tokens = TokenRow(np.split(whole, np.cumsum(lengths)[:-1]))
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        assert len(tokens) == len(whole) and np.array_equal(tokens.read(start, stop), whole[start:stop])
        assert tokens.read(start, stop).dtype == np.int64

    @pytest.mark.parametrize("ends", [(-1, 2), (3, 2), (0, 11)])
    def test_beyond_the_ends(self, ends):
        with pytest.raises(IndexError):
            row(10).read(*ends)

    def test_ids_beyond_the_vocabulary(self):
        tokens = TokenRow([np.arange(5), np.arange(5, 10)], names=["a.bin", "b.bin"], n_vocab=8)
        assert tokens.read(0, 8).tolist() == list(range(8))
        with pytest.raises(InputError, match="^b.bin: ids must be below the vocabulary's 8, got 8"):
            tokens.windows([0, 4], 5)


def all_starts(batches, epoch):
    n = batches.n_windows
    return batches.starts(epoch * n, n)


class TestEpochBatches:
    @given(n_tokens=st.integers(2, 400), block_size=st.integers(1, 30), seed=st.integers(0, 9), epoch=st.integers(0, 5))
    def test_each_window_once_in_an_epoch(self, n_tokens, block_size, seed, epoch):
        if n_tokens <= block_size:
            return
        batches = EpochBatches(row(n_tokens), batch_size=3, block_size=block_size, seed=seed)
        starts = np.sort(all_starts(batches, epoch))
        assert (np.diff(starts) == block_size).all() and starts[0] >= 0 and starts[-1] + block_size < n_tokens
        assert starts[0] < block_size and n_tokens - 1 - len(starts) * block_size < 2 * block_size

    def test_batches_are_pieces_of_the_row(self):
        batches = EpochBatches(row(103), batch_size=4, block_size=10, micro_batches=2, seed=0)
        assert batches.n_windows == 9
        first = np.concatenate([batches(step, micro)[0][:, 0] for step in range(9) for micro in range(2)])
        assert first.tolist() == batches.starts(0, 72).tolist()
        assert first.tolist() == np.concatenate([all_starts(batches, epoch) for epoch in range(8)]).tolist()
        ids, targets = batches(5, 1)
        assert ids.shape == targets.shape == (4, 10) and ids.dtype == np.int64 and np.array_equal(ids + 1, targets)
        assert batches.epoch(9) == 8.0

    def test_any_step_without_the_ones_before(self):
        def made():
            return EpochBatches(row(1000), batch_size=4, block_size=10, seed=3)
        forwards = [made()(step)[0] for step in range(60)]
        batches = made()
        for step in reversed(range(60)):
            assert np.array_equal(batches(step)[0], forwards[step])
        assert batches(10**12)[0].shape == (4, 10)

    def test_epochs_seeds_and_names_differ(self):
        sizes = {"batch_size": 4, "block_size": 10}
        batches = EpochBatches(row(1000), seed=3, **sizes)
        orders = [all_starts(batches, epoch) for epoch in range(20)]
        orders += [all_starts(EpochBatches(row(1000), seed=4, **sizes), 0),
                   all_starts(EpochBatches(row(1000), seed=3, name="other", **sizes), 0)]
        ranks = {tuple(np.argsort(order)) for order in orders}
        assert len(ranks) == len(orders)
        assert len({order.min() for order in orders}) > 5           # where the cuts fall

    def test_offsets_are_uniform(self):
        batches = EpochBatches(row(64), batch_size=1, block_size=8, seed=0)
        counts = np.bincount([all_starts(batches, epoch).min() for epoch in range(4000)], minlength=8)
        assert len(counts) == 8 and chi_square(counts, 500) < 7 + 5 * np.sqrt(14)

    def test_a_text_shorter_than_a_context_is_refused(self):
        with pytest.raises(InputError, match="longer than one context, got 4 tokens for block_size=4"):
            EpochBatches(np.arange(4), batch_size=1, block_size=4, seed=0)


def test_the_other_batches_read_rows_too():
    array = np.arange(100, dtype=np.uint16)
    for number in range(5):
        one, other = (Batches(tokens, batch_size=3, block_size=7, seed=1)(number) for tokens in (array, row(100)))
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    for one, other in zip(consecutive(array, batch_size=2, block_size=7), consecutive(row(100), batch_size=2, block_size=7),
                          strict=True):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_sampling_with_replacement_is_what_it_was():
    """The Shakespeare figures hang on it."""
    starts = Batches(np.arange(1000), batch_size=6, block_size=7, seed=1337)(5, 2)[0][:, 0]
    rng = generator(1337, "batch/train", step=5, micro=2)
    assert starts.tolist() == rng.integers(0, 993, size=6).tolist()
