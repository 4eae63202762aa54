"""Corpora and batches."""

import numpy as np
import pytest

from numpyllm.data import (Batches, consecutive, docstrings_text, embedded_text, load_text, split_by_position, topics_text)
from numpyllm.errors import InputError


def test_topics_are_english_and_deterministic():
    text = topics_text()
    assert len(text) > 400_000 and "Lambda expressions" in text and text == topics_text()


def test_docstrings_come_in_order_each_once(tmp_path):
    (tmp_path / "b.py").write_text('"""Module b."""\ndef f():\n    """Shared."""\nclass C:\n    """Class C."""\n    def g(self):\n        """g."""\n')
    (tmp_path / "a.py").write_text('"""Module a."""\ndef f():\n    """Shared."""\ndef h():\n    pass\n')
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.py").write_text('"""A test."""')
    assert docstrings_text(tmp_path) == "Module a.\n\nShared.\n\nModule b.\n\nClass C.\n\ng.\n"


@pytest.mark.thorough
def test_embedded_corpus_is_deterministic():
    text = embedded_text()
    assert len(text) > 1_500_000 and text == embedded_text()


def test_load_text_reads_a_file_or_a_folder_by_name(tmp_path):
    (tmp_path / "b.txt").write_text("two", encoding="utf-8")
    (tmp_path / "a.md").write_text("öne", encoding="utf-8")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    assert load_text(tmp_path) == "öne\ntwo"
    assert load_text(tmp_path / "b.txt") == "two"


def test_line_ends_survive(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\rc\n")
    assert load_text(tmp_path / "a.txt") == "a\r\nb\rc\n"


@pytest.mark.parametrize("make, words", [
    (lambda path: None, "cannot read .*: No such file"),
    (lambda path: path.write_text(" \n"), "is empty"),
    (lambda path: path.write_bytes(b"ab\xffc"), r"no UTF-8 text \(byte 2 is 0xff\)"),
    (lambda path: path.mkdir(), "holds no text files")])
def test_unusable_texts_are_refused(tmp_path, make, words):
    make(tmp_path / "text")
    with pytest.raises(InputError, match=words):
        load_text(tmp_path / "text")


def test_split_by_position():
    assert split_by_position("0123456789") == ("012345678", "9")


def test_batches_are_a_function_of_seed_and_step():
    tokens = np.arange(100, dtype=np.uint16)
    batches = Batches(tokens, batch_size=3, block_size=7, seed=1)
    ids, targets = batches(5)
    assert ids.shape == targets.shape == (3, 7) and ids.dtype == np.int64
    assert np.array_equal(ids + 1, targets)
    again, _ = Batches(tokens, batch_size=3, block_size=7, seed=1)(5)
    assert np.array_equal(ids, again)
    others = [batches(6)[0], batches(5, micro=1)[0], Batches(tokens, batch_size=3, block_size=7, seed=2)(5)[0],
              Batches(tokens, batch_size=3, block_size=7, seed=1, name="validation")(5)[0]]
    assert not any(np.array_equal(ids, other) for other in others)


def test_batches_reach_the_first_and_the_last_token():
    batches = Batches(np.arange(6, dtype=np.uint16), batch_size=50, block_size=4, seed=0)
    assert {(int(row[0]), int(row[-1])) for row in np.concatenate([batches(0)[1], batches(0)[0]])} == {(0, 3), (1, 4), (2, 5)}


def test_a_text_shorter_than_a_context_is_refused():
    with pytest.raises(InputError, match="longer than one context, got 4 tokens for block_size=4"):
        Batches(np.arange(4), batch_size=1, block_size=4, seed=0)


@pytest.mark.parametrize("n", [2, 8, 9, 10, 17])
def test_consecutive_windows_ask_each_token_but_the_first_once(n):
    tokens = np.arange(n, dtype=np.uint16) + 100
    asked = []
    for ids, targets in consecutive(tokens, batch_size=2, block_size=4):
        assert ids.shape == targets.shape and ids.shape[1] == 4
        counted = targets != -1
        assert np.array_equal(ids[counted] + 1, targets[counted])
        asked += targets[counted].tolist()
    assert asked == list(range(101, 100 + n))
