"""Poisoned batches, with the monitor and without: what they do to a run of 500 steps on real text."""

import numpy as np
import pytest

from numpyllm.data import Batches, topics_text
from numpyllm.errors import InputError
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import TrainConfig, Trainer, TrainingDiverged

WRONG, HUGE, NAN = 160, 240, 450        # steps whose batch is poisoned
CONFIG = TrainConfig(batch_size=8, max_iters=500, eval_interval=500, eval_iters=40, log_interval=500, warmup_iters=20,
                     learning_rate=5e-3, beta2=0.999, grad_clip=0.0, threads=1)


def train(tokens, tokenizer, poisoned, observers=(), **changes):
    """A run without clipping, which would be the other protection -> final validation loss, Trainer."""
    config = CONFIG.__class__(**(vars(CONFIG) | changes))
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=tokenizer.n_vocab), seed=1)
    cut = len(tokens) * 9 // 10
    source, gradients = Batches(tokens[:cut], batch_size=8, block_size=16, seed=1), model.loss_and_gradients

    def batches(step, micro=0):
        ids, targets = source(step, micro)
        return ids, np.full_like(targets, tokenizer.n_vocab - 1) if poisoned and step == WRONG else targets

    def loss_and_gradients(ids, targets, *, scale, draws):
        if poisoned and draws.step == HUGE:                     # as if an exponent's bit had flipped
            loss, count = gradients(ids, targets, scale=1000 * scale, draws=draws)
            return 1000 * loss, count
        found = gradients(ids, targets, scale=scale, draws=draws)
        if poisoned and draws.step == NAN:
            model.parameters.grad[7] = np.nan
        return found

    model.loss_and_gradients = loss_and_gradients
    made = Trainer(model, config, batches, tokens[cut:], tokenizer, observers=observers, log=lambda line: None)
    made.run()
    return made.evaluate().loss, made


@pytest.fixture(scope="module")
def text():
    """150,000 characters of Python's language reference: ids, tokenizer."""
    try:
        text = topics_text()[:150_000]
    except InputError as error:
        pytest.skip(str(error))
    tokenizer = CharacterTokenizer.train(text)
    return tokenizer.encode_to_numpy(text), tokenizer


def test_the_monitor_saves_a_poisoned_run(text):
    """Within 1 % of the clean run; without the monitor more than 10 % worse (measured: 0.05 % and 15 %)."""
    clean, without_poison = train(*text, False)
    watched, made = train(*text, True)
    unwatched, careless = train(*text, True, spike_zscore=0.0)
    assert without_poison.skipped == [] and made.skipped == [[step, step] for step in (WRONG, HUGE, NAN)]
    assert abs(watched - clean) < 0.01 * clean and unwatched > 1.1 * clean
    assert careless.skipped == [[NAN, NAN]]         # never learnt from, monitor or not


def test_without_any_rule_training_stops_at_the_first_gradient_that_is_no_number(text):
    with pytest.raises(TrainingDiverged, match=f"gradient norm nan at step {NAN}"):
        train(*text, True, spike_zscore=0.0, skip_nonfinite=False)
