"""Schedules, the optimiser's groups, the loop, checkpoints and resuming."""

import errno
import json
import math
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from numpyllm import ops
from numpyllm.backend import load_backend
from numpyllm.data import Batches
from numpyllm.errors import InputError
from numpyllm.models import GPT, GPTConfig
from numpyllm.random import Draws
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import (AdamW, RunFolder, TrainConfig, Trainer, TrainingDiverged, checkpoint, clip_scale, evaluate,
                               gradient_norm, learning_rate, load_checkpoint, load_model, newest_checkpoint, replicas)
from numpyllm.training.optimizer import OPTIMIZERS
from numpyllm.training.schedule import micro_batches

TEXT = "the quick brown fox jumps over the lazy dog. " * 40
TOKENIZER = CharacterTokenizer.train(TEXT)
TOKENS = TOKENIZER.encode_to_numpy(TEXT)
VAL_TOKENS = np.roll(TOKENS, 500)       # another text, so that nobody takes one for the other
MODEL = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=TOKENIZER.n_vocab, dropout=0.2)
TRAIN = TrainConfig(batch_size=4, gradient_accumulation_steps=2, max_iters=12, eval_interval=4, eval_iters=2, log_interval=2,
                    warmup_iters=3, learning_rate=1e-2)


def make_trainer(folder=None, *, resume=False, config=TRAIN, model=MODEL, **settings):
    run = None if folder is None else RunFolder(folder, resume=resume)
    made = Trainer(GPT(model, seed=1), config, TOKENS, VAL_TOKENS, TOKENIZER, run_folder=run, **({"log": lambda line: None} | settings))
    if resume:
        state = made.resume(newest_checkpoint(folder))
        run.open(state["metrics_bytes"])
    elif run:
        run.open()
    return made


