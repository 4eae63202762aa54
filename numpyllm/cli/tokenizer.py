"""numpyllm tokenizer: train one, encode and decode with it, look into it, convert it."""

import argparse
import difflib
import json
import os
import shlex
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from ..backend import BACKENDS
from ..data import load_text
from ..errors import InputError
from ..files import read_bytes, replacing
from ..progress import Progress
from ..shards import ShardWriter, header_path, open_shard
from ..tokenizer import BytePairTokenizer, load
from ..tokenizer.base import END_OF_TEXT, SpecialTokenInText
from ..tokenizer.encode_file import encode_blocks
from ..tokenizer.formats import FORMATS, detect
from ..tokenizer.formats.published import ENCODINGS
from ..tokenizer.training import TIE_BREAKS
from .arguments import Parser, at_least

VOCABULARY = "tokenizer.json, vocab.json or encoder.json, a .tiktoken file, or a folder with one"
IDS_AT_ONCE = 1 << 16


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: numpyllm tokenizer COMMAND [options]\n\n"
              + "\n".join(f"  {name:12}{what}" for name, (_, what) in COMMANDS.items())
              + "\n\nnumpyllm tokenizer COMMAND --help tells the options of a command.")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        raise InputError(f"{argv[0]} is no command: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"))
    return COMMANDS[argv[0]][0](argv[1:])


def train(argv):
    parser = _parser("train", "Learn a byte-level BPE vocabulary from texts.", """
  numpyllm tokenizer train --vocab_size 1024 --out tokenizer.json
  numpyllm tokenizer train book.txt notes/ --pattern cl100k --out tokenizer.json
  zcat texts.gz | numpyllm tokenizer train - --vocab_size 32768 --out my.tiktoken""")
    parser.add_argument("sources", nargs="*", metavar="SOURCE",
                        help="text file, folder of them, or - for standard input (default: the English that Python carries)")
    parser.add_argument("--out", required=True, metavar="FILE", help="where to write the vocabulary; - is standard output")
    parser.add_argument("--format", choices=FORMATS, default=None, help="of that file (default: as its name says)")
    parser.add_argument("--vocab_size", type=int, default=8192, metavar="int", help="bytes, merges and special tokens together")
    parser.add_argument("--pattern", default="gpt2", help="how text is cut first: gpt2, cl100k, o200k, llama3, or a regular expression")
    parser.add_argument("--special_token", action="append", default=None, metavar="NAME",
                        help=f"a special token; again for more (default: {END_OF_TEXT})")
    parser.add_argument("--no_special_tokens", action="store_true", help="none at all")
    parser.add_argument("--min_frequency", type=at_least(1), default=1, help="a pair that occurs less often is not merged")
    parser.add_argument("--tie_break", choices=TIE_BREAKS, default=TIE_BREAKS[0],
                        help="which of equally frequent pairs is merged: of the smallest ids, or of the greatest bytes")
    parser.add_argument("--threads", type=at_least(1), default=None, help="for counting (default: one a processor)")
    parser.add_argument("--backend", choices=BACKENDS, default="numba", help="Numba's kernels, or plain Python")
    args = parser.parse_args(argv)
    if "" in args.sources:
        raise InputError("a text must be named, got an empty name: leave it out for the English that Python carries")
    if args.no_special_tokens and args.special_token:
        raise InputError("--special_token names some and --no_special_tokens none: give one of them")
    special_tokens = () if args.no_special_tokens else args.special_token or (END_OF_TEXT,)
    format = _check_out(args.out, args.format)
    texts = [sys.stdin.buffer if source == "-" else Path(source) for source in args.sources] or load_text()
    with Progress("counting") as progress:
        tokenizer = BytePairTokenizer.train(texts, args.vocab_size, pattern=args.pattern, special_tokens=special_tokens,
                                            min_frequency=args.min_frequency, tie_break=args.tie_break, backend=args.backend,
                                            threads=args.threads, progress=progress.stage)
    _save(tokenizer, args.out, format)
    return 0


