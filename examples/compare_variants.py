"""Variants of the transformer learn from equal tokens: what each choice of later models changes in loss, time and memory.

    python examples/compare_variants.py                         a table, a few minutes on two cores
    python examples/compare_variants.py --steps 50 --variants gpt2 llama --plot curves.png

`gpt2` is built as GPT-2 is, `llama` as Llama is; between them is one change each. All have the same widths, data, optimiser, schedule
and number of tokens, and the MLP's width is what gives each the same number of parameters. Each run has a process of its own, so
that its memory can be told. The text is the embedded corpus. The picture needs the extra `plots`.
"""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from statistics import mean, median, stdev

from numpyllm import blas
from numpyllm.backend import load_backend
from numpyllm.cli.arguments import Parser, at_least, guarded
from numpyllm.data import consecutive, load_text, split_by_position
from numpyllm.errors import InputError
from numpyllm.extras import load_extra
from numpyllm.models import ARCHITECTURES, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer
from numpyllm.training import TrainConfig, Trainer, evaluate

VARIANTS = {
    "gpt2": {},
    "rotary": {"position": "rotary"},
    "rmsnorm": {"norm": "rmsnorm"},
    "swiglu": {"mlp": "swiglu"},
    "no bias": {"bias": False},
    "grouped keys": {"n_kv_head": 1},
    "window": {"attention": "window"},
    "llama": {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False},
}
MAIN = ("gpt2", "llama")    # these are trained with each seed, the others with the first
POINTS = 10                 # of a curve
VALIDATION = 50_000         # tokens


def config_of(name, args):
    """The variant's GPTConfig, its MLP as wide as gives it the parameters of `gpt2`."""
    parameters = lambda config: ARCHITECTURES["gpt"].estimate(config, 1).parameters
    gpt2 = GPTConfig(n_layer=args.n_layer, n_head=4, n_embd=args.n_embd, block_size=args.block_size, vocab_size=args.vocab_size)
    choices = dict(VARIANTS[name])
    if choices.get("attention") == "window":
        choices["window"] = max(1, args.block_size // 4)
    candidates = (replace(gpt2, **choices, n_hidden=width) for width in range(4, 6 * args.n_embd, 4))
    return min(candidates, key=lambda config: abs(parameters(config) - parameters(gpt2)))


def train(config, tokens, validation, tokenizer, args, seed):
    """-> {"parameters", "curve": [[step, validation loss], ...], "seconds": median of a step, "peak": bytes of this process}."""
    model = ARCHITECTURES["gpt"].model(config, ops=load_backend(), seed=seed)
    settings = TrainConfig(batch_size=args.batch_size, max_iters=args.steps, learning_rate=args.lr, seed=seed, threads=args.threads,
                           warmup_iters=min(50, args.steps))
    trainer = Trainer(model, settings, tokens, validation, tokenizer, log=lambda line: None)
    curve, seconds = [], []
    with blas.limited(1):
        for step in range(1, args.steps + 1):
            seconds.append(trainer.train_step().seconds)
            if step % max(1, args.steps // POINTS) == 0 or step == args.steps:
                windows = consecutive(validation[:VALIDATION], batch_size=args.batch_size, block_size=config.block_size)
                curve.append([step, evaluate(model, windows, tokenizer.token_byte_lengths).loss])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"parameters": model.n_params(), "curve": curve, "seconds": median(seconds), "peak": peak}


def run_one(name, seed, args):
    """Text to figures, in this process."""
    train_text, val_text = split_by_position(load_text(args.data))
    tokenizer = BytePairTokenizer.train(train_text, args.vocab_size)
    tokens, validation = (tokenizer.encode_to_numpy(part, disallowed_special=()) for part in (train_text, val_text))
    args.vocab_size = tokenizer.n_vocab
    if min(len(tokens), len(validation)) <= args.block_size:
        raise InputError(f"the text must be longer than {args.block_size} tokens, a tenth of it has {len(validation)}")
    return train(config_of(name, args), tokens, validation, tokenizer, args, seed)


def run_elsewhere(name, seed, argv):
    """The same in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *argv, "--one", name, str(seed)], capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'ended without a word'}")
    return json.loads(done.stdout)


def row(name, runs):
    """A line of the table."""
    losses = [run["curve"][-1][1] for run in runs]
    spread = f" ± {stdev(losses):.4f}" if len(losses) > 1 else ""
    return (f"| {name} | {runs[0]['parameters']:,} | {mean(losses):.4f}{spread} | {len(runs)} "
            f"| {1e3 * median(run['seconds'] for run in runs):.1f} ms | {max(run['peak'] for run in runs) / 1e6:.0f} MB |")


def draw(found, path):
    """Validation loss over steps: a line for each run of the main ones, a thin one for each other."""
    figure = load_extra("matplotlib.figure", "plots").Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, runs) in enumerate(found.items()):
        for n, run in enumerate(runs):
            axes.plot(*zip(*run["curve"], strict=True), color=f"C{i}", linewidth=2 if name in MAIN else 1,
                      linestyle="-" if name in MAIN else "--", label=None if n else name)
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=80)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(prog="compare_variants.py", description="Train variants of the transformer of equal size on equal tokens.")
    parser.add_argument("--data", default=None, metavar="PATH", help="text file or folder of them (default: the embedded corpus)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="which of them")
    parser.add_argument("--steps", type=at_least(1), default=200, help="steps of each run")
    parser.add_argument("--seeds", type=at_least(1), default=3, help=f"runs of {' and '.join(MAIN)}; of the others one")
    parser.add_argument("--batch_size", type=at_least(1), default=16, help="contexts in a step")
    parser.add_argument("--block_size", type=at_least(4), default=128, help="context, in tokens")
    parser.add_argument("--n_layer", type=at_least(1), default=2, help="transformer blocks")
    parser.add_argument("--n_embd", type=at_least(8), default=128, help="width, a multiple of 8; there are 4 heads")
    parser.add_argument("--vocab_size", type=at_least(257), default=1024, help="tokens in the vocabulary")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--threads", type=at_least(1), default=None, help="replicas, each with a thread (default: one a core)")
    parser.add_argument("--plot", default=None, metavar="FILE", help="draw the curves into this picture")
    parser.add_argument("--one", nargs=2, default=None, metavar=("VARIANT", "SEED"), help="a single run in this process, as JSON")
    args = parser.parse_args(argv)
    if args.n_embd % 8:
        raise InputError(f"--n_embd must be a multiple of 8, got {args.n_embd}: four heads of an even number of channels each")
    if args.one is not None:
        if args.one[0] not in VARIANTS or not args.one[1].isdigit():
            raise InputError(f"--one needs a variant ({', '.join(VARIANTS)}) and a seed, got {' '.join(args.one)}")
        print(json.dumps(run_one(args.one[0], int(args.one[1]), args)))
        return 0
    print(f"{args.steps} steps of {args.batch_size} x {args.block_size} tokens, learning rate {args.lr:g}\n")
    print("| variant | parameters | validation loss | runs | step | peak memory |\n|---|---|---|---|---|---|")
    found = {}
    for name in args.variants:
        run_elsewhere(name, 1337, [*argv, "--steps", "1"])          # compiling takes memory, and is done once
        found[name] = [run_elsewhere(name, 1337 + n, argv) for n in range(args.seeds if name in MAIN else 1)]
        print(row(name, found[name]), flush=True)
    if args.plot:
        draw(found, args.plot)
        print(f"\npicture: {args.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
