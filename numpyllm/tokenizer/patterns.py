"""Pre-tokenisation: a text is cut into pieces, and no token ever reaches across a cut.

That keeps tokens to words, so that "dog", "dog." and "dog!" share one, and it keeps merging fast, since
pieces are short and most of them have been seen before. A pattern is a regular expression for the `regex`
module, whose matches are the pieces; tiktoken and Hugging Face use the same notation.
"""

import regex

from ..errors import InputError

# Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2, and its code.
GPT2 = "|".join((
    r"'(?:s|t|re|ve|m|ll|d)",   # the endings of English contractions, in small letters only
    r" ?\p{L}+",                # a word: letters, with the space before them
    r" ?\p{N}+",                # a number, likewise
    r" ?[^\s\p{L}\p{N}]+",      # punctuation and all other signs, likewise
    r"\s+(?!\S)",               # a run of white space, less its last character, which is left to what follows
    r"\s+",                     # what white space remains: a newline or tab before a word
))

NAMED = {"gpt2": GPT2}


def compile_pattern(pattern):
    """The compiled form of a pattern: a name in `NAMED`, or a regular expression of the user's own.

    InputError for an expression that does not compile, and for a mere word: that is a misspelt name.
    """
    if not isinstance(pattern, str):
        raise InputError(f"pattern must be a string, got {type(pattern).__name__}")
    if pattern not in NAMED and pattern.isidentifier():
        raise InputError(f"pattern must be one of {sorted(NAMED)} or a regular expression, got {pattern!r}")
    try:
        return regex.compile(NAMED.get(pattern, pattern))
    except regex.error as error:
        raise InputError(f"pattern must be a regular expression, got {pattern!r}: {error}") from None


def split(compiled, text):
    """The pieces of a text, in order: what the pattern matches, and what lies between two matches.

    So nothing is lost, whatever the pattern: joined, the pieces are the text.
    """
    end = 0
    for match in compiled.finditer(text):
        start, stop = match.span()
        if start > end:
            yield text[end:start]
        if stop > start:
            yield match[0]
        end = stop
    if end < len(text):
        yield text[end:]
