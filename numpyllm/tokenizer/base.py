"""What every tokenizer does, whatever its tokens are: special tokens, ids in and out, decoding.

The manners are tiktoken's. A *special token* such as <|endoftext|> is a control sign, not text: where its
spelling turns up in a text, `encode` refuses unless told what to do, because a stranger's text must not end
our documents.

A tokenizer derives from `Tokenizer`, hands it the bytes of each token and defines `_encode_stretch`.
"""

import hashlib
import json
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from ..errors import InputError

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(ABC):
    """Text to ids and back, over a table of tokens.

    tokens          {bytes: id}
    special_tokens  {text: id}; kept as the attribute of this name
    No two share an id. Ids have no hole up to the last of `tokens`; beyond it, among the special tokens, they may,
    as those of cl100k_base and o200k_base do: such an id is below n_vocab and cannot be decoded. InputError otherwise.
    """

    pattern = None      # how a text is cut into pieces first, if it is

    def __init__(self, tokens, special_tokens):
        if not isinstance(special_tokens, dict):
            raise InputError(f"special_tokens must be a dict of ids by name, got {special_tokens!r}")
        for text in special_tokens:
            if not isinstance(text, str) or not text or clean(text) != text:
                raise InputError(f"a special token must be a string, not empty, no surrogates, got {text!r}")
            if text.encode("utf-8") in tokens:
                raise InputError(f"a special token must not be spelt like an ordinary one, got {text!r}")
        self.special_tokens = dict(special_tokens)
        special_bytes = {text.encode("utf-8"): i for text, i in special_tokens.items()}
        self._bytes_of = _in_order_of_ids(tokens, special_bytes)      # list: id -> bytes, None at a hole

    @abstractmethod
    def _encode_stretch(self, text, offset):
        """Ids of `text`, which holds no special token and began at character `offset` of the user's text."""

    @property
    def n_vocab(self):
        """The highest id plus one: the number of ids, special tokens (and holes between them) included."""
        return len(self._bytes_of)

    @property
    def dtype(self):
        """The smallest unsigned NumPy type for these ids: uint16 up to 65,536 of them, uint32 beyond."""
        return np.dtype(np.uint16 if self.n_vocab <= 65_536 else np.uint32)

    @property
    def sha256(self):
        """Of tokens, pattern and special tokens, as 64 hexadecimal digits: what token shards record of their tokenizer.

        Equal for equal tokenizers, whatever file they came from.
        """
        special_ids = set(self.special_tokens.values())
        hasher = hashlib.sha256(json.dumps(self.pattern).encode())
        for i, token in enumerate(self._bytes_of):
            if token is not None:
                hasher.update(b"%d %d %d %s" % (i, i in special_ids, len(token), token))
        return hasher.hexdigest()

    @property
    def special_tokens_set(self):
        """The spellings of the special tokens."""
        return set(self.special_tokens)

    @property
    def eot_token(self):
        """Id of <|endoftext|>, None if the vocabulary has none."""
        return self.special_tokens.get(END_OF_TEXT)

    @property
    def token_byte_lengths(self):
        """(n_vocab,) int64: bytes of text behind each id, 0 for special tokens and holes. For bits per byte."""
        lengths = np.array([len(token or b"") for token in self._bytes_of], dtype=np.int64)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    def encode(self, text, *, allowed_special=frozenset(), disallowed_special="all"):
        """The ids of a text, as a list.

        allowed_special     special tokens to recognise in the text: a collection of their spellings, or "all"
        disallowed_special  those whose spelling is an InputError: a collection, or "all" for all not allowed
        A special token in neither is encoded as ordinary text. Where several fit, the longest counts. A lone
        surrogate, which is no character, is read as U+FFFD.
        """
        allowed = self._specials(allowed_special, "allowed_special")
        disallowed = self._specials(disallowed_special, "disallowed_special")
        if isinstance(disallowed_special, str):
            disallowed -= allowed
        stretches = list(cut(clean(text), allowed | disallowed))
        for offset, stretch, special in stretches:
            if special and stretch in disallowed:
                raise InputError(
                    f"the text must not contain the special token {stretch!r}, found at character {offset}; "
                    f"pass allowed_special={{{stretch!r}}} to encode it as that token, or "
                    "disallowed_special=() to encode it as ordinary text")
        ids = []
        for offset, stretch, special in stretches:
            if special:
                ids.append(self.special_tokens[stretch])
            else:
                ids += self._encode_stretch(stretch, offset)
        return ids

    def encode_ordinary(self, text):
        """The ids of a text in which nothing is special, as a list."""
        return self._encode_stretch(clean(text), 0)

    def encode_to_numpy(self, text, **special):
        """As `encode`: array (T,) of the smallest type that holds every id (see `dtype`)."""
        return np.array(self.encode(text, **special), dtype=self.dtype)

    def encode_batch(self, texts, **special):
        """As `encode` for each of several texts: a list of lists."""
        if isinstance(texts, str):
            raise InputError("encode_batch needs an iterable of strings, got one string; use encode for that")
        return [self.encode(text, **special) for text in texts]

    def decode_tokens_bytes(self, ids):
        """The bytes behind each id, as a list. ids: integers, or a one-dimensional integer array.

        InputError for anything that is no id of this vocabulary.
        """
        if isinstance(ids, np.ndarray):
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise InputError(f"ids must be a one-dimensional array of integers, got {ids.dtype} "
                                 f"of shape {ids.shape}; decode one sequence at a time")
            ids = ids.tolist()
        if not isinstance(ids, Iterable):
            raise InputError(f"ids must be a sequence of integers, got {ids!r}; pass [{ids!r}] for one id")
        return [self._token(i, position) for position, i in enumerate(ids)]

    def decode_bytes(self, ids):
        """The bytes behind a sequence of ids, exactly. Errors as `decode_tokens_bytes`."""
        return b"".join(self.decode_tokens_bytes(ids))

    def decode(self, ids):
        """The text behind a sequence of ids; bytes that are not UTF-8 become U+FFFD.

        A token may hold part of a character: decode the sequence, not its tokens one by one. Errors as
        `decode_tokens_bytes`.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def _token(self, i, position):
        try:
            i = operator.index(i)
        except TypeError:
            raise InputError(f"ids must be integers, got {i!r} at position {position}") from None
        if not 0 <= i < self.n_vocab:       # a negative one would count from the end of the list
            raise InputError(f"ids must be from 0 to {self.n_vocab - 1}, got {i} at position {position}; "
                             "was this sequence made with another tokenizer?")
        token = self._bytes_of[i]
        if token is None:
            raise InputError(f"ids must be those of tokens, got {i} at position {position}, which this vocabulary leaves free; "
                             "was this sequence made with another tokenizer?")
        return token

    def _specials(self, names, argument):
        if isinstance(names, str):
            if names != "all":
                raise InputError(f'{argument} must be "all" or a collection of special tokens, got the '
                                 f"string {names!r}; write {{{names!r}}} for one token")
            return self.special_tokens_set
        unknown = sorted(set(names) - self.special_tokens_set)
        if unknown:
            raise InputError(f"{argument} must name special tokens of this tokenizer, which has "
                             f"{sorted(self.special_tokens)}; got {unknown[0]!r}")
        return set(names)


def clean(text):
    """The text without surrogates: a pair becomes the character it stands for, a lone one U+FFFD."""
    if not isinstance(text, str):
        raise InputError(f"a text must be a string, got {type(text).__name__}")
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def cut(text, special):
    """Cut a text at these special tokens: (offset, stretch, is it special) one after the other, in order.

    Where several special tokens begin at the same character, the longest is taken. Stretches may be empty.
    """
    end = 0
    if special:
        longest_first = sorted(special, key=len, reverse=True)
        for match in re.finditer("|".join(map(re.escape, longest_first)), text):
            yield end, text[end:match.start()], False
            yield match.start(), match[0], True
            end = match.end()
    yield end, text[end:], False


def documents(texts):
    """The texts to train on, cleaned: one string, or an iterable of strings."""
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise InputError(f"training needs a string or an iterable of strings, got {type(texts).__name__}")
    return map(clean, [texts] if isinstance(texts, str) else texts)


def numbered(special_tokens, first):
    """{name: id} for names in a sequence, ids counted from `first`."""
    if isinstance(special_tokens, str):
        raise InputError(f"special_tokens must be a sequence of names, got the string {special_tokens!r}; "
                         f"write ({special_tokens!r},) for one")
    table = {}
    for name in special_tokens:
        if name in table:
            raise InputError(f"special_tokens must be distinct, got {name!r} twice")
        table[name] = first + len(table)
    return table


def _in_order_of_ids(tokens, special_tokens):
    """The bytes of each id, from two tables {bytes: id}, None at a hole. InputError for ids that are out of order."""
    owner = {}
    for token, i in (*tokens.items(), *special_tokens.items()):
        if type(i) is not int or i < 0:
            raise InputError(f"ids must be Python integers from 0 on, got {i!r} for the token {token!r}")
        if i in owner:
            raise InputError(f"ids must be distinct, got {i} for both {owner[i]!r} and {token!r}")
        owner[i] = token
    last = max(tokens.values(), default=-1)
    for i in range(min(last, len(owner))):
        if i not in owner:
            raise InputError(f"ids must have no hole, got {len(owner)} tokens with ids up to {max(owner)} "
                             f"but none with id {i}")
    n_vocab = max(owner, default=-1) + 1
    if n_vocab > 2 * len(owner):            # an id of a thousand million would take as many places in our list
        raise InputError(f"at least half of all ids must be tokens, got {len(owner)} tokens with ids up to {n_vocab - 1}")
    return [owner.get(i) for i in range(n_vocab)]
