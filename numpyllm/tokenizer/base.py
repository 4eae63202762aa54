"""What every tokenizer does, whatever its tokens are: special tokens, ids in and out, decoding.

The manners are tiktoken's. A *special token* such as <|endoftext|> is a control sign, not text: where its
spelling turns up in a text, `encode` refuses unless told what to do, because a stranger's text must not end
our documents.

A tokenizer derives from `Tokenizer`, hands it the bytes of each token and defines `_encode_stretch`.
"""

import codecs
import hashlib
import json
import operator
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property

import numpy as np

from ..errors import InputError

END_OF_TEXT = "<|endoftext|>"
ENDS = END_OF_TEXT, "<|end_of_text|>"       # OpenAI's spelling, Llama 3's


class SpecialTokenInText(InputError):
    """A text contains the spelling of a special token, `token`, from character `offset` on, and nobody allowed it."""

    def __init__(self, token, offset, name="the text"):
        self.token, self.offset = token, offset
        super().__init__(f"{name} must not contain the special token {token!r}, found at character {offset}; "
                         f"pass allowed_special={{{token!r}}} to encode it as that token, or "
                         "disallowed_special=() to encode it as ordinary text")


class Tokenizer(ABC):
    """Text to ids and back, over a table of tokens.

    tokens          {bytes: id}
    special_tokens  {text: id}; kept as the attribute of this name
    begins_with     that of them which stands before each text, or None; kept likewise
    No two share an id. Ids have no hole up to the last of `tokens`; beyond it, among the special tokens, they may,
    as those of cl100k_base and o200k_base do: such an id is below n_vocab and cannot be decoded. InputError otherwise.
    """

    pattern = None      # how a text is cut into pieces first, if it is

    def __init__(self, tokens, special_tokens, begins_with=None):
        if not isinstance(special_tokens, dict):
            raise InputError(f"special_tokens must be a dict of ids by name, got {special_tokens!r}")
        for text in special_tokens:
            if not isinstance(text, str) or not text or clean(text) != text:
                raise InputError(f"a special token must be a string, not empty, no surrogates, got {text!r}")
            if text.encode("utf-8") in tokens:
                raise InputError(f"a special token must not be spelt like an ordinary one, got {text!r}")
        if begins_with is not None and begins_with not in special_tokens:
            raise InputError(f"begins_with must be one of the special tokens {sorted(special_tokens)}, got {begins_with!r}")
        self.special_tokens, self.begins_with = dict(special_tokens), begins_with
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
    def max_token_value(self):
        """The highest id."""
        return self.n_vocab - 1

    @property
    def dtype(self):
        """The smallest unsigned NumPy type for these ids: uint16 up to 65,536 of them, uint32 beyond."""
        return np.dtype(np.uint16 if self.n_vocab <= 65_536 else np.uint32)

    @property
    def sha256(self):
        """Of tokens, pattern, special tokens and begins_with, as 64 hexadecimal digits: what token shards record of their tokenizer.

        Equal for equal tokenizers, whatever file they came from.
        """
        special_ids = set(self.special_tokens.values())
        hasher = hashlib.sha256(json.dumps(self.pattern).encode())
        if self.begins_with is not None:
            hasher.update(json.dumps({"begins_with": self.begins_with}).encode())
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
        """Id of <|endoftext|>, or of Llama 3's <|end_of_text|>; None if the vocabulary has neither."""
        return next((self.special_tokens[text] for text in ENDS if text in self.special_tokens), None)

    @property
    def token_byte_lengths(self):
        """(n_vocab,) int64: bytes of text behind each id, 0 for special tokens and holes. For bits per byte."""
        lengths = np.array([len(token or b"") for token in self._bytes_of], dtype=np.int64)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    def encode(self, text, *, allowed_special=frozenset(), disallowed_special="all", begin=True):
        """The ids of a text, as a list.

        allowed_special     special tokens to recognise in the text: a collection of their spellings, or "all"
        disallowed_special  those whose spelling is an InputError: a collection, or "all" for all not allowed
        begin               put `begins_with` first, if there is such a token and the text does not begin with it; False for what
                            continues another text
        A special token in neither is encoded as ordinary text. Where several fit, the longest counts. A lone
        surrogate, which is no character, is read as U+FFFD.
        """
        return _listed(self._encode(text, allowed_special, disallowed_special, begin))

    def encode_ordinary(self, text):
        """The ids of a text in which nothing is special, as a list; nothing is put before them."""
        return _listed(self._encode(text, disallowed_special=(), begin=False))

    def encode_to_numpy(self, text, **special):
        """As `encode`: array (T,) of the smallest type that holds every id (see `dtype`)."""
        return np.array(self._encode(text, **special), dtype=self.dtype)

    def _encode(self, text, allowed_special=frozenset(), disallowed_special="all", begin=True):
        """As `encode`, but a list or an array."""
        ids = []
        for offset, stretch, special in self._stretches(clean(text), allowed_special, disallowed_special, begin):
            if special:
                ids.append(self.special_tokens[stretch])
            else:
                ids += self._encode_stretch(stretch, offset)
        return ids

    def _stretches(self, text, allowed_special, disallowed_special, begin):
        """The text cut at its special tokens as `cut` does, `begins_with` among them; InputError if one is not to be there."""
        allowed = self._specials(allowed_special, "allowed_special")
        disallowed = self._specials(disallowed_special, "disallowed_special")
        if isinstance(disallowed_special, str):
            disallowed -= allowed
        stretches = list(cut(text, allowed | disallowed))
        for offset, stretch, special in stretches:
            if special and stretch in disallowed:
                raise SpecialTokenInText(stretch, offset)
        if begin and self.begins_with is not None and (0, self.begins_with, True) not in stretches[:2]:     # the first may be empty
            stretches.insert(0, (0, self.begins_with, True))
        return stretches

    def encode_batch(self, texts, **special):
        """As `encode` for each of several texts: a list of lists."""
        if isinstance(texts, str):
            raise InputError("encode_batch needs an iterable of strings, got one string; use encode for that")
        return [self.encode(text, **special) for text in texts]

    def encode_ordinary_batch(self, texts):
        """As `encode_ordinary` for each of several texts: a list of lists."""
        return self.encode_batch(texts, disallowed_special=())

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
        ids = list(ids)
        try:
            tokens = [self._bytes_of[i] for i in ids]
            if None not in tokens and min(ids, default=0) >= 0:     # a negative one counts from the end of the list
                return tokens
        except (TypeError, IndexError):
            pass
        return [self._token(i, position) for position, i in enumerate(ids)]     # finds the bad one

    def decode_single_token_bytes(self, i):
        """The bytes behind one id. Errors as `decode_tokens_bytes`."""
        return self.decode_tokens_bytes([i])[0]

    def decode_bytes(self, ids):
        """The bytes behind a sequence of ids, exactly. Errors as `decode_tokens_bytes`."""
        return b"".join(self.decode_tokens_bytes(ids))

    def decode(self, ids, errors="replace"):
        """The text behind a sequence of ids; bytes that are not UTF-8 become U+FFFD, or what `errors` says (bytes.decode).

        A token may hold part of a character: decode the sequence, not its tokens one by one, or use `decode_stream`. Errors
        as `decode_tokens_bytes`.
        """
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_stream(self, ids):
        """The text behind ids that come one by one: a generator of strings, not empty, which joined are that of `decode`.

        It holds back the beginning of a character until the rest has come, and never gives half of one.
        """
        decoder = self.stream_decoder()
        for i in ids:
            if text := decoder.feed([i]):
                yield text
        if text := decoder.flush():
            yield text

    def stream_decoder(self):
        """A StreamDecoder, for who feeds ids by hand."""
        return StreamDecoder(self)

    def decode_with_offsets(self, ids):
        """The text and, for each id, the place in it of the first character that the token has a byte of.

        UnicodeDecodeError if the bytes are not UTF-8.
        """
        offsets, n = [], 0
        tokens = self.decode_tokens_bytes(ids)
        for token in tokens:
            inside = token[:1] and token[0] & 0xC0 == 0x80      # begins within a character, the last one so far
            offsets.append(max(0, n - bool(inside)))
            n += sum(byte & 0xC0 != 0x80 for byte in token)
        return b"".join(tokens).decode("utf-8"), offsets

    def decode_batch(self, batch, errors="replace"):
        """As `decode` for each of several sequences: a list of strings."""
        return [self.decode(ids, errors) for ids in batch]

    def decode_bytes_batch(self, batch):
        """As `decode_bytes` for each of several sequences: a list of bytes."""
        return [self.decode_bytes(ids) for ids in batch]

    def encode_single_token(self, token):
        """The id of one token, ordinary or special, as text or bytes. InputError if there is no such token."""
        token_bytes = token.encode("utf-8") if isinstance(token, str) else token
        if token_bytes not in self._id_of_bytes:
            raise InputError(f"this must be one token of the vocabulary, got {token!r}; use encode for a text")
        return self._id_of_bytes[token_bytes]

    @cached_property
    def _id_of_bytes(self):
        return {token: i for i, token in enumerate(self._bytes_of) if token is not None}

    def is_special_token(self, i):
        """Whether this id is that of a special token."""
        return i in self.special_tokens.values()

    def token_byte_values(self):
        """The bytes of all ordinary tokens, as a sorted list."""
        special_ids = set(self.special_tokens.values())
        return sorted(token for i, token in enumerate(self._bytes_of) if token is not None and i not in special_ids)

    def _token(self, i, position):
        try:
            i = operator.index(i)
        except TypeError:
            raise InputError(f"ids must be integers, got {i!r} at position {position}") from None
        if not 0 <= i < self.n_vocab:
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


