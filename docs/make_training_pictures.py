"""Draw the pictures of docs/training.md and docs/loss_spikes.md: real runs of small models, some minutes on one core.

    python docs/make_training_pictures.py               all of them
    python docs/make_training_pictures.py schedule      only this one

Prints the figures that the text quotes. Needs the extras `plots` and `test`; the text is Python's language reference.
"""

import io
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from numpyllm.backend import load_backend
from numpyllm.data import topics_text
from numpyllm.extras import load_extra
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import Observer, TrainConfig, Trainer, TrainingDiverged, learning_rate

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))      # for the experiment of tests/test_spikes.py
BASE = {"batch_size": 16, "max_iters": 600, "learning_rate": 3e-3, "schedule": "constant", "warmup_iters": 30, "weight_decay": 0.1,
        "eval_interval": 100, "eval_iters": 20, "log_interval": 1, "spike_zscore": 0.0, "threads": 1}
MODEL = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 32}
PAIR = {"figsize": (8, 3.2), "layout": "constrained"}
MEAN_OF = 25        # steps of which the curves show the mean


@dataclass
class Curve(Observer):
    """What a run wrote, step by step, and what became of its weights."""

    label: str
    rows: dict = field(default_factory=dict)        # key -> [(step, value)]
    final: float = float("nan")                     # validation loss at the end
    weights: float = float("nan")                   # norm of all matrices

    def on_metrics(self, trainer, values):
        for key, value in values.items():
            self.rows.setdefault(key, []).append((trainer.step, value))

    def on_end(self, trainer):
        self.weights = float(np.linalg.norm(trainer.model.parameters.data[:trainer.model.parameters.n_decayed]))

    def draw(self, axes, key, mean_of=MEAN_OF, along=1.0, **style):
        """A row over the steps (times `along`), as a running mean."""
        steps, values = np.array(self.rows[key]).T
        n = min(mean_of, len(values))
        means = np.convolve(values, np.full(n, 1 / n), "valid")
        axes.plot(steps[n - 1:] * along, means, **{"label": self.label, "linewidth": 1.2} | style)


class Runs:
    """Runs on one text, of which the first nine tenths are learnt from."""

    def __init__(self, characters):
        text = topics_text()
        self.tokenizer = CharacterTokenizer.train(text)
        tokens = self.tokenizer.encode_to_numpy(text)
        cut = len(tokens) * 9 // 10
        self.train, self.validation = tokens[:min(cut, characters)], tokens[cut:]

    def __call__(self, label, **changes):
        curve = Curve(label)
        model = GPT(GPTConfig(**MODEL, vocab_size=self.tokenizer.n_vocab), ops=load_backend(), seed=1)
        trainer = Trainer(model, TrainConfig(**BASE | changes), self.train, self.validation, self.tokenizer, observers=[curve],
                          log=lambda line: None)
        try:
            trainer.run()
            curve.final = trainer.evaluate().loss
        except TrainingDiverged as error:
            print(f"  {label}: {error}")
        norms = [value for _, value in curve.rows["train/grad_norm"]]
        print(f"  {label:28} validation {curve.final:.3f}  last train {np.mean([v for _, v in curve.rows['train/loss'][-50:]]):.3f}  "
              f"weights {curve.weights:.1f}  gradient norm: median {np.median(norms):.2f}, largest {max(norms):.2f}", flush=True)
        return curve