def encode(argv):
    parser = _parser("encode", "Turn text into ids: in one line on standard output, or into a token shard.", """
  echo "Hello, world!" | numpyllm tokenizer encode --vocabulary tokenizer.json
  numpyllm tokenizer encode book.txt --vocabulary cl100k_base.tiktoken --out book.bin""")
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="UTF-8 text; - is standard input")
    _add_vocabulary(parser, "--vocabulary", required=True)
    parser.add_argument("--out", default="-", metavar="FILE.bin",
                        help="a token shard to write, with its header FILE.bin.json beside it; - prints the ids, as they come: of a "
                             "long text, also those before the place of an error")
    parser.add_argument("--on_special", choices=("refuse", "encode", "ordinary"), default="refuse",
                        help="where the text has the spelling of a special token: an error, that token, or ordinary text")
    parser.add_argument("--threads", type=at_least(1), default=1, help="for long texts; the ids are the same")
    args = parser.parse_args(argv)
    tokenizer = _load(args)
    special = {"refuse": {}, "encode": {"allowed_special": "all"}, "ordinary": {"disallowed_special": ()}}[args.on_special]
    if args.out != "-":
        _check_folder(args.out)
    try:
        with _opened(args.file) as source, Progress("encoding") as progress:
            blocks = encode_blocks(tokenizer, source, _name(args.file), threads=args.threads, progress=progress, **special)
            if args.out == "-":
                _print_ids(blocks)
            else:
                header = {"n_vocab": tokenizer.n_vocab, "tokenizer": tokenizer.sha256, "sources": [_name(args.file)]}
                with ShardWriter(args.out, tokenizer.dtype, header) as shard:
                    for ids in blocks:
                        shard.append(ids)
    except SpecialTokenInText as error:
        raise InputError(f"{_name(args.file)} must not contain the special token {error.token}, found at character {error.offset}: "
                         "--on_special encode makes it that token, --on_special ordinary takes it as text") from None
    if args.out != "-":
        _log(f"{args.out}: {shard.header['count']:,} tokens")
    return 0


def decode(argv):
    parser = _parser("decode", "Turn ids into text, byte for byte.", """
  numpyllm tokenizer decode book.bin --vocabulary tokenizer.json
  echo 15496 11 995 0 | numpyllm tokenizer decode --vocabulary gpt2.tiktoken""")
    parser.add_argument("file", nargs="?", default="-", metavar="FILE",
                        help="ids as text, separated by white space, or a token shard; - is standard input")
    _add_vocabulary(parser, "--vocabulary", required=True)
    parser.add_argument("--out", default="-", metavar="FILE", help="where to write the text; - is standard output")
    args = parser.parse_args(argv)
    tokenizer = _load(args)
    ids = _shard(args.file, tokenizer) if args.file != "-" and _is_shard(args.file) else _ids(args.file)
    if args.out == "-":
        _decode_to(sys.stdout.buffer, tokenizer, ids)
        sys.stdout.buffer.flush()
    else:
        with replacing(args.out) as file:
            _decode_to(file, tokenizer, ids)
    return 0


