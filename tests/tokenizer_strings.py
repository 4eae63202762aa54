"""Strings that tell a right tokenizer from a nearly right one, and the vocabularies to try them on."""

import base64

NASTY = [
    "", " ", "\n", "'", "rer", "'rer", "I'll, we've, DON'T, it's", "'s't'd'm're've'll",
    *("0" * n for n in range(1, 18)),
    "today\n ", "today\n \n", "today\n  \n", "a \n  ", "a\r\nb", "\r\n\r\n x", "Hello there       dear",
    "  two spaces", "\tx", "\t\tx", " \t x", " \x850", "\x1c\x1d a\x1f", "\u00a0x", "\u2009\u2028\u3000x",
    "a\u017fb '\u017f", "\ufeffbyte order mark", "nul\0nul",
    "\U0001f44d", "\ud83d\udc4d", "\ud83d", "x\udc4d\ud83dy",          # thumbs up: whole, as a pair, halves
    "e\u0301le\u0300ve n\u0303", "தமிழ் வணக்கம்", "안녕하세요 세계", "汉字和標點，。", "ქართული ენა", "Ⅷ ½ ²³ ٣",
    "aaabdaaabac", "<|endoftext", "|endoftext|>",
    *(sign * 1000 for sign in "^0a' \n"),
]


def with_bytes(*tokens):
    """Ranks of the 256 bytes, each its own id, and then these tokens."""
    return {token: i for i, token in enumerate([*(bytes([byte]) for byte in range(256)), *tokens])}


def gpt2_ranks(data_dir):
    """The vocabulary of GPT-2, from its rank file. The ids of its bytes are not the byte values."""
    lines = (data_dir / "gpt2" / "gpt2.tiktoken").read_text().split("\n")
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
