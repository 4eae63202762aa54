"""Tokenizers: first the same ids and merges as a peer's, then megabytes a second, in turns.

Peers are installed by the user and called in this process, on as many threads as we are given (RAYON_NUM_THREADS, which all
of them obey). A megabyte is 10^6 bytes of UTF-8. "First" is the first call after loading: word caches are cold then.
"""

import os
import tempfile
import time
import warnings
from collections import Counter
from typing import Callable, NamedTuple

import numpy as np

from ..errors import InputError
from ..extras import load_extra
from ..tokenizer import BytePairTokenizer, load
from ..tokenizer.formats.byte_characters import CHARACTER_OF
from ..tokenizer.formats.published import SPELLINGS
from ..tokenizer.patterns import compile_pattern, split
from ..tokenizer.training import learn_merges

TRAINED_ON = 2_000_000      # characters of a text that make the vocabulary, where none is given
FEWEST_ROUNDS = 3
GIGATOKEN = "gpt2", "cl100k", "o200k"       # the patterns that this peer knows


class Different(Exception):
    """A peer gives other ids or merges: there is nothing to time. The message says where."""


class Peer(NamedTuple):
    array: Callable | None          # text -> ids as an array
    list: Callable | None           # text -> ids as a list
    train: Callable | None          # text, number of tokens -> tokens (bytes) in the order of their ids
    order: list | None = None       # the bytes in the order in which it numbers them, if that is not 0 to 255


def tiktoken_peer(tokenizer, pattern):
    tiktoken = load_extra("tiktoken", "bench")
    spelling = SPELLINGS[pattern][-1] if pattern in SPELLINGS else pattern
    peer = tiktoken.Encoding("peer", pat_str=spelling, mergeable_ranks=tokenizer.ranks, special_tokens=tokenizer.special_tokens)
    return Peer(lambda text: peer.encode_to_numpy(text, disallowed_special=()), peer.encode_ordinary, None)


def tokenizers_peer(tokenizer, pattern):
    library = load_extra("tokenizers", "bench")
    with tempfile.TemporaryDirectory() as folder:
        BytePairTokenizer(tokenizer.ranks, pattern).save(f"{folder}/tokenizer.json")     # without special tokens: all is ordinary
        peer = library.Tokenizer.from_file(f"{folder}/tokenizer.json")

    def train(text, n_tokens):
        learner = library.Tokenizer(library.models.BPE())
        learner.pre_tokenizer = peer.pre_tokenizer
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
        learner.train_from_iterator([text], library.trainers.BpeTrainer(vocab_size=n_tokens, initial_alphabet=alphabet,
                                                                        special_tokens=[], show_progress=False))
        vocab = learner.get_vocab()
        return [bytes(map(CHARACTER_OF.index, word)) for word in sorted(vocab, key=vocab.get)]

    order = sorted(range(256), key=CHARACTER_OF.__getitem__)
    return Peer(lambda text: np.array(peer.encode(text).ids), lambda text: peer.encode(text).ids, train, order)


def rustbpe_peer(tokenizer, pattern):
    library = load_extra("rustbpe", "bench")

    def train(text, n_tokens):
        learner = library.Tokenizer()
        learner.train_from_iterator([text], vocab_size=n_tokens, pattern=SPELLINGS[pattern][-1] if pattern in SPELLINGS else pattern)
        return [bytes(token) for token, _ in sorted(learner.get_mergeable_ranks(), key=lambda item: item[1])]

    return Peer(None, None, train)


def gigatoken_peer(tokenizer, pattern):
    library = load_extra("gigatoken", "bench")
    if pattern not in GIGATOKEN:
        raise InputError(f"gigatoken knows the patterns {', '.join(GIGATOKEN)} only, this vocabulary has {pattern!r}")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(f"{folder}/x.tiktoken", "tiktoken")
        peer = library.Tokenizer.from_tiktoken(f"{folder}/x.tiktoken", pretokenizer=pattern)
    return Peer(peer.encode, lambda text: peer.encode_batch_list([text])[0], None)


PEERS = {"tiktoken": tiktoken_peer, "tokenizers": tokenizers_peer, "rustbpe": rustbpe_peer, "gigatoken": gigatoken_peer}


def bench_tokenizer(corpora, *, vocabulary=None, vocab_size=8192, pattern="gpt2", peer=None, threads=1, seconds=20.0, log=print):
    """-> the figures, a dictionary for each corpus. Raises `Different` when the peer's ids or merges are not ours.

    corpora         {name: text}
    vocabulary      a file; where None, one of vocab_size is trained on the beginning of each text
    pattern         for training
    seconds         to spend on timing each of array, list and training
    """
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    return [_bench(name, text, vocabulary, vocab_size, pattern, peer, threads, seconds, log) for name, text in corpora.items()]


