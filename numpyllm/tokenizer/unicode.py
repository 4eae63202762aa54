"""Letters, numbers, white space: what each character is, pinned to one version of Unicode.

Every version makes characters of code points that were nothing before, so a pattern with \\p{L} cuts some texts
differently once the library that reads it is upgraded, and a trained model sees other ids. The named patterns
therefore ask the table here, which is that of tiktoken. unicode_runs.py holds it, make_unicode_runs.py made it.
"""

import re
from functools import cache

import numpy as np

from .unicode_runs import RUNS, UNICODE_VERSION

__all__ = ["CLASSES", "CODE_POINTS", "UNICODE_VERSION", "class_table", "pinned"]

CODE_POINTS = 0x110000

# The classes that some pattern tells apart; the place in this string is the code of the class. In kernels/pretokenize.py
# they have the same codes.
#   O  other        W  white space      N  number (categories Nd Nl No)     M  mark (Mn Mc Me)
#   U  capital or title case letter (Lu Lt)     L  small letter (Ll)        A  letter without case (Lm Lo)
CLASSES = "OWNMULA"

# One character of each class, of which no version of Unicode will change the class.
EXAMPLES = "§\u00a0²\u0301Éé汉"
LONG_S = 0x17F          # the one character beyond ASCII that equals an ASCII letter of a contraction but for its case


@cache
def class_table():
    """(0x110000,) uint8: the class of each code point, as its place in `CLASSES`."""
    runs = re.findall(r"([A-Z])(\d*)", RUNS)
    codes = np.array([CLASSES.index(letter) for letter, _ in runs], dtype=np.uint8)
    table = np.repeat(codes, [int(length or 1) for _, length in runs])
    table.flags.writeable = False
    return table


def pinned(text):
    """The text with each character beyond ASCII replaced by one of its class, whose class is the same everywhere.

    A pattern that asks for nothing but these classes and ASCII characters cuts it where it cuts the text.
    """
    if text.isascii():
        return text
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    examples = np.array([ord(character) for character in EXAMPLES], dtype="<u4")
    plain = (codes < 128) | (codes == LONG_S)
    return np.where(plain, codes, examples[class_table()[codes]]).tobytes().decode("utf-32-le")
