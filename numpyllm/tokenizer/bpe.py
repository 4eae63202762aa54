"""Byte-level byte-pair encoding.

    text  --pattern-->  pieces  --UTF-8-->  bytes  --merges-->  tokens  --table-->  ids

The table, `ranks`, leads from the bytes of a token to its id. All 256 single bytes are in it, so any text has
ids and there is no "unknown" token. The id is also the rank: the lower, the earlier the token was learned and
the sooner it is merged. (Sennrich, Haddow and Birch 2016; on bytes: Radford et al. 2019, section 2.2.)
"""

import operator
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import regex

from ..backend import BACKENDS
from ..errors import InputError
from . import formats, sources
from .base import END_OF_TEXT, Tokenizer, check_text, clean, numbered
from .encode_file import encode_file
from .merging import merged
from .patterns import NAMED, compile_pattern, split
from .trainer import train_merges
from .training import FIRST_MERGE, TIE_BREAKS
from .twin import MOST_IDS, Twin
from .unicode import UNICODE_VERSION

CACHED_PIECES = 1 << 16         # the cache of encoded pieces is emptied when it holds so many,
CACHED_LENGTH = 32              # and takes no piece of more characters than this
TWIN_FROM = 1 << 20             # characters encoded, in all, from which on the compiled twin repays its loading


def merge(piece, ranks):
    """Ids of the tokens into which the bytes of `piece` merge.

    Of all adjacent parts whose joined bytes are a token, the two of lowest rank become one part, the leftmost
    first, as long as there are any.
    """
    return [ranks[part] for part in merged(piece, lambda i, j, k: ranks.get(piece[i:k]))]


