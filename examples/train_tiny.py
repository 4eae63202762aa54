"""Train a tokenizer and a small GPT on real text, from nothing, in about two minutes on two cores.

    python examples/train_tiny.py                       the embedded corpus: Python's own documentation
    python examples/train_tiny.py --data my_text.txt    any text file, or a folder of them
    python examples/train_tiny.py --help                all sizes and settings

What happens, in order: text -> tokenizer -> tokens -> model -> training -> evaluation -> samples -> proof of the gradients.
The run's folder then holds the model, the tokenizer, the metrics and (with matplotlib) a picture.
"""

import shlex
import sys
import time

from numpyllm.checks import check_model
from numpyllm.cli.arguments import Parser, guarded
from numpyllm.cli.start import add_run_options, start
from numpyllm.data import consecutive
from numpyllm.errors import InputError
from numpyllm.evaluation import gzip_bits_per_byte, unigram_bits_per_byte
from numpyllm.gradcheck import assert_ok
from numpyllm.inference import generate_text
from numpyllm.models import GPTConfig
from numpyllm.tokenizer import BytePairTokenizer
from numpyllm.training import TrainConfig, evaluate
from numpyllm.training.plot import plot_metrics

PROMPTS = ("The", "Return a new", "If the")


def main(argv=None):
    parser = Parser(prog="train_tiny.py", description="Train a tokenizer and a small GPT on real text.")
    add_run_options(parser, out_dir="out/tiny", sample_prompt=PROMPTS[0])
    parser.add_config(GPTConfig, defaults={"vocab_size": 1024})
    parser.add_config(TrainConfig, defaults={"max_iters": 2500, "learning_rate": 2e-3})
    parser.set_defaults(tokenizer="bpe")
    args = parser.parse_args(argv)

    def make_tokenizer(train_text, text):
        print(f"training a tokenizer of {args.vocab_size} tokens")
        return BytePairTokenizer.train(train_text, args.vocab_size)

    trainer, val_text, train_tokens, val_tokens = start(args, make_tokenizer)
    started = time.perf_counter()
    if not trainer.run():
        print(f"continue with: python examples/train_tiny.py --resume --out_dir {shlex.quote(args.out_dir)}")
        return 128 + trainer.stopped_by
    print(f"trained in {time.perf_counter() - started:.0f} s")

    model, tokenizer, run = trainer.model, trainer.tokenizer, trainer.run_folder
    windows = consecutive(val_tokens, batch_size=16, block_size=model.config.block_size)
    found = evaluate(model, windows, tokenizer.token_byte_lengths)
    print(f"\nthe whole validation text, in bits per byte (loss {found.loss:.4f} nats per token, perplexity {found.perplexity:.1f})")
    print(f"  unigram model of the same tokens  {unigram_bits_per_byte(train_tokens, val_tokens, tokenizer.token_byte_lengths):.3f}")
    print(f"  gzip -9                           {gzip_bits_per_byte(val_text):.3f}")
    print(f"  this model                        {found.bits_per_byte:.3f}")

    for prompt in PROMPTS:
        text = generate_text(model, tokenizer, prompt, 60, temperature=0.8, top_k=40, seed=trainer.config.seed)
        print(f"\n> {prompt}{text}")

    try:
        plot_metrics(run.read_metrics(), run.picture_path)
    except (InputError, OSError) as error:
        print(f"\nno picture: {error}")
    print(f"\nmodel, tokenizer and metrics are in {run.path}")

    ids, targets = trainer.batches(trainer.step)
    rows = assert_ok(check_model(model, ids[:2], targets[:2]))
    worst = max(rows, key=lambda row: row.error)
    print(f"gradients of the trained model, complex step: {len(rows)} tensors right, largest error {worst.error:.1e} ({worst.tensor})")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
