"""As pretokenize.py, but 64 bytes at a time: one mask for each class of character, and a few operations on words of 64 bits.

A mask has bit i for the byte at base + i; so `letters << 1` are the bytes that follow a letter. Adding makes a carry run up
a run of ones: `run + first`, where `first` is the lowest bit of some runs in `run`, has zeros in place of these runs and a one
behind each.
"""

import numpy as np

from ._jit import jit, jit_inlined
from ._words import HIGH, between, leading_zeros, load, pointer, trailing_zeros
from .pretokenize import APOSTROPHE, GPT2, NEWLINE, O200K, RETURN, SLASH, SPACE, contraction_end, piece_end

SIZE = 64
ONE = np.uint64(1)
NONE, ALL = np.uint64(0), ~np.uint64(0)


@jit
def _lowest(mask):
    """The lowest bit that is set, alone."""
    return mask & (~mask + ONE)


@jit
def _begun(run, first):
    """All bits of those runs of ones in `run` of which `first` has the lowest bit."""
    return run & ~(run + first)


@jit
def _number_starts(digits):
    """Every third digit of each run, from its first on."""
    starts = found = digits & ~(digits << ONE)
    fourth = digits & (digits << ONE)
    fourth &= fourth << np.uint64(2)
    while found:
        found = (found << np.uint64(3)) & fourth
        starts |= found
    return starts


@jit
def _after_lines(blanks, newlines):
    """The blanks (white space but newlines) that follow a newline, unless another newline ends their run."""
    starts = blanks & (newlines << ONE)
    others = (blanks + starts) & ~blanks & newlines
    while others:
        before = ~blanks & (_lowest(others) - ONE)
        starts &= ~(ONE << np.uint64(64 - leading_zeros(before)))
        others &= others - ONE
    return starts


@jit_inlined
def starts_in_window(data, base, stop, pattern):
    """Where pieces begin in data[base:base + 64], which must exist: a bit each.

    At `base` one must begin; its bit is not set. Those at the end of the window are left out if what is beyond, or a character
    that is not ASCII, may change them.
    """
    small, capitals = between(data, base, 97, 122), between(data, base, 65, 90)
    digits, spaces = between(data, base, 48, 57), between(data, base, SPACE, SPACE)
    white = spaces | between(data, base, 9, 13)
    beyond, apostrophes = between(data, base, 128, 255), between(data, base, APOSTROPHE, APOSTROPHE)
    letters = small | capitals
    signs = ~(letters | digits | white | beyond)

    sure = ~beyond & (beyond - ONE)             # up to the first that is not ASCII
    visible = sure & ~white
    if visible == 0:
        return NONE
    sure &= ALL >> np.uint64(leading_zeros(visible)) << ONE     # and of white space at the end only the first

    if pattern == GPT2:
        inside = letters & (letters << ONE) | digits & (digits << ONE) | signs & (signs << ONE)
        starts = ~(white | inside | (spaces << ONE)) | white & ~((white << ONE) & (white >> ONE))
        endings = apostrophes & (starts | ONE)
    else:
        newlines = between(data, base, NEWLINE, NEWLINE) | between(data, base, RETURN, RETURN)
        blanks = white & ~newlines
        alone = signs & ~((signs | spaces) << ONE)
        words = letters & ~((letters | alone | blanks) << ONE)
        taken = _begun(newlines, newlines & (signs << ONE))
        rest = white & ~taken
        starts = (words | alone | _number_starts(digits) | rest & ~(rest << ONE) | blanks & ~(white >> ONE)
                  | _after_lines(blanks, newlines))
        endings = apostrophes & alone
        if pattern == O200K:
            starts |= capitals & (small << ONE)
            endings = apostrophes & (letters << ONE)
            after = signs & (taken << ONE)
            if after:                           # of these signs, slashes are taken as well
                after &= between(data, base, SLASH, SLASH)
                sure &= ~after & (after - ONE)
    while endings:
        i = trailing_zeros(endings)
        if i > SIZE - 4:
            sure &= (ONE << np.uint64(i)) - ONE
            break
        endings &= endings - ONE
        end = contraction_end(data, base + i, stop, pattern != GPT2) - base
        if end > i:
            first = np.uint64(i) if pattern == O200K else np.uint64(i + 1)
            end_bit = ONE << np.uint64(end)
            starts = starts & ~(end_bit - (ONE << first)) | end_bit
            if pattern == O200K:
                endings &= ~end_bit
    return starts & sure & ~ONE


@jit
def begins_in_ascii(data, start, stop):
    """Whether a window is worth looking at: it exists, and its first sixteen bytes are ASCII."""
    return start + SIZE <= stop and (load(data, start) | load(data, start + 8)) & HIGH == 0


@jit
def boundaries(data, pattern, classes):
    """(pieces + 1,) int64: where each piece begins, and the end of the text."""
    n = len(data)
    places = np.empty(n + 1, np.int64)
    places[0] = start = count = 0
    text, kinds = pointer(data), pointer(classes)
    while start < n:
        base, starts = start, NONE
        if begins_in_ascii(text, start, n):
            starts = starts_in_window(text, base, n, pattern)
        if starts == 0:
            start = piece_end(text, start, n, pattern, kinds)
            count += 1
            places[count] = start
        while starts:
            start = base + trailing_zeros(starts)
            count += 1
            places[count] = start
            starts &= starts - ONE
    return places[:count + 1].copy()
