"""Twin of numpyllm.tokenizer.patterns: the named patterns, by hand, on UTF-8.

Each function gives the place in `data`, uint8 of valid UTF-8, where something that begins at `start` ends; no text is
seen from `stop` on. data and classes are arrays or, faster, pointers (_words.py). `classes` is
numpyllm.tokenizer.unicode.class_table(). What the patterns do step by step, giving back characters where a later part
needs them, is done here by looking ahead; the comments name the alternative that matches.
"""

import numpy as np

from ._jit import jit
from ._words import CASE, first_marked, load, not_between

GPT2, CL100K, O200K, LLAMA3 = range(4)
PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "o200k": O200K, "llama3": LLAMA3}
OTHER, WHITE, NUMBER, MARK, CAPITAL, SMALL, CASELESS = range(7)     # letters are the last three

SPACE, NEWLINE, RETURN, APOSTROPHE, SLASH = b" \n\r'/"


@jit
def character(data, i, classes):
    """Class of the character at i, and where the next one begins."""
    byte = data[i]
    if byte < 0x80:
        return classes[byte], i + 1
    if byte < 0xE0:
        return classes[(byte & 0x1F) << 6 | (data[i + 1] & 0x3F)], i + 2
    if byte < 0xF0:
        return classes[(byte & 0xF) << 12 | (data[i + 1] & 0x3F) << 6 | (data[i + 2] & 0x3F)], i + 3
    return classes[(byte & 7) << 18 | (data[i + 1] & 0x3F) << 12 | (data[i + 2] & 0x3F) << 6 | (data[i + 3] & 0x3F)], i + 4


@jit
def _letters_end(data, start, stop, classes):
    """[\\p{L}]*"""
    i = start
    while i < stop:
        if data[i] < 0x80 and i + 8 <= stop:
            skip = first_marked(not_between(load(data, i) | CASE, 97, 122))     # a to z
            i += skip
            if skip == 8:
                continue
            if data[i] < 0x80:
                return i
        kind, after = character(data, i, classes)
        if kind < CAPITAL:
            return i
        i = after
    return i


@jit
def _cased_word_end(data, start, stop, classes):
    """[capital, caseless, mark]*[small, caseless, mark]+ or, failing that, [capital, caseless, mark]+; start if neither."""
    i = start
    if i + 8 <= stop:                                   # ASCII: capitals, then small letters
        word = load(data, i)
        skip = first_marked(not_between(word, 65, 90))
        if skip < 8:
            ahead = not_between(word, 97, 122) >> np.uint64(8 * skip)
            skip += first_marked(ahead)
            if skip < 8 and data[i + skip] < 0x80:
                return i + skip
    divided = start         # after the last character so far that the second half can have as well
    while i < stop:
        kind, after = character(data, i, classes)
        if kind < MARK or kind == SMALL:
            break
        i = after
        if kind != CAPITAL:
            divided = i
    before = i
    while i < stop:
        if data[i] < 0x80 and i + 8 <= stop:
            skip = first_marked(not_between(load(data, i), 97, 122))
            i += skip
            if skip == 8:
                continue
            if data[i] < 0x80:
                break
        kind, after = character(data, i, classes)
        if kind < MARK or kind == CAPITAL:
            break
        i = after
    if i == before and divided > start:
        return divided
    return i


@jit
def _numbers_end(data, start, stop, most, classes):
    """[\\p{N}]{0,most}"""
    i = start
    while i < stop and most > 0:
        kind, after = character(data, i, classes)
        if kind != NUMBER:
            break
        i = after
        most -= 1
    return i


@jit
def _signs_end(data, start, stop, classes):
    """[^\\s\\p{L}\\p{N}]*"""
    i = start
    while i < stop:
        kind, after = character(data, i, classes)
        if kind != OTHER and kind != MARK:
            break
        i = after
    return i


@jit
def _white_end(data, start, stop, pattern, classes):
    """What is left to match once a run of white space has begun."""
    i = last = start
    line_end = start
    while i < stop:
        if data[i] == SPACE and i + 8 <= stop:
            skip = first_marked(not_between(load(data, i), SPACE, SPACE))
            last, i = i + skip - 1, i + skip
            if skip == 8:
                continue
        kind, after = character(data, i, classes)
        if kind != WHITE:
            break
        last, i = i, after
        if data[last] == NEWLINE or data[last] == RETURN:
            line_end = i
    if i == stop and (pattern == GPT2 or pattern == CL100K):
        return i                            # \s++$
    if line_end > start and pattern != GPT2:
        return line_end                     # \s*[\r\n]
    if i < stop and last > start:
        return last                         # \s+(?!\S)
    return i                                # \s+


@jit
def contraction_end(data, start, stop, any_case):
    """'(?:[sdmt]|ll|ve|re), after an apostrophe at `start`; `start` if it does not match."""
    if start + 1 >= stop:
        return start
    first = data[start + 1]
    second = data[start + 2] if start + 2 < stop else first & 0     # 0 of the same type
    if any_case:
        if first == 0xC5 and second == 0xBF:
            return start + 3                # U+017F, the long s
        first, second = first | 0x20, second | 0x20
    if first == 115 or first == 100 or first == 109 or first == 116:                                    # s d m t
        return start + 2
    if (first == 108 and second == 108) or ((first == 118 or first == 114) and second == 101):          # ll ve re
        return start + 3
    return start


@jit
def piece_end(data, start, stop, pattern, classes):
    """Where the piece ends that begins at `start` < `stop`. pattern: one of PATTERNS."""
    first = data[start]
    if first == APOSTROPHE and pattern != O200K:
        end = contraction_end(data, start, stop, pattern != GPT2)
        if end > start:
            return end
    kind, after = character(data, start, classes)
    following = WHITE
    if after < stop:
        following, _ = character(data, after, classes)
    lowest = MARK if pattern == O200K else CAPITAL      # from this class on, characters make words

    word = -1
    if kind >= lowest:
        word = start
    elif following >= lowest and (first == SPACE or
                                  pattern != GPT2 and kind != NUMBER and first != NEWLINE and first != RETURN):
        word = after
    if word >= 0:
        if pattern != O200K:
            return _letters_end(data, word, stop, classes)
        end = _cased_word_end(data, word, stop, classes)
        if end < stop and data[end] == APOSTROPHE:
            end = contraction_end(data, end, stop, True)
        return end

    if kind == NUMBER:
        return _numbers_end(data, start, stop, stop if pattern == GPT2 else 3, classes)
    if kind == WHITE:
        if first != SPACE or following == WHITE:
            return _white_end(data, start, stop, pattern, classes)
        if following == NUMBER:
            return _numbers_end(data, after, stop, stop, classes) if pattern == GPT2 else after
    end = _signs_end(data, after, stop, classes)
    if pattern != GPT2:
        while end < stop and (data[end] == NEWLINE or data[end] == RETURN or data[end] == SLASH and pattern == O200K):
            end += 1
    return end
