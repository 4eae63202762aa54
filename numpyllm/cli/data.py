"""numpyllm data: turn texts into shards of tokens to train on, look into them, verify them."""

import argparse
import difflib
import json
import math
import os
import sys

from ..data import Reading, open_data
from ..data import prepare as prepare_data
from ..data.documents import EMBEDDED
from ..errors import InputError
from ..progress import Progress
from .arguments import Parser, at_least
from .tokenizer import _add_vocabulary, _load

WORKERS = min(os.cpu_count() or 1, 2)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: numpyllm data COMMAND [options]\n\n"
              + "\n".join(f"  {name:12}{what}" for name, (_, what) in COMMANDS.items())
              + "\n\nnumpyllm data COMMAND --help tells the options of a command.")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        raise InputError(f"{argv[0]} is no command: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"))
    return COMMANDS[argv[0]][0](argv[1:])


def prepare(argv):
    parser = _parser("prepare", "Turn texts into a folder of token shards: documents, each followed by <|endoftext|>, "
                     "some for training, some for validation.", """
  numpyllm data prepare python:source --tokenizer tokenizer.json --out data/python
  numpyllm data prepare books/ web.jsonl --field content --tokenizer gpt2.tiktoken --out data/mixed --workers 4
  numpyllm data prepare stories.txt --separator '<|endoftext|>' --tokenizer tokenizer.json --out data/stories""")
    parser.add_argument("sources", nargs="+", metavar="SOURCE",
                        help="text file (one document), file of JSON lines (.jsonl .ndjson), folder of such files, or "
                        + ", or ".join(f"{name} ({what})" for name, what in EMBEDDED.items()))
    _add_vocabulary(parser, "--tokenizer", required=True)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--field", default="text", metavar="NAME", help="of a JSON object: the one that holds the document")
    parser.add_argument("--separator", default=None, type=_unescaped, metavar="TEXT",
                        help="what stands between the documents of a text file, \\n for a newline (default: a file is one document)")
    parser.add_argument("--errors", choices=("strict", "replace"), default="strict",
                        help="bytes that are not UTF-8: an error, or read as U+FFFD")
    parser.add_argument("--val_fraction", type=float, default=0.01, metavar="float",
                        help="about this part of the documents is for validation, 0 for none")
    parser.add_argument("--seed", type=at_least(0), default=1337, help="decides, with a document's text, what it is for")
    parser.add_argument("--shard_mb", type=float, default=64.0, metavar="float", help="MB of sources that make one shard")
    parser.add_argument("--workers", type=at_least(1), default=WORKERS, help="processes, of some 150 MB each; the shards are the same")
    parser.add_argument("--resume", action="store_true", help="go on with what was begun in DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace what was prepared in DIR")
    args = parser.parse_args(argv)
    if not (math.isfinite(args.shard_mb) and args.shard_mb * 1e6 >= 1):
        raise InputError(f"shard_mb must be above 0, got {args.shard_mb}")
    reading = Reading(args.field, args.separator, args.errors)
    try:
        with Progress("preparing") as progress:
            header = prepare_data(args.sources, _load_tokenizer(args), args.out, reading=reading, val_fraction=args.val_fraction,
                                  seed=args.seed, shard_bytes=int(args.shard_mb * 1e6), workers=args.workers,
                                  resume=args.resume, overwrite=args.overwrite, progress=progress)
    except KeyboardInterrupt:
        print(f"\nnumpyllm: interrupted: finished shards stay in {args.out}; the same command with --resume goes on", file=sys.stderr)
        return 130
    print(_summary(args.out, header))
    return 0


def info(argv):
    parser = _parser("info", "What is in a folder of tokens or a file of them (of ours, nanoGPT's or llm.c's).", """
  numpyllm data info data/python
  numpyllm data info edu_fineweb_train_000001.bin --json""")
    parser.add_argument("path", metavar="PATH", help="folder, or .bin file")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(argv)
    data = open_data(args.path)
    if args.json:
        print(json.dumps({"format": data.format, "header": data.header,
                          "tokens": {name: len(row) for name, row in data.rows.items()}}))
        return 0
    print(f"format         {data.format}")
    for name, row in data.rows.items():
        of = data.header.get(name)
        documents = f", {of['documents']:,} documents, {of['bytes']:,} bytes of text" if of else ""
        print(f"{name:15}{len(row):,} tokens in {len(row.arrays):,} files of {row.arrays[0].dtype}{documents}")
    for source in data.header.get("sources", ()):
        print("source         " + (f"{source['source']}: {source['files']:,} files, {source['bytes']:,} bytes"
                                   if isinstance(source, dict) else source))
    for name, words in ("tokenizer", "tokenizer"), ("n_vocab", "ids below"), ("end_of_text", "end of text"):
        if name in data.header:
            print(f"{words:15}{data.header[name]}")
    return 0


def verify(argv):
    parser = _parser("verify", "Read all tokens and compare them with their checksums, and their ids with a tokenizer.", """
  numpyllm data verify data/python
  numpyllm data verify train.bin --tokenizer gpt2.tiktoken""")
    parser.add_argument("path", metavar="PATH", help="folder, or .bin file")
    _add_vocabulary(parser, "--tokenizer", default=None)
    args = parser.parse_args(argv)
    data = open_data(args.path, verify=True)
    if args.tokenizer is not None:
        data.check(_load_tokenizer(args))
    elif data.header.get("train"):
        data.load_tokenizer()
    elif data.format != "numpyllm":
        raise InputError(f"{args.path}: {data.format}'s files have no checksums, only ids can be checked: give a --tokenizer")
    print(f"{args.path}: all {sum(map(len, data.rows.values())):,} tokens are as they were written")
    return 0


COMMANDS = {
    "prepare": (prepare, "texts to a folder of token shards"),
    "info": (info, "what is in a folder or a file of tokens"),
    "verify": (verify, "whether it is still what was written"),
}


def _parser(command, description, examples):
    return Parser(prog=f"numpyllm data {command}", description=description, epilog="examples:" + examples)


def _load_tokenizer(args):
    args.vocabulary = args.tokenizer
    return _load(args)


def _unescaped(text):
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _summary(out, header):
    return (f"{out}: {header['train']['tokens']:,} tokens to train on ({header['train']['documents']:,} documents), "
            f"{header['val']['tokens']:,} to validate ({header['val']['documents']:,})")