def _bench(name, text, vocabulary, vocab_size, pattern, peer_name, threads, seconds, log):
    megabytes = len(text.encode("utf-8")) / 1e6
    tokenizer = load(vocabulary) if vocabulary else _train(text[:TRAINED_ON], vocab_size, pattern)
    if not isinstance(tokenizer, BytePairTokenizer):
        raise InputError(f"{vocabulary}: only byte-pair vocabularies are timed, this one is of characters")
    peer = PEERS[peer_name](tokenizer, tokenizer.pattern) if peer_name else Peer(None, None, None)
    figures = {"corpus": name, "megabytes": megabytes, "n_vocab": tokenizer.n_vocab, "pattern": tokenizer.pattern,
               "threads": threads, "peer": peer_name}
    log(f"{name}: {megabytes:.1f} MB, vocabulary of {tokenizer.n_vocab:,}, pattern {tokenizer.pattern}, {threads} thread"
        + "s" * (threads > 1))
    log(f"{'':20} {'numpyllm':>12} {peer_name or '':>12} {'ratio':>7}")
    tokenizer.load_twin()
    if peer_name is None or peer.array:
        def array(text):
            return tokenizer.encode_to_numpy(text, threads=threads, disallowed_special=(), begin=False)
        ours_first, ours = _seconds(array, text)
        if peer.array:
            theirs_first, theirs = _seconds(peer.array, text)
            check_ids(tokenizer, ours, theirs, peer_name)
        pairs = {"array, first": ([ours_first], [theirs_first] if peer.array else []),
                 "array": _in_turns(array, peer.array, text, seconds),
                 "list": _in_turns(tokenizer.encode_ordinary, peer.list, text, seconds)}
        for kind, (mine, others) in pairs.items():
            figures[kind] = _row(kind, megabytes / np.median(mine), megabytes / np.median(others) if others else None, "MB/s", log)
    if peer_name is None or peer.train:
        def train(text):
            return _train(text, vocab_size, pattern, special_tokens=(), threads=threads)
        trainer = PEERS[peer_name](tokenizer, pattern).train if peer_name else None
        if trainer:
            check_merges(_ordered_tokens(text, vocab_size, pattern, peer.order), trainer(text, vocab_size), peer_name)
        mine, others = _in_turns(train, trainer and (lambda text: trainer(text, vocab_size)), text, seconds)
        figures["training"] = _row(f"training to {vocab_size}", np.median(mine), np.median(others) if others else None, "s", log)
    return figures


def check_ids(tokenizer, ours, theirs, peer_name):
    """Raise `Different`, with the place and the tokens there, unless the ids are the same."""
    ours, theirs = np.asarray(ours, np.int64), np.asarray(theirs, np.int64)
    shorter = min(len(ours), len(theirs))
    differing = np.flatnonzero(ours[:shorter] != theirs[:shorter])
    if len(differing) or len(ours) != len(theirs):
        at = int(differing[0]) if len(differing) else shorter
        before, here, there = (tokenizer.decode(ids.tolist()) for ids in (ours[max(0, at - 5):at], ours[at:at + 3], theirs[at:at + 3]))
        raise Different(f"{peer_name} gives other ids from number {at:,} on: after {before!r} we have {here!r} as "
                        f"{ours[at:at + 3].tolist()}, it has {there!r} as {theirs[at:at + 3].tolist()}; nothing was timed")


def check_merges(ours, theirs, peer_name):
    """Raise `Different`, with the first token that is not the same, unless these lists are equal."""
    for i, (mine, other) in enumerate(zip(ours, theirs)):
        if mine != other:
            raise Different(f"{peer_name} learns other merges from token {i} on: ours is {mine!r}, its is {other!r}; "
                            "nothing was timed")
    if len(ours) != len(theirs):
        raise Different(f"{peer_name} learns {len(theirs)} tokens, we learn {len(ours)}: nothing was timed")


def _train(text, vocab_size, pattern, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)        # of a short text, which has fewer pairs
        return BytePairTokenizer.train(text, vocab_size, pattern=pattern, **options)


def _ordered_tokens(text, n_tokens, pattern, order):
    """The tokens that we learn when bytes are numbered in this order, which decides ties."""
    if order is None:
        return list(_train(text, n_tokens, pattern, special_tokens=()).ranks)
    number_of = bytes(order.index(byte) for byte in range(256))
    counted = Counter(split(compile_pattern(pattern), text))
    merges = learn_merges({piece.encode("utf-8").translate(number_of): count for piece, count in counted.items()}, n_tokens - 256)
    tokens = [bytes([byte]) for byte in order]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def _in_turns(ours, theirs, text, seconds):
    """Seconds of each call of both, one after the other until the time is over."""
    times = [], []
    started = time.perf_counter()
    while len(times[0]) < FEWEST_ROUNDS or time.perf_counter() - started < seconds:
        for function, spent in zip((ours, theirs), times):
            if function:
                spent.append(_seconds(function, text)[0])
    return times


def _seconds(function, text):
    before = time.perf_counter()
    result = function(text)
    return time.perf_counter() - before, result


def _row(label, ours, theirs, unit, log):
    """Print a line -> {"numpyllm": figure, "peer": figure or None, "ratio": how many times as fast}."""
    ratio = None if theirs is None else theirs / ours if unit == "s" else ours / theirs
    log(f"{label:20} {ours:7.2f} {unit:4} " + ("" if theirs is None else f"{theirs:7.2f} {unit:4} {ratio:7.2f}"))
    return {"numpyllm": float(ours), "peer": None if theirs is None else float(theirs), "ratio": None if ratio is None else float(ratio)}
