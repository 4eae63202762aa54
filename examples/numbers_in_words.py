"""Teach an encoder-decoder to read numbers: "seven hundred and two thousand forty-one" -> 702041. A few minutes on two cores.

    python examples/numbers_in_words.py             train, then judge it on numbers that it has never seen
    python examples/numbers_in_words.py --help      all sizes and settings

The pairs are made here, letter by letter, from 0 to 999,999. Of the ways to write a number one is drawn: with "and" or without,
hyphens or spaces. Every 97th number is held out. Nothing is written to disk.
"""

import sys
import time
from dataclasses import replace

import numpy as np

from numpyllm import blas
from numpyllm.backend import load_backend
from numpyllm.cli.arguments import Parser, at_least, config_from, guarded
from numpyllm.inference import translate, translate_by_beams
from numpyllm.models import EncoderDecoder, EncoderDecoderConfig
from numpyllm.progress import clock
from numpyllm.random import Draws, generator
from numpyllm.training import AdamW, TrainConfig, learning_rate
from numpyllm.training.replicas import Replicas, physical_cores

SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
         "eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
LETTERS = " -abcdefghijklmnopqrstuvwxyz"            # the source's tokens; the target's are the ten digits and these two:
START, STOP = 10, 11
DIGITS, HELD_OUT = 6, 97
TRAINING = ("batch_size", "max_iters", "learning_rate", "warmup_iters", "weight_decay", "beta1", "beta2", "grad_clip", "threads",
            "seed")


def in_words(n, with_and=False, hyphen="-"):
    """A number from 0 to 999,999, as it is said."""
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10 - 2] + (hyphen + SMALL[n % 10] if n % 10 else "")
    unit, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    words = f"{in_words(n // unit, with_and, hyphen)} {name}"
    if n % unit:
        words += (" and " if with_and and n % unit < 100 else " ") + in_words(n % unit, with_and, hyphen)
    return words


def pairs(count, seed, name, *, step=0):
    """So many numbers to learn, each with its words. Short ones are as frequent as long ones: the count of digits is drawn first."""
    rng = generator(seed, name, step=step)
    numbers = (rng.random(count) * 10.0 ** rng.integers(1, DIGITS + 1, count)).astype(int)
    return spelled(numbers + (numbers % HELD_OUT == 0), rng)