def show(axes, title, xlabel="step", *, low=None, high=None):
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(xlabel, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_ylim(low, high)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def draw_learning_rate(figure):
    runs = Runs(10 ** 9)
    frequency = np.bincount(runs.train, minlength=runs.tokenizer.n_vocab) / len(runs.train)
    print(f"  from the frequency of characters alone: {-np.mean(np.log(frequency[runs.validation] + 1e-9)):.3f}")
    curves = [runs(f"{rate:g}", learning_rate=rate) for rate in (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)]
    others = [runs(f"0.003, seed {seed}", seed=seed) for seed in (1, 2)]
    left, right = figure.subplots(1, 2)
    for curve in curves:
        curve.draw(left, "train/loss")
        curve.draw(right, "train/grad_norm")
    for curve in others:
        curve.draw(left, "train/loss", color="gray", linewidth=0.6, label="0.003, other seeds" if curve is others[0] else None)
    right.set_yscale("log")
    show(left, "loss, by learning rate", low=1.5, high=4.6)
    show(right, "norm of the gradient")


def draw_batch_size(figure):
    runs = Runs(10 ** 9)
    curves = [(n, runs(f"{n}", batch_size=n, max_iters=max(600, 9600 // n))) for n in (4, 16, 64)]
    left, right = figure.subplots(1, 2, sharey=True)
    for n, curve in curves:
        losses = dict(curve.rows["train/loss"])
        end = 9600 // n
        print(f"  {n:2}: mean loss of the last tenth of {end} steps {np.mean([losses[s] for s in range(end * 9 // 10, end)]):.3f}")
        curve.draw(left, "train/loss", mean_of=10)
        curve.draw(right, "train/loss", mean_of=10, along=n * MODEL["block_size"] / 1000)
    left.set_xlim(0, 600)
    right.set_xlim(0, 9600 * MODEL["block_size"] / 1000)
    show(left, "loss over steps, by contexts in a batch", low=1.5, high=4)
    show(right, "the same over tokens", "thousand tokens", low=1.5, high=4)


def draw_warmup(figure):
    runs = Runs(10 ** 9)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, rate in ((left, 3e-3), (right, 3e-2)):
        for steps in (0, 30, 200):
            runs(f"{steps} steps to {rate:g}", learning_rate=rate, warmup_iters=steps).draw(axes, "train/loss")
        show(axes, f"loss, by warm-up to a rate of {rate:g}", low=1.5, high=4)


def draw_weight_decay(figure):
    runs = Runs(20_000)
    left, right = figure.subplots(1, 2, sharey=True)
    for decay in (0.0, 0.1, 1.0, 10.0):
        curve = runs(f"{decay:g}", weight_decay=decay, max_iters=1500)
        curve.draw(left, "train/loss")
        curve.draw(right, "val/loss", mean_of=1)
    show(left, "20,000 characters: loss on them, by weight decay", low=1, high=4)
    show(right, "loss on other text", low=1, high=4)


def draw_clipping(figure):
    runs = Runs(10 ** 9)
    left, right = figure.subplots(1, 2)
    for optimizer, rate, style in (("sgd", 0.3, "-"), ("adamw", 3e-3, ":")):
        for limit in (0.0, 1.0, 0.1):
            curve = runs(f"{optimizer}, {limit or 'no limit'}", optimizer=optimizer, learning_rate=rate, grad_clip=limit,
                         weight_decay=0.0)
            curve.draw(left, "train/loss", linestyle=style)
            if not limit:
                curve.draw(right, "train/grad_norm", mean_of=1, linestyle=style, linewidth=0.8)
    show(left, "loss, by limit of the gradient's norm", low=1.5, high=4.6)
    show(right, "norm before clipping")


def draw_optimizer(figure):
    runs = Runs(10 ** 9)
    left, right = figure.subplots(1, 2)
    for name, rates in (("adamw", (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)), ("sgd", (0.03, 0.1, 0.3, 1.0, 3.0))):
        curves = [runs(f"{name}, {rate:g}", optimizer=name, learning_rate=rate, weight_decay=0.0) for rate in rates]
        min(curves, key=lambda curve: curve.final).draw(left, "train/loss")
        right.plot(rates, [curve.final for curve in curves], "o-", label=name, linewidth=1.2, markersize=4)
    right.set_xscale("log")
    show(left, "loss of each at its best learning rate", low=1.5, high=4)
    show(right, "validation loss after 600 steps", "learning rate", low=1.8, high=3.2)


def draw_schedule(figure):
    runs = Runs(10 ** 9)
    left, right = figure.subplots(1, 2)
    for name in ("constant", "cosine", "linear", "wsd"):
        changes = {"schedule": name, "learning_rate": 1e-2, "min_lr": 0.0, "max_iters": 1000, "eval_interval": 50}
        curve = runs(name, **changes)
        left.plot([learning_rate(TrainConfig(**BASE | changes), step) for step in range(1000)], label=name, linewidth=1.2)
        curve.draw(right, "val/loss", mean_of=1)
    show(left, "learning rate, by schedule")
    show(right, "loss on validation text", low=1.6, high=2.4)


def draw_spikes(figure):
    from test_spikes import HUGE, NAN, WRONG, train
    text = topics_text()[:150_000]
    tokenizer = CharacterTokenizer.train(text)
    tokens = tokenizer.encode_to_numpy(text)
    left, right = figure.subplots(1, 2)
    for label, poisoned, changes in (("clean", False, {}), ("poisoned, with the monitor", True, {}),
                                     ("poisoned, without", True, {"spike_zscore": 0.0}),
                                     ("poisoned, clipped at 1, without", True, {"spike_zscore": 0.0, "grad_clip": 1.0}),
                                     ("clean, clipped at 1", False, {"grad_clip": 1.0})):
        curve = Curve(label)
        final, trainer = train(tokens, tokenizer, poisoned, observers=[curve], log_interval=1, **changes)
        losses = dict(curve.rows["train/loss"])         # a NaN is not written
        print(f"  {label:28} validation {final:.3f}  skipped {trainer.skipped}  losses at the poisoned steps "
              f"{[round(losses.get(step + 1, np.nan), 2) for step in (WRONG, HUGE, NAN)]}", flush=True)
        if "grad_clip" not in changes:
            curve.draw(left, "train/loss", mean_of=1, linewidth=0.8)
        curve.rows["train/loss"] = [(step, loss) for step, loss in losses.items() if step - 1 not in (WRONG, HUGE, NAN)]
        if poisoned or not changes:
            curve.draw(right, "train/loss", linestyle="--" if poisoned and not changes else "-")
    left.set_yscale("log")
    show(left, f"loss of each step; poison at {WRONG}, {HUGE}, {NAN}")
    show(right, f"mean of {MEAN_OF} steps that are not poisoned", low=2.4, high=4)


PICTURES = {"learning_rate": draw_learning_rate, "batch_size": draw_batch_size, "warmup": draw_warmup,
            "weight_decay": draw_weight_decay, "clipping": draw_clipping, "optimizer": draw_optimizer,
            "schedule": draw_schedule, "spikes": draw_spikes}


def main(names):
    figures, image = load_extra("matplotlib.figure", "plots"), load_extra("PIL.Image", "plots")     # matplotlib brings the other
    (HERE / "pictures").mkdir(exist_ok=True)
    for name in names or PICTURES:
        print(name, flush=True)
        figure = figures.Figure(**PAIR)
        PICTURES[name](figure)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=100)
        image.open(drawn).convert("RGB").quantize(96).save(HERE / "pictures" / f"{name}.png", optimize=True)     # a third of the bytes


if __name__ == "__main__":
    main(sys.argv[1:])