def info(argv):
    parser = _parser("info", "What is in a vocabulary, and how well it fits a text.", """
  numpyllm tokenizer info tokenizer.json
  numpyllm tokenizer info o200k_base.tiktoken --data book.txt --json""")
    _add_vocabulary(parser, "vocabulary")
    parser.add_argument("--data", default=None, metavar="FILE", help="a text to measure it on; - is standard input")
    parser.add_argument("--longest", type=at_least(0), default=10, help="how many of the longest tokens to show")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(argv)
    tokenizer, format = _load(args), detect(args.vocabulary)[0]
    ordinary = tokenizer.token_byte_values()
    found = {
        "format": format, "n_vocab": tokenizer.n_vocab, "ordinary_tokens": len(ordinary),
        "special_tokens": dict(sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])),
        "begins_with": tokenizer.begins_with, "pattern": tokenizer.pattern, "unicode_version": getattr(tokenizer, "unicode_version", None),
        "dtype": tokenizer.dtype.name, "sha256": tokenizer.sha256,
        "longest": [token.decode("utf-8", "backslashreplace")
                    for token in sorted(ordinary, key=lambda token: (-len(token), token))[:args.longest]]}
    if args.data is not None:
        text = _text(args.data)
        n_tokens, n_bytes = len(tokenizer.encode_ordinary(text)), len(text.encode("utf-8"))
        if not n_tokens:
            raise InputError(f"{_name(args.data)} is empty: give a text to measure on")
        found |= {"bytes": n_bytes, "tokens": n_tokens, "bytes_per_token": n_bytes / n_tokens}
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"format           {format}\n"
          f"tokens           {found['n_vocab']:,}: {len(ordinary):,} ordinary, {len(tokenizer.special_tokens):,} special"
          + (f", {holes:,} free" if (holes := tokenizer.n_vocab - len(ordinary) - len(tokenizer.special_tokens)) else ""))
    for name, i in found["special_tokens"].items():
        print(f"special token    {name} {i}")
    if tokenizer.begins_with is not None:
        print(f"texts begin with {tokenizer.begins_with}")
    if tokenizer.pattern is not None:
        print(f"pattern          {tokenizer.pattern}\nletters of       {found['unicode_version']}")
    print(f"ids are          {found['dtype']}\nsha256           {found['sha256']}")
    for token in found["longest"]:
        print(f"long token       {token!r}")
    if args.data is not None:
        print(f"bytes per token  {found['bytes_per_token']:.3f} ({n_bytes:,} bytes, {n_tokens:,} tokens)")
    return 0


def convert(argv):
    parser = _parser("convert", "Write a vocabulary in another format. Ids stay the same.", """
  numpyllm tokenizer convert o200k_base.tiktoken --out tokenizer.json
  numpyllm tokenizer convert tokenizer.json --out my.tiktoken
  numpyllm tokenizer convert tokenizer.json --out gpt2/vocab.json""")
    _add_vocabulary(parser, "vocabulary")
    parser.add_argument("--out", required=True, metavar="FILE", help="where to write it; GPT-2's merges.txt goes beside its vocab.json")
    parser.add_argument("--format", choices=FORMATS, default=None, help="of that file (default: as its name says)")
    args = parser.parse_args(argv)
    format = _check_out(args.out, args.format)
    tokenizer = _load(args)
    if not isinstance(tokenizer, BytePairTokenizer):
        raise InputError(f"{args.vocabulary}: a vocabulary of characters has no other format; only byte-pair ones can be converted")
    _save(tokenizer, args.out, format)
    return 0


COMMANDS = {
    "train": (train, "learn a vocabulary from texts"),
    "encode": (encode, "text to ids, or to a token shard"),
    "decode": (decode, "ids, or a token shard, to text"),
    "info": (info, "what is in a vocabulary"),
    "convert": (convert, "tokenizer.json, GPT-2's files, .tiktoken: from one to another"),
}


def _parser(command, description, examples):
    return Parser(prog=f"numpyllm tokenizer {command}", description=description, epilog="examples:" + examples)


def _add_vocabulary(parser, name, **options):
    """The vocabulary, and what its file may not hold."""
    parser.add_argument(name, metavar="VOCABULARY", help=VOCABULARY, **options)
    beside = parser.add_argument_group("what a .tiktoken file does not hold")
    beside.add_argument("--encoding", choices=ENCODINGS, default=None, help="the encoding it is (default: as its name says)")
    beside.add_argument("--pattern", default=None, help="or its pattern: gpt2, cl100k, o200k, llama3, or a regular expression")
    beside.add_argument("--special_token", action="append", type=_name_and_id, default=None, metavar="NAME=ID",
                        help="and a special token; again for more")