def held_out_pairs(count, seed, name):
    """So many different numbers of those that `pairs` never gives, with their words."""
    rng = generator(seed, name)
    return spelled(HELD_OUT * rng.permutation(10**DIGITS // HELD_OUT)[:count], rng)


def spelled(numbers, rng):
    """(number, words) of each, in one of the ways to write it."""
    with_and, hyphens = rng.random((2, len(numbers))) < 0.5
    return [(n, in_words(n, a, "-" if h else " ")) for n, a, h in zip(numbers.tolist(), with_and, hyphens, strict=True)]


def encoded(some):
    """Pairs as sources (B, S) and targets (B, T), -1 behind the end of each."""
    return (padded([[LETTERS.index(letter) for letter in words] for _, words in some]),
            padded([[*map(int, str(n)), STOP] for n, _ in some]))


def padded(rows):
    longest = max(map(len, rows))
    return np.array([row + [-1] * (longest - len(row)) for row in rows])


def read(model, some):
    """What the model makes of the words of these pairs: a string of digits each, greedily."""
    said = []
    for first in range(0, len(some), 100):
        sources, _ = encoded(some[first:first + 100])
        said += ["".join(map(written, target)) for target in translate(model, sources, max_new_tokens=DIGITS + 1, stop_token=STOP)]
    return said


def written(token):
    return str(token) if token < START else "?"     # START, which is never right


def share_right(said, some):
    return sum(s == str(n) for s, (n, _) in zip(said, some, strict=True)) / len(some)


def train(model, config, log=print, report=250):
    """config.max_iters steps on as many threads as there are cores."""
    optimizer = AdamW(model.parameters, model.ops, beta1=config.beta1, beta2=config.beta2, weight_decay=config.weight_decay)
    replicas = Replicas(model, min(config.threads or physical_cores(), config.batch_size))
    log(f"training on {len(replicas)} thread" + "s" * (len(replicas) > 1))
    trial = held_out_pairs(200, config.seed, "trial")
    started = time.perf_counter()
    with blas.limited(1):                           # each replica has a core of its own
        for step in range(config.max_iters):
            batch = encoded(pairs(config.batch_size, config.seed, "train", step=step))
            loss, norm, _ = replicas.step([batch], optimizer, lr=learning_rate(config, step), grad_clip=config.grad_clip,
                                          draws=lambda micro, row, step=step: Draws(config.seed, step=step, first_row=row))
            done = step + 1
            if done % report == 0 or done == config.max_iters:
                spent = time.perf_counter() - started
                log(f"step {done:5}/{config.max_iters}  loss {loss:.4f}  grad norm {norm:6.3f}  {1e3 * spent / done:4.0f} ms a step  "
                    f"{share_right(read(model, trial), trial):6.1%} of 200 held-out numbers right  "
                    f"{clock(spent / done * (config.max_iters - done))} left")


def compile_first(config, ops):
    """One step of a toy in this thread: Numba does not bear several threads compiling one function."""
    toy = EncoderDecoder(replace(config, n_layer=1, n_head=2, n_embd=4), ops=ops)
    with blas.limited(1):
        toy.loss_and_gradients(*encoded(pairs(2, 0, "toy")), draws=Draws(0))
        AdamW(toy.parameters, ops, beta1=0.9, beta2=0.99, weight_decay=0.1).update(1e-3)


def main(argv=None):
    parser = Parser(prog="numbers_in_words.py", description="Teach an encoder-decoder to read numbers in words.")
    parser.add_argument("--test_pairs", type=at_least(1), default=2000, metavar="int", help="held-out pairs to judge it on")
    parser.add_config(EncoderDecoderConfig, leave_out=("vocab_size", "source_vocab_size", "start_token", "shared"),
                      defaults={"n_embd": 64, "block_size": 72, "label_smoothing": 0.1})
    parser.add_config(TrainConfig, leave_out=[name for name in vars(TrainConfig()) if name not in TRAINING],
                      defaults={"batch_size": 64, "max_iters": 5000, "learning_rate": 2e-3, "warmup_iters": 200})
    args = parser.parse_args(argv)
    config = config_from(EncoderDecoderConfig, args, vocab_size=STOP + 1, source_vocab_size=len(LETTERS), start_token=START)
    training = config_from(TrainConfig, args)

    ops = load_backend()
    model = EncoderDecoder(config, ops=ops, seed=training.seed)
    test = held_out_pairs(args.test_pairs, training.seed, "test")
    print(f"{model.n_params():,} parameters; for instance")
    for n, words in pairs(3, training.seed, "example"):
        print(f"  {words} -> {n}")
    compile_first(config, ops)
    started = time.perf_counter()
    train(model, training)
    print(f"trained in {time.perf_counter() - started:.0f} s")

    said = read(model, test)
    wrong = [(s, n, words) for s, (n, words) in zip(said, test, strict=True) if s != str(n)]
    print(f"\n{len(test)} held-out pairs: {share_right(said, test):.2%} exactly right")
    sources, targets = encoded(test)
    parts = [model.loss(sources[i:i + 100], targets[i:i + 100]) for i in range(0, len(test), 100)]
    print(f"loss {sum(loss for loss, _ in parts) / sum(count for _, count in parts):.4f} nats a digit")
    print(f"{len(wrong)} mistakes" + (", the first of them:" if wrong else ""))
    for s, n, words in wrong[:5]:
        print(f"  {words}\n    is {n:,}, read as {s}")

    n, words = test[0] if not wrong else wrong[0][1:]
    print(f"\nwhat beam search finds in: {words} ({n})")
    source = encoded([(n, words)])[0][0]
    for beam in translate_by_beams(model, source, beams=4, max_new_tokens=DIGITS + 1, stop_token=STOP):
        print(f"  {''.join(map(written, beam.tokens)):8} probability {np.exp(beam.log_probability):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