class BytePairTokenizer(Tokenizer):
    """A byte-level BPE tokenizer.

    ranks           {bytes: id}, all 256 single bytes among them
    pattern         how text is cut into pieces: "gpt2", "cl100k", "o200k", "llama3", or a regular expression for the `regex` module
    special_tokens  {text: id}
    begins_with     one of these, which `encode` puts before each text, as Llama 3's does; or None
    backend         "numba" or "numpy", see below
    Ordinary ids have no hole among them; special ones may leave ids free (base.py). InputError otherwise.

    What follows in this class encodes in plain Python. For a named pattern there is a compiled twin, thirty times as
    fast, with the same ids (twin.py). Loading it takes about a second, and the first time on a machine compiling it takes
    some more; so it takes over once TWIN_FROM characters have been encoded or are about to be, or after `load_twin()`. With
    backend="numpy" it never does.
    """

    def __init__(self, ranks, pattern="gpt2", special_tokens=None, *, begins_with=None, backend="numba"):
        special_tokens = {} if special_tokens is None else special_tokens
        for byte in range(256):
            if bytes([byte]) not in ranks:
                raise InputError(f"every byte must be a token of its own, got none for {bytes([byte])!r}")
        super().__init__(ranks, special_tokens, begins_with)
        self.ranks = dict(ranks)
        self.pattern = pattern
        self._compiled = compile_pattern(pattern)
        self._cache = {}                # piece -> its ids
        if backend not in BACKENDS:
            raise InputError(f"backend must be one of {BACKENDS}, got {backend!r}")
        self.backend = backend
        self._twin, self._characters = None, 0

    @classmethod
    def train(cls, texts, vocab_size, *, pattern="gpt2", special_tokens=(END_OF_TEXT,), min_frequency=1,
              tie_break="smallest-id", backend="numba", threads=None, progress=None):
        """Learn a vocabulary from texts, in any order.

        texts           a string, which is a text; a pathlib.Path, which is a UTF-8 file, or a folder, of which the text
                        files count (.txt .md .rst .text); a file open for reading bytes; or an iterable of all these. Each
                        is a document of its own
        vocab_size      ids in all: 256 bytes, the merges in order of creation, the special tokens
        special_tokens  a sequence of names; the texts are cut where one stands, so nothing is learned from it
        min_frequency   a pair that occurs less often is not merged; with the default, 1, all of them may be
        tie_break       of pairs that occur equally often, which is merged: the one of the smallest (left id, right id), as
                        Hugging Face and rustbpe have it; or, "greatest-bytes", of the greatest (left bytes, right bytes)
        backend         "numba", compiled twins for long texts, or "numpy", plain Python; the result is the same
        threads         for the compiled twin (default: one a processor); the result is the same
        progress        called as progress("counting", bytes done, bytes in all or None), and then as
                        progress("merging", merges done, merges in all)

        Iterables and files may be larger than memory: what is kept are the distinct pieces and their counts. With a
        pattern of one's own a whole document is in memory at a time.

        When the texts hold too few pairs the vocabulary is smaller than asked, with a warning. InputError when there is no
        text, for a file that cannot be read or is not UTF-8, and when vocab_size leaves no room for the bytes and the
        special tokens.
        """
        single_bytes = [bytes([byte]) for byte in range(256)]
        untrained = cls(_numbered(single_bytes), pattern, numbered(special_tokens, FIRST_MERGE), backend=backend)
        limit = _at_least(untrained.n_vocab, "vocab_size (bytes, merges and special tokens)", vocab_size)
        limit -= untrained.n_vocab
        min_frequency = _at_least(1, "min_frequency", min_frequency)
        threads = None if threads is None else _at_least(1, "threads", threads)
        if tie_break not in TIE_BREAKS:
            raise InputError(f"tie_break must be one of {TIE_BREAKS}, got {tie_break!r}")
        documents = sources.documents(texts)
        merging = counting = None
        if progress is not None:
            total = sources.size(documents)
            counting, merging = (lambda done: progress("counting", done, total)), partial(progress, "merging")
        merges = train_merges(sources.stretches(documents, untrained.special_tokens, pattern in NAMED), limit, pattern,
                              min_frequency=min_frequency, tie_break=tie_break, backend=backend, threads=threads,
                              counting=counting, progress=merging)
        if merges is None:
            raise InputError("training needs at least one character, got none")
        tokens = list(single_bytes)
        for left, right in merges:
            tokens.append(tokens[left] + tokens[right])
        trained = cls(_numbered(tokens), pattern, numbered(untrained.special_tokens, len(tokens)), backend=backend)
        if trained.n_vocab < vocab_size:
            rest = "no pair is left" if min_frequency == 1 else f"no other pair occurs {min_frequency} times or more"
            warnings.warn(f"the vocabulary has {trained.n_vocab} tokens instead of {vocab_size}: {rest}; "
                          "train on more text for more",
                          stacklevel=2)
        return trained

    def load_twin(self):
        """Encode by the compiled twin from now on, if there is one: not for a pattern of one's own, nor with backend="numpy".

        Without Numba there is a warning, and all goes on in Python.
        """
        if self._twin is None and self.backend == "numba" and self.pattern in NAMED and self.n_vocab <= MOST_IDS:
            try:
                tokens = dict.fromkeys(range(self.n_vocab), b"") | {rank: token for token, rank in self.ranks.items()}
                self._twin = Twin(list(tokens.values()), self.special_tokens, self.pattern)
            except ImportError:
                self.backend = "numpy"
                warnings.warn("Numba is not installed, so texts are encoded in plain Python, thirty times slower: "
                              "pip install numba", stacklevel=2)

    def encode_to_numpy(self, text, *, threads=1, **special):
        """As `encode`: array (T,) of the smallest type that holds every id (see `dtype`).

        threads     for texts of millions of characters, by the twin; the ids are the same
        """
        return np.array(self._encode(text, threads=_at_least(1, "threads", threads), **special), dtype=self.dtype, copy=None)

    def encode_batch(self, texts, *, threads=1, **special):
        """As `encode` for each of several texts: a list of lists. threads: how many texts at a time, by the twin."""
        if _at_least(1, "threads", threads) == 1 or isinstance(texts, str):
            return super().encode_batch(texts, **special)
        with ThreadPoolExecutor(threads) as pool:
            return [ids.tolist() for ids in pool.map(lambda text: self.encode_to_numpy(text, **special), texts)]

    def encode_file(self, path_in, path_out, *, allowed_special=frozenset(), disallowed_special="all", threads=1,
                    progress=None):
        """Encode a text file into a token shard (numpyllm.shards); returns the number of ids.

        allowed_special, disallowed_special     as in `encode`
        threads                                 as in `encode_to_numpy`
        progress                                called as progress(bytes read, bytes in all) after each 2 MiB

        Bytes that are not UTF-8 are read as U+FFFD; newlines stay what they are. The file is read in chunks, cut between words
        where that changes no ids, so memory is bounded unless the text has no such place, or the pattern is one of your own,
        whose cuts cannot be known: then all of it is in memory at once. InputError, naming the file, if it cannot be read or
        written or holds a disallowed special token; a shard that was there then stays.
        """
        return encode_file(self, path_in, path_out, allowed_special=allowed_special, disallowed_special=disallowed_special,
                           threads=threads, progress=progress)

    def _encode(self, text, allowed_special=frozenset(), disallowed_special="all", begin=True, threads=1):
        check_text(text)
        if self._twin is None:
            self._characters += len(text)
            if self._characters >= TWIN_FROM:
                self.load_twin()
        if self._twin is None:
            return super()._encode(text, allowed_special, disallowed_special, begin)
        try:
            return self._twin.encode(self._stretches(text, allowed_special, disallowed_special, begin), self.dtype, threads)
        except UnicodeEncodeError:              # a surrogate, which is rare: to look for one takes as long as all the rest
            return self._twin.encode(self._stretches(clean(text), allowed_special, disallowed_special, begin), self.dtype, threads)

    def _encode_stretch(self, text, offset):
        ids, cache = [], self._cache
        for piece in split(self._compiled, text):
            known = cache.get(piece)
            ids += self._encode_piece(piece) if known is None else known
        return ids

    def _encode_piece(self, piece):
        data = piece.encode("utf-8")
        rank = self.ranks.get(data)     # a piece that is a token is that token, even if no merges lead to it
        ids = merge(data, self.ranks) if rank is None else [rank]
        if len(piece) <= CACHED_LENGTH:
            if len(self._cache) >= CACHED_PIECES:
                self._cache.clear()
            self._cache[piece] = ids
        return ids

    def merges(self):
        """The two tokens that each longer token is merged from, as a list of pairs of bytes in order of rank.

        There is only one such pair. As long as two neighbours cover the bytes of a token exactly, nothing has
        merged across its borders, so between them all went as it goes for these bytes alone. A token which
        merging never reaches, and which therefore stands for whole pieces only, is left out.
        """
        pairs, others = [], dict(self.ranks)
        for token, rank in sorted(self.ranks.items(), key=operator.itemgetter(1)):
            if len(token) > 1:
                del others[token]
                parts = merge(token, others)
                others[token] = rank
                if len(parts) == 2:
                    pairs.append(tuple(self.decode_tokens_bytes(parts)))
        return pairs

    @property
    def unicode_version(self):
        """Whose letters, numbers and white space the pattern means: of Unicode, or of `regex` for a pattern of one's own."""
        return f"Unicode {UNICODE_VERSION}" if self.pattern in NAMED else f"regex {regex.__version__}"

    def save(self, path, format="huggingface"):
        """Write a tokenizer.json, which gives the same ids in Hugging Face's `tokenizers`, or another of formats.FORMATS.

        "gpt2": vocab.json (or encoder.json) at this path and merges.txt (vocab.bpe) beside it, for GPT-2's pattern only;
        "tiktoken": ranks alone. Files are replaced whole or not at all. InputError if they cannot be written.
        """
        formats.write(path, self, format)

    @classmethod
    def load(cls, path, *, encoding=None, pattern=None, special_tokens=None):
        """Read a tokenizer.json, GPT-2's pair of files, a .tiktoken file, or the first of them in a folder.

        A .tiktoken file holds no pattern and no special tokens ({text: id}): they are given, or else an encoding that has
        them, such as "cl100k_base"; a file of that name needs neither. InputError, naming the file, for a broken one, and
        for anything that gives other ids in the library whose format it is.
        """
        vocabulary = formats.read(path, encoding=encoding, pattern=pattern, special_tokens=special_tokens)
        try:
            tokenizer = cls(vocabulary.ranks, vocabulary.pattern, vocabulary.special_tokens, begins_with=vocabulary.begins_with)
            formats.check(vocabulary, tokenizer, path)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return tokenizer

    def __getstate__(self):
        return self.__dict__ | {"_twin": None, "_cache": {}}      # a copy makes its own

    def __eq__(self, other):
        if not isinstance(other, BytePairTokenizer):
            return NotImplemented
        return (self.ranks == other.ranks and self.pattern == other.pattern
                and self.special_tokens == other.special_tokens and self.begins_with == other.begins_with)

    def __repr__(self):
        return (f"BytePairTokenizer(n_vocab={self.n_vocab}, pattern={self.pattern!r}, "
                f"special_tokens={self.special_tokens}"
                + (f", begins_with={self.begins_with!r})" if self.begins_with is not None else ")"))


def _numbered(tokens):
    return {token: i for i, token in enumerate(tokens)}


def _at_least(least, name, value):
    try:
        value = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be an integer, got {value!r}") from None
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
    return value
