"""nanoGPT's recipe for Shakespeare on a CPU: characters, 4 layers, 4 heads, width 128, 2,000 steps of 12 x 64 characters.

    python examples/train_shakespeare.py --data tinyshakespeare.txt

No dropout, no biases, learning rate 1e-3 to 1e-4 by cosine after 100 steps of warm-up, AdamW with beta2 0.99 and decay 0.1,
clipping at 1. The first 90 % of the text are for training; the last line is the loss over all of the rest.
"""

import shlex
import sys

from numpyllm.cli.arguments import Parser, guarded
from numpyllm.cli.start import add_run_options, start
from numpyllm.data import consecutive
from numpyllm.models import GPTConfig
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import TrainConfig, evaluate


def main(argv=None):
    parser = Parser(prog="train_shakespeare.py", description="nanoGPT's recipe for Shakespeare on a CPU.")
    add_run_options(parser, out_dir="out/shakespeare", data_help="the text, such as tinyshakespeare.txt")
    parser.add_config(GPTConfig, leave_out=("vocab_size",), defaults={"bias": False})
    parser.add_config(TrainConfig)
    parser.set_defaults(tokenizer="character")
    args = parser.parse_args(argv)

    if args.data is None and not args.resume:
        parser.error("--data must name the text")
    begun = start(args, lambda train_text, text: CharacterTokenizer.train(text))
    trainer = begun.trainer
    if not trainer.run():
        print(f"continue with: python examples/train_shakespeare.py --resume --out_dir {shlex.quote(args.out_dir)}")
        return 128 + trainer.stopped_by
    windows = consecutive(begun.val_tokens, batch_size=64, block_size=trainer.model.config.block_size)
    print(f"validation loss {evaluate(trainer.model, windows, trainer.tokenizer.token_byte_lengths).loss:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