class StreamDecoder:
    """Ids in, text out, as it comes: `feed` some ids, print what it returns, and at the end `flush`."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids):
        """The text that is certain now: all but a character of which the last bytes are still to come.

        Errors as `Tokenizer.decode`; the ids of the call are not taken then.
        """
        return self._utf8.decode(self._tokenizer.decode_bytes(ids))

    def flush(self):
        """U+FFFD if the ids ended within a character, else nothing. The decoder can be used anew."""
        return self._utf8.decode(b"", final=True)


def check_text(text):
    """InputError unless it is a string."""
    if not isinstance(text, str):
        raise InputError(f"a text must be a string, got {type(text).__name__}")


def clean(text):
    """The text without surrogates: a pair becomes the character it stands for, a lone one U+FFFD."""
    check_text(text)
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _listed(ids):
    return ids if isinstance(ids, list) else ids.tolist()


def cut(text, special):
    """Cut a text at these special tokens: (offset, stretch, is it special) one after the other, in order.

    Where several special tokens begin at the same character, the longest is taken. Stretches may be empty.
    """
    end = 0
    begin = os.path.commonprefix([*special])
    # Each of these searches is many times faster than the next, and mostly one says no: few texts have a "|".
    if special and all(character in text for character in begin) and begin in text:
        longest_first = sorted(special, key=len, reverse=True)
        for match in re.finditer("|".join(map(re.escape, longest_first)), text):
            yield end, text[end:match.start()], False
            yield match.start(), match[0], True
            end = match.end()
    yield end, text[end:], False


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