def _name_and_id(text):
    name, equals, i = text.rpartition("=")
    if not name or not i.isdecimal():
        raise argparse.ArgumentTypeError(f"must be NAME=ID, got {text!r}")
    return name, int(i)


def _load(args):
    beside = {"encoding": args.encoding, "pattern": args.pattern, "special_tokens": args.special_token and dict(args.special_token)}
    return load(args.vocabulary, **{name: value for name, value in beside.items() if value is not None})


def _check_out(out, format):
    """The format of a vocabulary to write. InputError, before any work is done, if that cannot be."""
    endings = {".tiktoken": "tiktoken", "vocab.json": "gpt2", "encoder.json": "gpt2", ".json": "huggingface"}
    format = format or next((format for ending, format in endings.items() if out.endswith(ending)), None)
    if format is None:
        raise InputError(f"{out} must be called *.json, vocab.json or *.tiktoken, or --format must say what it is to be")
    if out == "-" and format == "gpt2":
        raise InputError("GPT-2's are two files and cannot go to standard output: name one of them, or give another --format")
    if out != "-":
        _check_folder(out)
    return format


def _check_folder(out):
    folder = Path(out).absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{out} cannot be written: {folder} is no folder that can be written to")


def _name(file):
    return "standard input" if file == "-" else str(file)


def _bytes(file):
    return sys.stdin.buffer.read() if file == "-" else read_bytes(file)


def _opened(file):
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return open(file, "rb")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None


def _text(file):
    """The text of a file, exactly: a byte order mark stays, and so do line ends."""
    try:
        return _bytes(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{_name(file)} is no UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}): "
                         "convert it to UTF-8") from None


def _ids(file):
    """The ids in a text: whole numbers between white space."""
    words = _bytes(file).split()
    try:
        return [int(word) for word in words]
    except ValueError:
        bad = next(word for word in words if not word.isdigit())
        raise InputError(f"{_name(file)} must hold ids, whole numbers between white space, got {bad[:50]!r}") from None


def _is_shard(file):
    return header_path(file).is_file() or Path(file).suffix == ".bin"


def _shard(file, tokenizer):
    ids, header = open_shard(file, verify=True)
    if header.get("tokenizer", tokenizer.sha256) != tokenizer.sha256:
        raise InputError(f"{file} was made with another tokenizer, of SHA-256 {header['tokenizer']}: give that one")
    return ids


def _decode_to(file, tokenizer, ids):
    with Progress("decoding") as progress:
        for start in range(0, len(ids), IDS_AT_ONCE):
            file.write(tokenizer.decode_bytes(ids[start:start + IDS_AT_ONCE]))
            progress(start, len(ids))


def _print_ids(blocks):
    """In one line, as they come."""
    separator = ""
    for block in blocks:
        for start in range(0, len(block), IDS_AT_ONCE):
            sys.stdout.write(separator + " ".join(map(str, block[start:start + IDS_AT_ONCE].tolist())))
            separator = " "
    sys.stdout.write("\n")


def _save(tokenizer, out, format):
    """Write a vocabulary, or print it."""
    if out == "-":
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(Path(folder) / "vocabulary", format)
            sys.stdout.buffer.write((Path(folder) / "vocabulary").read_bytes())
        sys.stdout.buffer.flush()
    else:
        tokenizer.save(out, format)
    _log(f"{'vocabulary' if out == '-' else out}: {tokenizer.n_vocab:,} tokens, pattern {tokenizer.pattern}, format {format}")
    if format == "tiktoken":
        specials = "".join(f" --special_token {shlex.quote(f'{name}={i}')}" for name, i in tokenizer.special_tokens.items())
        _log(f"it holds ranks alone: read it with --pattern {shlex.quote(tokenizer.pattern)}{specials}")


def _log(line):
    print(line, file=sys.stderr)
