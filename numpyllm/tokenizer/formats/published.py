"""What others have published and files refer to: OpenAI's encodings by name, and the spellings of the named patterns.

Source of both: tiktoken's openai_public.py; of GPT-2's pattern also the code of Radford et al. (2019).
"""

from typing import NamedTuple


class Encoding(NamedTuple):
    pattern: str
    n_ranks: int            # lines of its .tiktoken file
    special_tokens: dict    # {text: id}


_GPT2 = Encoding("gpt2", 50_256, {"<|endoftext|>": 50_256})
ENCODINGS = {
    "gpt2": _GPT2,
    "r50k_base": _GPT2,
    "cl100k_base": Encoding("cl100k", 100_256, {
        "<|endoftext|>": 100_257, "<|fim_prefix|>": 100_258, "<|fim_middle|>": 100_259, "<|fim_suffix|>": 100_260,
        "<|endofprompt|>": 100_276}),
    "o200k_base": Encoding("o200k", 199_998, {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}),
}

# The same pieces in other words. The first of each is the one that we write into a tokenizer.json, whose readers use
# Oniguruma: there "{1,3}+" is no possessive count but a repeated one, and "$" is the end of a line.
SPELLINGS = {
    "gpt2": (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    ),
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s++\z|\s*[\r\n]|\s+(?!\S)|\s",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "llama3": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}
NAME_OF = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}

# Every character of any text is in a match of these, so a file may say as well that what is between matches is dropped.
COVERING = set(NAME_OF)
