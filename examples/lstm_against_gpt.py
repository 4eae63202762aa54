"""An LSTM and a GPT of equal size learn from equal tokens, at several context lengths: why transformers took over.

    python examples/lstm_against_gpt.py                         table and picture, some minutes on two cores
    python examples/lstm_against_gpt.py --contexts 16 --steps 50

Both have two layers, the same tokenizer, data, optimiser, schedule and number of tokens a step; a longer context means fewer of
them in a batch. The LSTM is as wide as gives it the GPT's number of parameters. Each has the learning rate that was best for it
of those tried (docs/lstm.md). The text is the embedded corpus. The picture needs the extra `plots`.
"""

import sys
import time

from numpyllm.backend import load_backend
from numpyllm.cli.arguments import Parser, at_least, guarded
from numpyllm.data import consecutive, load_text, split_by_position
from numpyllm.errors import InputError
from numpyllm.extras import load_extra
from numpyllm.models import ARCHITECTURES, GPTConfig, LSTMConfig
from numpyllm.tokenizer import BytePairTokenizer
from numpyllm.training import TrainConfig, Trainer, evaluate

LEARNING_RATES = {"gpt": 4e-3, "lstm": 1.6e-2}
TOKENS_A_STEP = 2048
VALIDATION = 50_000         # tokens


def configs(block_size, vocab_size):
    """{architecture: config} with nearly equal numbers of parameters."""
    gpt = GPTConfig(n_layer=2, n_head=4, n_embd=128, block_size=block_size, vocab_size=vocab_size)
    target = ARCHITECTURES["gpt"].estimate(gpt, 1).parameters
    candidates = [LSTMConfig(n_layer=2, n_embd=width, block_size=block_size, vocab_size=vocab_size) for width in range(8, 513, 8)]
    return {"gpt": gpt, "lstm": min(candidates, key=lambda lstm: abs(ARCHITECTURES["lstm"].estimate(lstm, 1).parameters - target))}


def train(kind, config, tokens, validation, tokenizer, steps, learning_rate):
    """-> parameters, validation loss, bits a byte, tokens a second."""
    model = ARCHITECTURES[kind].model(config, ops=load_backend(), seed=1337)
    settings = TrainConfig(batch_size=max(1, TOKENS_A_STEP // config.block_size), max_iters=steps, learning_rate=learning_rate,
                           warmup_iters=min(50, steps), eval_interval=steps + 1, eval_iters=1, log_interval=steps)
    trainer = Trainer(model, settings, tokens, validation, tokenizer, log=lambda line: None)
    started = time.perf_counter()
    trainer.run()
    seconds = time.perf_counter() - started
    windows = consecutive(validation[:VALIDATION], batch_size=max(1, 4096 // config.block_size), block_size=config.block_size)
    found = evaluate(model, windows, tokenizer.token_byte_lengths)
    return model.n_params(), found.loss, found.bits_per_byte, steps * settings.batch_size * config.block_size / seconds


def draw(results, path):
    """Loss over context length, one line for each architecture. results: {(kind, context): figures of `train`}."""
    figure = load_extra("matplotlib.figure", "plots").Figure(figsize=(8, 3.2), layout="constrained")
    contexts = sorted({context for _, context in results})
    for axes, column, label in zip(figure.subplots(1, 2), (1, 3), ("validation loss (nats a token)", "tokens a second"), strict=True):
        for kind in LEARNING_RATES:
            axes.plot(contexts, [results[kind, context][column] for context in contexts], marker="o", label=kind)
        axes.set_xscale("log", base=2)
        axes.set_xticks(contexts, contexts)
        axes.set_xlabel("context (tokens)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[1].set_ylim(bottom=0)
    figure.savefig(path, format="png", dpi=90)


def main(argv=None):
    parser = Parser(prog="lstm_against_gpt.py", description="Train an LSTM and a GPT of equal size on equal tokens.")
    parser.add_argument("--data", default=None, metavar="PATH", help="text file or folder of them (default: the embedded corpus)")
    parser.add_argument("--contexts", type=at_least(1), nargs="+", default=[16, 64, 256], help="context lengths")
    parser.add_argument("--steps", type=at_least(1), default=200, help=f"steps of each run, {TOKENS_A_STEP:,} tokens each")
    parser.add_argument("--vocab_size", type=at_least(257), default=1024, help="tokens in the vocabulary")
    parser.add_argument("--lr", type=float, default=None, help="learning rate of both (default: each has its own)")
    parser.add_argument("--picture", default="lstm_against_gpt.png", metavar="FILE", help="where the picture goes")
    args = parser.parse_args(argv)
    train_text, val_text = split_by_position(load_text(args.data))
    tokenizer = BytePairTokenizer.train(train_text, args.vocab_size)
    tokens, validation = (tokenizer.encode_to_numpy(part, disallowed_special=()) for part in (train_text, val_text))
    if min(len(tokens), len(validation)) <= max(args.contexts):
        raise InputError(f"the text must be longer than {max(args.contexts)} tokens, a tenth of it has {len(validation)}")
    print(f"{len(tokens):,} tokens to train on, {args.steps * TOKENS_A_STEP:,} seen in each run; vocabulary {tokenizer.n_vocab:,}")
    print(f"{'context':>7}  {'model':5} {'parameters':>10} {'loss':>7} {'bits/byte':>9} {'tokens/s':>9}")
    results = {}
    for context in args.contexts:
        for kind, config in configs(context, tokenizer.n_vocab).items():
            found = train(kind, config, tokens, validation, tokenizer, args.steps, args.lr or LEARNING_RATES[kind])
            results[kind, context] = found
            print(f"{context:7}  {kind:5} {found[0]:10,} {found[1]:7.4f} {found[2]:9.4f} {found[3]:9,.0f}", flush=True)
    try:
        draw(results, args.picture)
        print(f"picture: {args.picture}")
    except (InputError, OSError) as error:
        print(f"no picture: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
