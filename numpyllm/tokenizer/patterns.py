"""Pre-tokenisation: a text is cut into pieces, and no token ever reaches across a cut.

That keeps tokens to words, so that "dog", "dog." and "dog!" share one, and it keeps merging fast, since
pieces are short and most of them have been seen before. A pattern is a regular expression for the `regex`
module, whose matches are the pieces; tiktoken and Hugging Face use the same notation.
"""

from typing import NamedTuple

import regex

from ..errors import InputError
from .unicode import pinned

# Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2, and its code.
GPT2 = "|".join((
    r"'(?:s|t|re|ve|m|ll|d)",   # the endings of English contractions, in small letters only
    r" ?\p{L}+",                # a word: letters, with the space before them
    r" ?\p{N}+",                # a number, likewise
    r" ?[^\s\p{L}\p{N}]+",      # punctuation and all other signs, likewise
    r"\s+(?!\S)",               # a run of white space, less its last character, which is left to what follows
    r"\s+",                     # what white space remains: a newline or tab before a word
))

# GPT-4, as in tiktoken 0.14. A possessive ++ never gives back what it took; nothing else would match here either.
CL100K = "|".join((
    r"'(?i:[sdmt]|ll|ve|re)",                   # in capitals too; U+017F, the long s, is an s
    r"[^\r\n\p{L}\p{N}]?+\p{L}++",             # a word, with any one sign before it
    r"\p{N}{1,3}+",                             # digits by threes
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+",            # punctuation, with the newlines after it
    r"\s++$",                                   # white space at the end of the text
    r"\s*[\r\n]",                              # white space up to its last newline
    r"\s+(?!\S)",
    r"\s",
))

# Llama 3's, which is cl100k's as it was published first: white space at the end of a text is cut after its last newline.
LLAMA3 = "|".join((
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
))

# GPT-4o, likewise. Letters without case and marks may stand in both halves of a word.
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
CAPITALS, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = "|".join((
    rf"[^\r\n\p{{L}}\p{{N}}]?{CAPITALS}*{SMALL}+{CONTRACTION}",     # capitals, then small letters
    rf"[^\r\n\p{{L}}\p{{N}}]?{CAPITALS}+{SMALL}*{CONTRACTION}",     # capitals alone
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
))

NAMED = {"gpt2": GPT2, "cl100k": CL100K, "o200k": O200K, "llama3": LLAMA3}


class Pattern(NamedTuple):
    """A pattern ready for use."""
    compiled: regex.Pattern
    named: bool             # then it cuts the pinned text: see unicode.py


def compile_pattern(pattern):
    """The `Pattern` of a name in `NAMED`, or of a regular expression of the user's own.

    What a named one takes for a letter is fixed; to a user's own, \\p{L} is what the installed `regex` knows.

    InputError for an expression that does not compile, and for a mere word: that is a misspelt name.
    """
    if not isinstance(pattern, str):
        raise InputError(f"pattern must be a string, got {type(pattern).__name__}")
    if pattern not in NAMED and pattern.isidentifier():
        raise InputError(f"pattern must be one of {sorted(NAMED)} or a regular expression, got {pattern!r}")
    try:
        return Pattern(regex.compile(NAMED.get(pattern, pattern)), pattern in NAMED)
    except regex.error as error:
        raise InputError(f"pattern must be a regular expression, got {pattern!r}: {error}") from None


def split(pattern, text):
    """The pieces of a text, in order: what the `Pattern` matches, and what lies between two matches.

    So nothing is lost, whatever the pattern: joined, the pieces are the text.
    """
    end = 0
    for match in pattern.compiled.finditer(pinned(text) if pattern.named else text):
        start, stop = match.span()
        if start > end:
            yield text[end:start]
        if stop > start:
            yield text[start:stop]
        end = stop
    if end < len(text):
        yield text[end:]
