"""Lists of merges, as files hold them beside the vocabulary: is merging by the list merging by rank, as here?"""

from itertools import zip_longest

from ...errors import InputError
from ...files import short
from .byte_characters import text_to_token


def parse_merge(entry, ranks):
    """Two tokens, bytes, from "left right" or ["left", "right"] in byte-level characters."""
    match entry.split(" ") if isinstance(entry, str) else entry:
        case [str(left), str(right)]:
            left, right = text_to_token(left), text_to_token(right)
        case _:
            raise InputError(f'a merge must be "left right" or ["left", "right"], got {short(entry)}')
    for token in (left, right, left + right):
        if token not in ranks:
            raise InputError(f"merges must name tokens of the vocabulary, got {token!r} in {short(entry)}")
    return left, right


def check_merges(ranks, needed, listed, whole_pieces):
    """That merging by the listed pairs in their order, as a file means it, is merging by rank, as here.

    needed          pairs of bytes that merging by rank uses: BytePairTokenizer.merges
    listed          those of the file; any beyond the needed ones do no harm, as these pairs never meet
    whole_pieces    whether the file spares a piece that is a token from merging, as we always do
    """
    missing = set(needed).difference(listed)
    if missing:
        raise InputError(f"merges must lead to each token, {min(missing)} is missing")
    usable = set(needed)
    for got, due in zip_longest((pair for pair in listed if pair in usable), needed):
        if got != due:
            raise InputError(f"merges must stand once each, in the order of the ids made, {got} does not")
    reached = {left + right for left, right in needed}
    stranded = [token for token in ranks if len(token) > 1 and token not in reached]
    if stranded and not whole_pieces:
        raise InputError("merges must lead to each token unless ignore_merges is true, none does to "
                         f"{stranded[0]!r}")
