"""Draw the pictures of docs/sampling.md, from a small model trained on the embedded corpus: two minutes on one core.

    python docs/make_sampling_pictures.py               all of them
    python docs/make_sampling_pictures.py temperature   only this one

Prints the figures and texts that the chapter quotes. Needs the extra `plots`.
"""

import sys
from pathlib import Path

import numpy as np

from numpyllm.backend import load_backend
from numpyllm.data import docstrings_text, topics_text
from numpyllm.extras import load_extra
from numpyllm.inference import Continuation, Decoder, Sampling, beam_search, candidates, continue_text, log_softmax, token_probabilities
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer
from numpyllm.training import TrainConfig, Trainer

HERE = Path(__file__).parent
STEPS, SHOWN, LENGTH = 1500, 12, 60
OPEN, SURE = "The function", "If it fails, raise a Value"      # many tokens may follow the first, few the second


class Model:
    """Trained at first use; what it says after a prompt."""

    def __init__(self):
        text = topics_text() + docstrings_text()
        self.tokenizer = BytePairTokenizer.train(text, 1024)
        tokens = self.tokenizer.encode_to_numpy(text, disallowed_special=())
        cut = len(tokens) * 9 // 10
        model = GPT(GPTConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=self.tokenizer.n_vocab), ops=load_backend(), seed=1)
        config = TrainConfig(batch_size=12, max_iters=STEPS, learning_rate=2e-3, warmup_iters=50, eval_interval=STEPS, threads=1)
        trainer = Trainer(model, config, tokens[:cut], tokens[cut:], self.tokenizer, log=lambda line: None)
        trainer.run()
        print(f"validation loss after {STEPS} steps: {trainer.evaluate().loss:.3f}")
        self.decoder = Decoder(model, sequences=8)

    def logits(self, prompt):
        return self.decoder.start(self.tokenizer.encode(prompt))

    def name(self, token):
        return repr(self.tokenizer.decode_tokens_bytes([token])[0].decode("utf-8", errors="replace"))

    def drawn(self, prompt, seed=0, **settings):
        """-> text, log-probability of each token."""
        text = Continuation(self.tokenizer.encode(prompt), LENGTH, sampling=Sampling(**settings), seed=seed, logprobs=0)
        tokens = list(continue_text(self.decoder, text))
        return self.tokenizer.decode(tokens), np.array([noted.chosen for noted in text.logprobs])

    def searched(self, prompt, beams):
        """As drawn, for the best of so many beams."""
        ids = self.tokenizer.encode(prompt)
        best = beam_search(self.decoder, ids, LENGTH, beams=beams)[0]
        rows = [self.decoder.start(ids), *self.decoder.extend(best.tokens[:-1])]
        return self.tokenizer.decode(best.tokens), np.array([log_softmax(row)[i] for row, i in zip(rows, best.tokens, strict=True)])


def bars(axes, model, order, p, title, kept=None):
    """The probabilities of the likeliest tokens, those outside `kept` pale."""
    colours = ["tab:blue" if kept is None or i in kept else "lightgray" for i in order]
    axes.barh(range(len(order)), p[order], color=colours)
    axes.set_yticks(range(len(order)), [model.name(i) for i in order], fontsize=7, family="monospace")
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, fontsize=8)


def draw_temperature(figure, model):
    logits = model.logits(OPEN)
    order = np.argsort(-logits)[:SHOWN]
    for axes, temperature in zip(figure.subplots(1, 3, sharey=True), (0.5, 1.0, 2.0), strict=True):
        p = token_probabilities(logits, Sampling(temperature=temperature))
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        print(f"  temperature {temperature}: likeliest {p.max():.3f}, perplexity {np.exp(entropy):.1f}, "
              f"outside these {SHOWN} {1 - p[order].sum():.3f}")
        bars(axes, model, order, p, f"temperature {temperature:g}")


def draw_cuts(figure, model):
    cuts = [("top_k 5", {"top_k": 5}), ("top_p 0.8", {"top_p": 0.8}), ("min_p 0.1", {"min_p": 0.1})]
    for row, prompt in zip(figure.subplots(2, 3), (OPEN, SURE), strict=True):
        logits = model.logits(prompt)
        order, p = np.argsort(-logits)[:SHOWN], token_probabilities(logits, Sampling())
        for axes, (title, settings) in zip(row, cuts, strict=True):
            kept, _ = candidates(logits, Sampling(**settings))
            print(f"  {prompt!r}, {title}: {len(kept)} tokens, which had {p[kept].sum():.3f}")
            bars(axes, model, order, p, f"{title}: {len(kept)} tokens", set(kept.tolist()))
        row[0].set_ylabel(repr(prompt), fontsize=8)


def draw_surprise(figure, model):
    axes = figure.subplots()
    ways = [("greedy", model.drawn(OPEN, temperature=0)), ("4 beams", model.searched(OPEN, 4)),
            ("temperature 1", model.drawn(OPEN)), ("temperature 0.8, top_p 0.9", model.drawn(OPEN, temperature=0.8, top_p=0.9)),
            ("temperature 1, top_p 0.9, repetition_penalty 1.2", model.drawn(OPEN, top_p=0.9, repetition_penalty=1.2))]
    for label, (text, logs) in ways:
        print(f"  {label}: log-probability {logs.sum():.1f}, a token {np.exp(logs.mean()):.3f}\n    {text!r}")
        if "penalty" not in label:
            axes.plot(np.exp(logs), linewidth=1, label=label)
    axes.set_xlabel("token", fontsize=8)
    axes.set_ylabel("probability in the model", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)


PICTURES = {"temperature": ((8, 3), draw_temperature), "cuts": ((8, 5), draw_cuts), "surprise": ((8, 2.8), draw_surprise)}


def main(names):
    figures, matplotlib = load_extra("matplotlib.figure", "plots"), load_extra("matplotlib", "plots")
    matplotlib.rcParams["svg.hashsalt"] = "numpyllm"            # the same bytes each time
    matplotlib.rcParams["svg.fonttype"] = "none"                # text as text: a third of the size
    (HERE / "pictures").mkdir(exist_ok=True)
    model = Model()
    for name in names or PICTURES:
        print(name)
        size, draw = PICTURES[name]
        figure = figures.Figure(figsize=size, layout="constrained")
        draw(figure, model)
        figure.savefig(HERE / "pictures" / f"sampling_{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
