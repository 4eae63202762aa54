"""numpyllm convert: a model from our layout into Hugging Face's, or back; from llama2.c's into either."""

import shlex

from .. import tokenizer as tokenizers
from ..errors import InputError
from ..interop import is_llama2c, is_pretrained, load_model, save_model, save_pretrained
from .arguments import Parser

LAYOUTS = "hf", "numpyllm"


def main(argv=None):
    parser = Parser(prog="numpyllm convert", description="Write a GPT in another layout, with its tokenizer.", epilog="""examples:
  numpyllm convert out/tiny --out tiny-hf
  numpyllm convert path/to/gpt2 --out gpt2
  numpyllm convert path/to/gpt2 --to hf --out gpt2-in-one-file
  numpyllm convert stories15M.bin --tokenizer tokenizer.bin --out stories""")
    parser.add_argument("source", metavar="SOURCE",
                        help="folder of a run, of one checkpoint, or of a GPT-2 or Llama in Hugging Face's layout; or a .bin of llama2.c")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--to", choices=LAYOUTS, default=None,
                        help="hf: config.json, model.safetensors and the tokenizer's files; numpyllm: a checkpoint "
                        "(default: the other than the source's)")
    parser.add_argument("--tokenizer", default=None, metavar="FILE", help="a vocabulary's file, in place of the source's")
    parser.add_argument("--no_tokenizer", action="store_true", help="hf: write the model without its tokenizer")
    parser.add_argument("--dropout", type=float, default=None,
                        help="for training it on, where a source of others has several, or none")
    parser.add_argument("--overwrite", action="store_true", help="hf: replace what this command wrote there before")
    args = parser.parse_args(argv)
    theirs = is_pretrained(args.source) or is_llama2c(args.source)
    layout = args.to or ("numpyllm" if theirs else "hf")
    if layout == "numpyllm" and (args.no_tokenizer or args.overwrite):
        raise InputError("--no_tokenizer and --overwrite are for --to hf: a checkpoint has a tokenizer, and is never "
                         "replaced")
    if args.no_tokenizer and args.tokenizer:
        raise InputError("--no_tokenizer and --tokenizer cannot both be meant: give one of them")
    if args.dropout is not None and not theirs:
        raise InputError(f"--dropout is for a source of others, {args.source} has one of its own")
    model, tokenizer = load_model(args.source, dropout=args.dropout)
    if args.tokenizer:
        tokenizer = tokenizers.load(args.tokenizer)
        if tokenizer.n_vocab > model.config.vocab_size:
            raise InputError(f"{args.tokenizer}: must have ids below vocab_size={model.config.vocab_size} only, it has "
                             f"{tokenizer.n_vocab}: it is another model's")
    if layout == "hf":
        save_pretrained(args.out, model, None if args.no_tokenizer else tokenizer, overwrite=args.overwrite)
    else:
        save_model(args.out, model, tokenizer, source=args.source)
    print(f"{args.out}: {model.n_params():,} parameters, "
          + ("no tokenizer" if tokenizer is None or args.no_tokenizer else f"a tokenizer of {tokenizer.n_vocab:,} tokens"))
    if tokenizer is not None and not args.no_tokenizer:
        print(f"numpyllm generate --model {shlex.quote(args.out)} continues a text")
    return 0