def test_learning_rate_follows_the_schedule():
    config = TrainConfig(learning_rate=1.0, min_lr=0.1, warmup_iters=4, max_iters=24)
    assert [learning_rate(config, i) for i in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert learning_rate(config, 4) == 1.0 and learning_rate(config, 14) == pytest.approx(0.55)
    assert learning_rate(config, 24) == pytest.approx(0.1) and learning_rate(config, 999) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate(replace(config, schedule="linear"), 9) == pytest.approx(0.1 + 0.9 * 0.75)
    assert learning_rate(replace(config, schedule="constant"), 999) == 1.0
    stable = replace(config, schedule="wsd", cooldown_fraction=0.25)
    assert [learning_rate(stable, step) for step in (4, 18, 19)] == [1.0, 1.0, 1.0]
    assert [learning_rate(stable, step) for step in (20, 21, 24, 99)] == pytest.approx([0.82, 0.64, 0.1, 0.1])


def test_batches_grow_by_whole_micro_batches():
    config = replace(TRAIN, gradient_accumulation_steps=5, batch_warmup_iters=8)
    assert [micro_batches(config, step) for step in range(10)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert micro_batches(replace(config, batch_warmup_iters=0), 0) == 5
    made = make_trainer(config=config)
    assert [made.train_step().tokens for _ in range(9)] == [4 * 8 * n for n in (1, 1, 2, 2, 3, 3, 4, 4, 5)]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_optimizers_update_by_their_rules(name, backend):
    """Decay on matrices for SGD, none for Adam; parts of the arrays, as replicas take them."""
    model = GPT(MODEL, seed=1, ops=load_backend(backend))
    config = replace(TRAIN, optimizer=name, weight_decay=0.3, beta1=0.8, beta2=0.95, momentum=0.7)
    optimizer = OPTIMIZERS[name](config, model.parameters, model.ops)
    expected, cut = model.parameters.data.copy(), model.parameters.n_decayed
    m, v = np.zeros((2, expected.size), np.float32)
    for step in (1, 2):
        model.parameters.grad[...] = np.random.default_rng(step).standard_normal(expected.size)
        for part in (slice(0, cut - 5), slice(cut - 5, expected.size)):
            optimizer.update_part(part, 0.1, 0.5)
        optimizer.steps += 1
        for part, decay in ((slice(0, cut), 0.3), (slice(cut, None), 0.0)):
            if name == "adam":
                ops.adamw_update(expected[part], model.parameters.grad[part], m[part], v[part], step=step, lr=0.1, beta1=0.8,
                                 beta2=0.95, scale=0.5)
            else:
                ops.sgd_update(expected[part], model.parameters.grad[part], m[part], lr=0.1, momentum=0.7, weight_decay=decay,
                               scale=0.5)
    assert np.allclose(model.parameters.data, expected, rtol=1e-5, atol=1e-6)
    assert (model.parameters.data != GPT(MODEL, seed=1).parameters.data).mean() > 0.9


@pytest.mark.parametrize("changes, words", [
    ({"schedule": "cosin"}, "schedule must be one of constant, cosine, linear, wsd, got 'cosin'"),
    ({"max_iters": 0}, "max_iters must be a whole number of at least 1"),
    ({"batch_size": -1}, "batch_size must be"),
    ({"learning_rate": float("nan")}, "learning_rate must be at least 0"),
    ({"beta2": 1.0}, "beta2 must be at least 0 and below 1"),
    ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
    ({"optimizer": "adamax"}, "optimizer must be one of adamw, adam, sgd, got 'adamax'"),
    ({"cooldown_fraction": 0.0}, "cooldown_fraction must be above 0"), ({"spike_lr_factor": 2.0}, "must be above 0 and at most 1"),
    ({"spike_zscore": -1.0}, "spike_zscore must be at least 0"), ({"spike_patience": 0}, "spike_patience must be"),
    ({"keep_checkpoints": 0}, "keep_checkpoints must be a whole number of at least 1")])
def test_bad_training_configurations_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        replace(TRAIN, **changes)


def test_only_matrices_are_decayed():
    model = GPT(MODEL, seed=1)
    for name in model.parameters:
        model.parameters[name][...] = 1
    model.parameters.settle_gradients()
    AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.99, weight_decay=0.5).update(0.1)
    for name in model.parameters:
        assert (model.parameters[name] == (np.float32(0.95) if model.parameters[name].ndim == 2 else 1)).all(), name


def test_gradient_norm_and_clipping():
    grad = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    assert gradient_norm(grad) == pytest.approx(np.linalg.norm(grad.astype(np.float64)), rel=1e-6)
    assert clip_scale(2.0, 1.0) == 0.5 and clip_scale(0.5, 1.0) == 1.0 and clip_scale(9.0, 0) == 1.0


def test_a_clipped_step_is_a_step_with_the_scaled_gradient():
    a, b = (make_trainer(config=replace(TRAIN, grad_clip=clip)) for clip in (1e-3, 0.0))
    norm = a.train_step().grad_norm
    assert norm > 1e-3 and norm == b.train_step().grad_norm
    assert np.allclose(a.optimizer.m * (norm / 1e-3), b.optimizer.m, rtol=1e-4, atol=1e-9)


def test_training_learns_and_reports(tmp_path):
    lines = []
    made = make_trainer(tmp_path / "run", config=replace(TRAIN, max_iters=60, eval_interval=30), log=lines.append,
                        sample=lambda model: "a\nsample" + 60 * "\n")
    assert made.run()
    metrics = made.run_folder.read_metrics()
    losses = [line["val/loss"] for line in metrics if "val/loss" in line]
    assert losses[0] == pytest.approx(math.log(TOKENIZER.n_vocab), rel=0.05) and losses[-1] < 0.8 * losses[0]
    assert [line["step"] for line in metrics if "val/loss" in line] == [0, 30, 60]
    groups = {"embedding", "blocks.0", "blocks.1", "norm"}
    assert set(metrics[1]) == {"step", "train/loss", "train/lr", "train/grad_norm", "train/tok_per_sec"} | {
        f"grad_norm/{group}" for group in groups}
    assert math.hypot(*(metrics[1][f"grad_norm/{group}"] for group in groups)) == pytest.approx(metrics[1]["train/grad_norm"])
    assert any(line.startswith("step  2/60  loss ") and "tokens/s" in line and "left" in line for line in lines)
    assert "  | a\n  | sample\n  | \n  | " in lines                # not sixty empty ones


def test_evaluation_is_in_nats_and_bits_per_byte():
    model = GPT(MODEL)
    ids = np.array([[0, 1, 2], [3, 4, 5]])
    targets = np.array([[1, 2, -1], [4, 5, 6]])
    lengths = np.arange(10, 10 + TOKENIZER.n_vocab)
    found = evaluate(model, [(ids[:1], targets[:1]), (ids[1:], targets[1:])], lengths)
    total, count = model.loss(ids, targets)
    assert found.loss == pytest.approx(float(total) / 5, rel=1e-6) and found.tokens == count == 5
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.bits_per_byte == pytest.approx(float(total) / math.log(2) / (11 + 12 + 14 + 15 + 16), rel=1e-6)


@pytest.mark.parametrize("k", [1, 4, 7])
def test_resuming_continues_with_the_same_bits(tmp_path, k):
    """With dropout, accumulation, and a stop at an evaluation or between two."""
    whole = make_trainer(tmp_path / "whole")
    whole.run()
    first = make_trainer(tmp_path / "parts")
    for _ in range(k):
        first.train_step()
    first.save()
    first.run_folder.close()
    second = make_trainer(tmp_path / "parts", resume=True)
    assert second.step == k
    assert second.run()
    for a, b in ((whole.model.parameters.data, second.model.parameters.data), (whole.optimizer.m, second.optimizer.m),
                 (whole.optimizer.v, second.optimizer.v)):
        assert a.tobytes() == b.tobytes()


def test_resuming_cuts_the_metrics_to_the_checkpoint(tmp_path):
    whole = make_trainer(tmp_path / "run", config=replace(TRAIN, max_iters=4))
    whole.run()
    length = (tmp_path / "run" / "metrics.jsonl").stat().st_size
    whole.run_folder.write_metrics(99, {"train/loss": 1.0})
    resumed = make_trainer(tmp_path / "run", resume=True, config=replace(TRAIN, max_iters=6))
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size == length
    resumed.run()
    steps = [line["step"] for line in resumed.run_folder.read_metrics()]
    assert steps == sorted(steps) and 99 not in steps and steps[-1] == 6


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    made = make_trainer(tmp_path / "run", config=replace(TRAIN, max_iters=1000))
    step = made.train_step

    def interrupted_step():
        if made.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    made.train_step = interrupted_step
    assert made.run() is False
    assert made.step == 6 and newest_checkpoint(tmp_path / "run").name == "step_00000006"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_trainer_runs_outside_the_main_thread():
    made = make_trainer()
    thread = threading.Thread(target=made.run)
    thread.start()
    thread.join()
    assert made.step == 12


def test_no_update_from_a_gradient_that_is_no_number():
    for skip in (True, False):
        made = make_trainer(config=replace(TRAIN, skip_nonfinite=skip))
        made.train_step()
        made.model.norm.w[0] = np.nan
        before = made.model.parameters.data.copy()
        if skip:
            assert made.train_step().updated is False and made.step == 2
        else:
            with pytest.raises(TrainingDiverged, match="at step 1"):
                made.train_step()
        assert np.array_equal(before, made.model.parameters.data, equal_nan=True) and made.optimizer.steps == 1


def test_checkpoint_round_trip(tmp_path):
    made = make_trainer(tmp_path / "run")
    made.run()
    folder = newest_checkpoint(tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == ["adam_m.npy", "adam_v.npy", "manifest.json", "params.npy",
                                                              "state.json", "tokenizer.json"]
    model, tokenizer, state = load_model(tmp_path / "run")
    assert np.array_equal(model.parameters.data, made.model.parameters.data) and state["step"] == 12
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"
    assert newest_checkpoint(folder) == folder


@pytest.mark.parametrize("damage, words", [
    (lambda folder: (folder / "params.npy").write_bytes((folder / "params.npy").read_bytes()[:-1]), "damaged"),
    (lambda folder: flip(folder / "adam_m.npy"), "damaged"),
    (lambda folder: (folder / "adam_v.npy").unlink(), "no whole checkpoint"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "no valid JSON"),
    (lambda folder: (folder / "manifest.json").write_text("[1]"), "manifest must list"),
    (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest must list params.npy, state.json"),
    (lambda folder: (folder / "state.json").write_text("{}"), "damaged")])
def test_damaged_checkpoints_are_refused(tmp_path, damage, words):
    made = make_trainer(tmp_path / "run")
    made.train_step()
    made.save()
    damage(newest_checkpoint(tmp_path / "run"))
    with pytest.raises(InputError, match=words):
        load_checkpoint(newest_checkpoint(tmp_path / "run"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    make_trainer(tmp_path / "run").run()
    with pytest.raises(InputError, match="must hold the parameters of this model"):
        make_trainer(tmp_path / "run", resume=True, model=replace(MODEL, n_embd=32))


def forge(run, *, arrays=(), state=()):
    """Change a checkpoint and make its manifest fit again: (name, array) pairs, and (key, value) pairs of its state."""
    folder = newest_checkpoint(run)
    for name, array in arrays:
        np.save(folder / name, array)
    held = json.loads((folder / "state.json").read_text()) | dict(state)
    (folder / "state.json").write_text(json.dumps({k: v for k, v in held.items() if v != "gone"}))
    (folder / "manifest.json").write_text(json.dumps({path.name: {"bytes": path.stat().st_size, "sha256": checkpoint._sha256(path)}
                                                      for path in folder.iterdir() if path.name != "manifest.json"}))


@pytest.mark.parametrize("change, words", [
    ({"arrays": [("params.npy", np.zeros(3, np.float32))]}, "params.npy must have shape"),
    ({"arrays": [("params.npy", np.zeros(1, np.complex64))]}, "params.npy must have shape"),
    ({"arrays": [("params.npy", np.full(1, np.nan, np.float32))]}, "must hold finite numbers only|must have shape"),
    ({"arrays": [("params.npy", np.array(["a"]))]}, "params.npy must have shape"),
    ({"state": [("step", -1)]}, "must hold step as int, got -1"), ({"state": [("step", None)]}, "must hold step as int"),
    ({"state": [("model", "gone")]}, "must hold model as dict"), ({"state": [("model", {"n_layers": 3})]}, "describes no GPTConfig"),
    ({"state": [("metrics_bytes", 1.5)]}, "must hold metrics_bytes as int")])
def test_forged_checkpoints_are_refused(tmp_path, change, words):
    made = make_trainer(tmp_path / "run")
    made.train_step()
    made.save()
    forge(tmp_path / "run", **change)
    with pytest.raises(InputError, match=words):
        load_model(tmp_path / "run")


def test_parameters_that_are_no_numbers_are_refused(tmp_path):
    made = make_trainer(tmp_path / "run")
    made.save()
    broken = made.model.parameters.data.copy()
    broken[5] = np.inf
    forge(tmp_path / "run", arrays=[("params.npy", broken)])
    with pytest.raises(InputError, match="must hold finite numbers only"):
        load_model(tmp_path / "run")


def test_a_step_is_what_its_parts_say():
    """Batches, draws, accumulation, norm, clipping, schedule and update, put together by hand: the same bits."""
    config = replace(TRAIN, beta1=0.8, beta2=0.95, weight_decay=0.3, grad_clip=0.5, threads=1, min_lr=1e-3)
    made, model = make_trainer(config=config), GPT(MODEL, seed=1)
    m, v = np.zeros((2, model.parameters.n_trainable), np.float32)
    batches = Batches(TOKENS, batch_size=4, block_size=8, seed=config.seed)
    for step in range(5):
        result = made.train_step()
        model.parameters.clear_gradients()
        total = 0.0
        for micro in (0, 1):
            ids, targets = batches(step, micro)
            loss, _ = model.loss_and_gradients(ids, targets, scale=1 / 64, draws=Draws(config.seed, step=step, micro=micro))
            total += float(loss)
        grad = model.parameters.grad
        norm = gradient_norm(grad)
        cut = model.parameters.n_decayed
        for part, decay in ((slice(0, cut), 0.3), (slice(cut, None), 0.0)):
            ops.adamw_update(model.parameters.data[part], grad[part], m[part], v[part], step=step + 1,
                             lr=learning_rate(config, step), beta1=0.8, beta2=0.95, weight_decay=decay, scale=0.5 / norm)
        assert norm > 0.5 and result.loss == total / 64 and result.grad_norm == norm and result.lr == learning_rate(config, step)
        assert made.model.parameters.data.tobytes() == model.parameters.data.tobytes()


def test_evaluation_is_on_the_validation_text_the_same_batches_each_time():
    made = make_trainer()
    batches = [Batches(VAL_TOKENS, batch_size=4, block_size=8, seed=TRAIN.seed, name="validation")(i) for i in (0, 1)]
    assert made.evaluate() == made.evaluate() == evaluate(made.model, batches, TOKENIZER.token_byte_lengths)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n", [2, 3])
def test_replicas_give_one_batchs_gradient_to_rounding_and_the_same_bits_twice(n, shared, monkeypatch):
    """Two micro-batches a step and a tied head: several contributions to one gradient."""
    monkeypatch.setattr(replicas, "PRIVATE", 0 if shared else 1 << 24)
    one, many, again = (make_trainer(config=replace(TRAIN, threads=threads)) for threads in (1, n, n))
    for made in (one, many, again):
        for _ in range(3):
            made.train_step()
    assert len(many.replicas) == n
    assert many.model.parameters.data.tobytes() == again.model.parameters.data.tobytes()
    difference = np.linalg.norm(many.model.parameters.data - one.model.parameters.data)
    assert 0 < difference < 1e-4 * np.linalg.norm(one.model.parameters.data)


def test_no_more_replicas_than_sequences():
    made = make_trainer(config=replace(TRAIN, threads=9))
    assert len(made.replicas) == TRAIN.batch_size and made.train_step().loss > 0
    with pytest.raises(ValueError, match="needs a row of every micro-batch"):
        made.replicas.step([(np.ones((3, 8), int),) * 2], made.optimizer, lr=0.1, grad_clip=1.0, draws=lambda micro, row: None)


@pytest.mark.parametrize("shared", [False, True])
def test_an_exception_in_a_replica_reaches_the_caller_and_the_next_step_works(shared, monkeypatch):
    monkeypatch.setattr(replicas, "PRIVATE", 0 if shared else 1 << 24)
    made = make_trainer(config=replace(TRAIN, threads=2))
    broken = made.replicas.models[1]
    whole, broken.loss_and_gradients = broken.loss_and_gradients, None
    with pytest.raises(TypeError, match="not callable"):
        made.train_step()
    broken.loss_and_gradients = whole
    assert made.train_step().loss > 0

@pytest.mark.parametrize("fault", ["write", "fsync", "rename"])
def test_a_failing_disk_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch, fault):
    made = make_trainer(tmp_path / "run")
    made.train_step()
    made.save()
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"write": (checkpoint, "write_array"), "fsync": (os, "fsync"), "rename": (os, "rename")}[fault]
    monkeypatch.setattr(*target, full)
    made.train_step()
    with pytest.raises((OSError, InputError), match="No space"):
        made.save()
    assert {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()} == before
    monkeypatch.undo()
    made.save()
    assert newest_checkpoint(tmp_path / "run").name == "step_00000002"


def test_run_folder_protects_what_is_there(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is not empty: give --overwrite to replace"):
        RunFolder(run)
    with pytest.raises(InputError, match="holds no checkpoint"):
        RunFolder(run, resume=True)
    with pytest.raises(InputError, match="give one of them"):
        RunFolder(run, resume=True, overwrite=True)
    with pytest.raises(InputError, match="is no folder"):
        RunFolder(run / "mine.txt")
    (run / "metrics.jsonl").write_text("{}\n")
    for name in ("step_by_step", "step_00000012_best", "step_00000007"):
        (run / name).mkdir()
        (run / name / "mine").write_text("precious")
    (run / "holiday.png").write_text("precious")
    folder = RunFolder(run, overwrite=True)
    assert (run / "metrics.jsonl").read_text() == "{}\n"          # untouched until it is opened
    folder.open()
    mine = [run / "mine.txt", run / "holiday.png", *(run / name / "mine" for name in ("step_by_step", "step_00000012_best"))]
    assert all(path.read_text() == "precious" for path in mine) and (run / "metrics.jsonl").read_text() == ""
    assert (run / "step_00000007" / "mine").exists()                # it has no manifest: no checkpoint of ours
    with pytest.raises(InputError, match="in use by another run"):
        RunFolder(run, overwrite=True).open()
    folder.close()
    RunFolder(run, overwrite=True).open().close()


def test_a_folder_that_was_filled_meanwhile_is_not_cleared(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("precious")
    with pytest.raises(InputError, match="is not empty"):
        folder.open()


@pytest.mark.parametrize("path, words", [("", "an empty name"), ("file/run", "no folder that can be written"),
                                         ("whole", "is a checkpoint, not a run")])
def test_folders_that_cannot_be_used_are_refused_at_once(tmp_path, path, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=words):
        RunFolder(path and tmp_path / path, resume=path == "whole")

def test_metrics_are_one_object_a_line(tmp_path):
    run = RunFolder(tmp_path / "run").open()
    run.write_metrics(1, {"train/loss": 2.5})
    run.write_metrics(2, {"val/loss": 2.25})
    assert [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "train/loss": 2.5}, {"step": 2, "val/loss": 2.25}]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    a, b, c = (make_trainer(config=replace(TRAIN, seed=seed)) for seed in (1, 1, 2))
    for made in (a, b, c):
        made.run()
    assert a.model.parameters.data.tobytes() == b.model.parameters.data.tobytes() != c.model.parameters.data.tobytes()


class Falling:
    """An evaluation whose loss was lowest at the second of them."""

    losses = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0]

    def __init__(self, number):
        self.loss = self.losses[number]

    def __str__(self):
        return f"loss {self.loss}"

    def metrics(self):
        return {"val/loss": self.loss, "val/accuracy": 0.5}


def test_training_ends_when_patience_does_and_a_resumed_run_has_no_more(tmp_path):
    config, lines, calls = replace(TRAIN, max_iters=20, eval_interval=2, patience=2), [], []
    made = make_trainer(tmp_path / "run", config=config, log=lines.append, evaluate=lambda: Falling(calls.append(0) or len(calls) - 1))
    assert made.run()
    assert made.step == 6 and made.best == [1.0, 2] and "lowest, 1.0000, after step 2" in lines[-1]
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "val/accuracy" in line] == [0, 2, 4, 6]
    again = make_trainer(tmp_path / "run", resume=True, config=config, evaluate=lambda: Falling(5))
    assert again.run() and again.step == 6


class HalfLoss:
    """An objective around a model: half its loss, and batches with one array more."""

    def __init__(self, model):
        self.model, self.parameters = model, model.parameters

    def replica(self, parameters):
        return HalfLoss(self.model.replica(parameters))

    def count(self, ids, targets, more):
        assert len(more) == len(ids)
        return 2 * targets.size

    def loss_and_gradients(self, ids, targets, more, *, scale, draws):
        assert len(more) == len(ids)
        return self.model.loss_and_gradients(ids, targets, scale=scale, draws=draws)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_objective_is_minimised_in_place_of_the_models_loss(threads):
    config = replace(TRAIN, threads=threads)
    plain = make_trainer(config=config)
    source = lambda step, micro=0: (*plain.batches(step, micro), np.zeros(config.batch_size))
    model = GPT(MODEL, seed=1)
    made = Trainer(model, config, source, None, TOKENIZER, objective=HalfLoss(model), evaluate=lambda: Falling(0), log=lambda line: None)
    for _ in range(3):
        whole, half = plain.train_step(), made.train_step()
        assert half.loss == pytest.approx(whole.loss / 2, rel=1e-4) and half.grad_norm == pytest.approx(whole.grad_norm / 2, rel=1e-3)
