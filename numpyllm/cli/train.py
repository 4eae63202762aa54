"""numpyllm train: train a model on a text, by flags, a configuration's file, or both."""

import shlex

from ..config import format_toml
from ..models import GPTConfig
from ..training import TrainConfig
from .arguments import Parser
from .start import OPTIONS, add_run_options, comments, settle, start, tokenizer_maker


def main(argv=None):
    parser = Parser(prog="numpyllm train", description="Train a GPT, or an LSTM, on a text.", epilog="""examples:
  numpyllm train --config tiny
  numpyllm train --config shakespeare-char --data tinyshakespeare.txt --max_iters 500
  numpyllm train --config my.toml --print_config > whole.toml
  numpyllm train --init_from gpt2 --block_size 256 --learning_rate 1e-4 --data book.txt
  numpyllm train --architecture lstm --n_layer 2 --n_embd 256 --learning_rate 1.6e-2
  numpyllm train --resume --out_dir out/tiny""")
    parser.add_config_file(leave_out=("resume", "overwrite", "print_config"))
    parser.add_argument("--print_config", action="store_true", help="print the whole configuration as TOML, and do nothing")
    add_run_options(parser, out_dir="out/run")
    parser.add_argument("--init_from", default=None, metavar="DIR", help=OPTIONS["init_from"])
    parser.add_argument("--tokenizer", default="bpe", metavar="KIND|FILE", help=OPTIONS["tokenizer"])
    parser.add_config(GPTConfig, defaults={"vocab_size": 1024})
    parser.add_config(TrainConfig)
    args = parser.parse_args(argv)
    if args.print_config:
        print(format_toml(settle(args).table(), comments()), end="")
        return 0

    trainer = start(args, tokenizer_maker(args), prepared=True).trainer
    folder = shlex.quote(args.out_dir)
    if not trainer.run():
        print(f"continue with: numpyllm train --resume --out_dir {folder}")
        return 128 + trainer.stopped_by
    print(f"numpyllm report {folder} draws the run, numpyllm generate --model {folder} continues a text")
    return 0
