"""Frozen parameters: no gradient, no moments, no work; what is trained beside them is trained as if nothing were frozen."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import tiny_run

from numpyllm import kernels, ops
from numpyllm.errors import InputError
from numpyllm.models import GPT, LSTMLM, GPTConfig, LSTMConfig
from numpyllm.training import AdamW, RunFolder, TrainConfig, Trainer, checkpoint, replicas
from numpyllm.training.compile import compile_kernels
from numpyllm.training.replicas import Replicas
from numpyllm.workspace import Workspace

CONFIG = GPTConfig(n_layer=3, n_head=2, n_embd=8, block_size=6, vocab_size=11)
LLAMA = GPTConfig(n_layer=3, n_head=2, n_embd=8, block_size=6, vocab_size=11, position="rotary", norm="rmsnorm", mlp="swiglu", bias=False,
                  tied=False)
LSTM = LSTMConfig(n_layer=3, n_embd=8, vocab_size=11)
IDS, TARGETS = np.random.default_rng(0).integers(0, 11, (2, 4, 6))
PREDICATES = {
    "last block": lambda name: name.startswith("blocks.2"),
    "block 1 and norms": lambda name: name.startswith("blocks.1") or "norm" in name,
    "biases": lambda name: name.endswith(".b"),
    "positions": lambda name: name == "embedding.wpe",
    "table": lambda name: name == "embedding.wte",
    "head": lambda name: name in ("head.w", "norm.w"),
    "nothing": lambda name: False,
}


def gradients(model):
    model.parameters.clear_gradients()
    loss, _ = model.loss_and_gradients(IDS, TARGETS)
    model.parameters.settle_gradients()
    return loss, {name: model.parameters.gradient(name) for name in model.parameters}


@pytest.mark.parametrize("backend", [ops, kernels])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind, config", [(GPT, CONFIG), (GPT, LLAMA), (LSTMLM, LSTM)])
@pytest.mark.parametrize("choice", PREDICATES)
def test_gradients_are_those_of_a_model_without_frozen_parts(choice, kind, config, recompute, backend):
    trainable = PREDICATES[choice]
    true_loss, expected = gradients(kind(config, dtype=np.float64))
    with Workspace(poison=True).activate():
        loss, found = gradients(kind(config, ops=backend, dtype=np.float64, recompute=recompute, trainable=trainable))
    assert loss == pytest.approx(true_loss, rel=1e-14)
    for name, gradient in found.items():
        if trainable(name):
            assert np.abs(gradient - expected[name]).max() <= 1e-13, name
        else:
            assert gradient is None


def test_gradients_and_moments_have_memory_for_what_is_trained_alone():
    model = GPT(CONFIG, trainable=PREDICATES["last block"])
    parameters = model.parameters
    trained = [name for name in parameters if parameters.specs[name].trainable]
    assert set(trained) == {name for name in parameters if name.startswith("blocks.2")}
    room = sum(-(-parameters[name].size // 16) * 16 for name in trained)            # up to the next 64 bytes
    optimizer = AdamW(parameters, ops, beta1=0.9, beta2=0.95, weight_decay=0.1)
    assert parameters.grad.size == parameters.n_trainable == optimizer.m.size == optimizer.v.size == room
    assert parameters.n_decayed == sum(parameters[name].size for name in trained if parameters[name].ndim == 2)


def test_blocks_below_the_lowest_trained_one_have_no_backward_and_keep_their_input_alone():
    for trainable, lowest in ((PREDICATES["last block"], 2), (PREDICATES["block 1 and norms"], 0), (lambda name: name.startswith("blocks.1"), 1),
                              (PREDICATES["head"], 3), (PREDICATES["positions"], 0), (None, 0)):
        model, visited = GPT(CONFIG, trainable=trainable), []
        for i, layer in enumerate((*model.blocks, model.embedding)):
            layer.backward = lambda *a, i=i, backward=layer.backward: visited.append(i) or backward(*a)
        _, cache = model.forward(IDS)
        assert [isinstance(c, np.ndarray) for c in cache.blocks] == [i < lowest for i in range(3)]
        gradients(model)
        assert visited == [*range(2, lowest - 1, -1), *([3] if trainable in (None, PREDICATES["positions"]) else [])]


@pytest.mark.parametrize("kind, config, products", [(GPT, CONFIG, "linear"), (LSTMLM, LSTM, "lstm")])
def test_no_gradient_of_a_frozen_matrix_is_computed(kind, config, products):
    found = []

    def watch(name):
        def call(*arguments, **named):
            results = getattr(ops, name)(*arguments, **named)
            found.extend(r for r in results if isinstance(r, np.ndarray))
            return results
        return call

    backend = SimpleNamespace(**vars(ops) | {name: watch(name) for name in (f"{products}_backward", "head_loss_forward_backward")})
    for trainable in (None, PREDICATES["biases"]):
        found.clear()
        model = kind(config, ops=backend, trainable=trainable)
        gradients(model)
        shapes = {model.parameters[name].shape for name in model.parameters if model.parameters[name].ndim == 2}
        assert bool(shapes & {a.shape for a in found}) == (trainable is None)


@pytest.mark.parametrize("private", [replicas.PRIVATE, 0])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("choice", ["last block", "block 1 and norms", "biases", "positions", "table"])
def test_steps_change_what_is_trained_and_no_bit_of_the_rest(choice, n, private):
    """With gradients of their own, and with one that replicas share; the same numbers as one replica."""
    trainable = PREDICATES[choice]

    def train(n):
        model = GPT(CONFIG, dtype=np.float64, trainable=trainable)
        with mock.patch.object(replicas, "PRIVATE", private):
            team = Replicas(model, n)
        optimizer = AdamW(model.parameters, ops, beta1=0.9, beta2=0.95, weight_decay=0.1)
        for _ in range(3):
            team.step([(IDS, TARGETS)] * 2, optimizer, lr=1e-2, grad_clip=1.0, draws=lambda micro, row: None)
        return model.parameters

    before, alone, after = GPT(CONFIG, dtype=np.float64).parameters, train(1), train(n)
    for name in after:
        assert np.array_equal(after[name], before[name]) == (not trainable(name)), name
        assert np.allclose(after[name], alone[name], rtol=0, atol=1e-9), name


def trainer(folder, trainable, log=lambda line: None):
    config = TrainConfig(batch_size=4, max_iters=4, eval_interval=2, eval_iters=1, learning_rate=1e-2, threads=1)
    run = RunFolder(folder, resume=False, overwrite=True)
    made = Trainer(GPT(tiny_run.MODEL, seed=1, trainable=trainable), config, tiny_run.TOKENS, tiny_run.TOKENS, tiny_run.TOKENIZER,
                   run_folder=run, log=log)
    run.open(0)
    return made


def test_a_checkpoint_of_a_partly_frozen_model_is_read_back_whatever_is_frozen_then(tmp_path):
    """What is frozen lies elsewhere in the flat array: parameters are found by their names."""
    made = trainer(tmp_path / "run", PREDICATES["biases"])
    made.run()
    model, _, state = checkpoint.load_model(tmp_path / "run")
    assert list(model.parameters) != list(made.model.parameters)
    for name in model.parameters:
        assert np.array_equal(model.parameters[name], made.model.parameters[name]), name
    again = trainer(tmp_path / "other", PREDICATES["biases"])
    again.resume(checkpoint.newest_checkpoint(tmp_path / "run"))
    assert np.array_equal(again.optimizer.m, made.optimizer.m) and again.optimizer.m.any()
    with pytest.raises(InputError, match="must hold the parameters of this model"):
        trainer(tmp_path / "third", PREDICATES["table"]).resume(checkpoint.newest_checkpoint(tmp_path / "run"))


@pytest.mark.parametrize("spoil", [lambda layout: layout.pop("norm.w"), lambda layout: layout["norm.w"].append(1),
                                   lambda layout: layout.update({"norm.w": [-8, [8]]}), lambda layout: layout.update({"norm.w": [10**9, [8]]}),
                                   lambda layout: layout.update({"norm.w": [0, [9]]}), lambda layout: layout.update({"norm.w": 3}),
                                   lambda layout: layout.update({"more": [0, [1]]})])
def test_a_layout_that_cannot_be_is_refused(spoil):
    parameters = GPT(tiny_run.MODEL).parameters
    layout = {name: [offset, list(shape)] for name, (offset, shape) in parameters.layout.items()}
    spoil(layout)
    with pytest.raises(InputError, match="must hold the parameters of this model"):
        checkpoint.restore_parameters(tiny_run.TEXT[:3], {"params": parameters.data.copy()}, layout, parameters)


def test_kernels_of_a_partly_frozen_model_are_compiled_before_replicas_share_them():
    from numpyllm.kernels._jit import count_compilations
    for trainable in (PREDICATES["block 1 and norms"], PREDICATES["table"]):
        model = GPT(CONFIG, ops=kernels, trainable=trainable)
        compile_kernels(model, log=lambda line: None)
        with count_compilations(lambda: None) as compiled:
            gradients(model)
        assert compiled.count == 0
