"""A real run, as small as can be: `python tiny_run.py FOLDER [field=value ...]` begins it, or resumes it where there is a
checkpoint. Dropout, accumulation, poisoned batches and all; the text, so that nothing is compiled."""

import signal
import sys
import time
from dataclasses import replace

import numpy as np

from numpyllm.data import Batches
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import RunFolder, TrainConfig, Trainer, newest_checkpoint
from numpyllm.training.checkpoint import checkpoints

TEXT = "the quick brown fox jumps over the lazy dog. " * 40
TOKENIZER = CharacterTokenizer.train(TEXT)
TOKENS = TOKENIZER.encode_to_numpy(TEXT)
MODEL = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=8, vocab_size=TOKENIZER.n_vocab, dropout=0.1)
TRAIN = TrainConfig(batch_size=4, gradient_accumulation_steps=2, max_iters=60, eval_interval=5, eval_iters=1, log_interval=10,
                    warmup_iters=3, learning_rate=1e-2, threads=2, spike_window=8, spike_zscore=5.0, spike_patience=2)
SPIKES = (23, 37, 38)       # positions of poisoned batches: the last two are spikes in a row


class Poisoned(Batches):
    """Batches of which some have another target than the text: the character that is never right there."""

    def __init__(self, *args, spikes=(), sleep_at=None, **settings):
        super().__init__(*args, **settings)
        self.spikes, self.sleep_at = spikes, sleep_at

    def __call__(self, step, micro=0):
        ids, targets = super().__call__(step, micro)
        if step == self.sleep_at:
            print("asleep", flush=True)
            time.sleep(1.0)
        return ids, (targets + 13) % TOKENIZER.n_vocab if step in self.spikes else targets


def make(folder=None, *, spikes=SPIKES, sleep_at=None, log=lambda line: None, observers=(), **changes):
    """-> Trainer, resumed if the folder holds a checkpoint."""
    config = replace(TRAIN, **changes)
    source = Poisoned(TOKENS, batch_size=4, block_size=8, seed=1, spikes=spikes, sleep_at=sleep_at)
    resume = folder is not None and bool(checkpoints(folder))
    run = None if folder is None else RunFolder(folder, resume=resume, overwrite=not resume)
    made = Trainer(GPT(MODEL, seed=1), config, source, np.roll(TOKENS, 500), TOKENIZER, run_folder=run,
                   observers=observers, log=log)
    if run is not None:
        run.open(made.resume(newest_checkpoint(folder))["metrics_bytes"] if resume else 0)
    return made


def main(folder, *changes):
    trainer = make(folder, log=lambda line: print(line, flush=True),
                   **{name: int(value) for name, value in (change.split("=") for change in changes)})
    print("ready", flush=True)
    return 0 if trainer.run() else 128 + trainer.stopped_by


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)        # a shell may start background jobs with it ignored
    sys.exit(main(*sys.argv[1:]))
