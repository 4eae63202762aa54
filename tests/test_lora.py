"""LoRA: what it adds, what it leaves alone, and what of it is on disk. Gradients: also the cases of numpyllm.checks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_run

from numpyllm import finetuning, kernels, ops
from numpyllm.errors import InputError
from numpyllm.finetuning import add_lora, load_adapter, merge, merging, save_adapter
from numpyllm.inference import Decoder, StoredWeights
from numpyllm.interop.quantized import load_decodable
from numpyllm.layers import LoRALinear
from numpyllm.models import GPT, LSTMLM, EncoderDecoder, EncoderDecoderConfig, GPTConfig, LoRA, LSTMConfig
from numpyllm.models.lora import is_adapter
from numpyllm.parameters import Parameters
from numpyllm.random import Draws
from numpyllm.training import AdamW, RunFolder, TrainConfig, Trainer, checkpoint
from numpyllm.training.compile import compile_kernels
from numpyllm.training.replicas import Replicas
from numpyllm.workspace import Workspace

GPT2 = GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=8, vocab_size=11)
LLAMA = replace(GPT2, n_head=4, n_kv_head=2, position="rotary", norm="rmsnorm", mlp="swiglu", bias=False, tied=False)
POST = replace(GPT2, position="alibi", pre_norm=False, mlp="squared_relu", attention="window", window=3)
VARIANTS = {"GPT-2": (GPT2, LoRA(rank=3, targets=("qkv", "proj", "up", "down"))),
            "Llama": (LLAMA, LoRA(rank=2, alpha=3.0, targets=("gate", "qkv", "down"))), "post-norm": (POST, LoRA(rank=1, targets=("proj",)))}
IDS, TARGETS = np.random.default_rng(0).integers(0, 11, (2, 4, 8))


def adapted(config=GPT2, lora=LoRA(rank=3), *, seed=0, filled=True, **options):
    """A model with adapters that do something, unless filled is False: then they are as they begin."""
    model = add_lora(GPT(config, seed=1, **{"dtype": np.float64} | options), lora, seed=seed)
    rng = np.random.default_rng(seed)
    for name in model.parameters if filled else ():
        if name.endswith("lora_b"):
            model.parameters[name][...] = 0.1 * rng.standard_normal(model.parameters[name].shape)
    return model


def gradients(model, **options):
    model.parameters.clear_gradients()
    loss, _ = model.loss_and_gradients(IDS, TARGETS, **options)
    model.parameters.settle_gradients()
    return loss, {name: gradient for name in model.parameters if (gradient := model.parameters.gradient(name)) is not None}


def train(model, steps=3, n=1):
    team = Replicas(model, n)
    optimizer = AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.95, weight_decay=0.1)
    for step in range(steps):
        team.step([(IDS, TARGETS)], optimizer, lr=1e-2, grad_clip=1.0, draws=lambda micro, row, step=step: Draws(0, step=step, first_row=row))
    return optimizer


@pytest.mark.parametrize("backend", [ops, kernels])
@pytest.mark.parametrize("name", VARIANTS)
def test_merged_is_unmerged(name, backend):
    model = adapted(*VARIANTS[name], ops=backend)
    logits, _ = model.forward(IDS)
    merged = merge(model)
    assert merged.lora is None and set(merged.parameters) == {name for name in model.parameters if not is_adapter(name)}
    assert np.abs(merged.forward(IDS)[0] - logits).max() < 1e-12
    assert np.abs(GPT(VARIANTS[name][0], seed=1, dtype=np.float64).forward(IDS)[0] - logits).max() > 1e-3      # they do something


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_of_a_and_b_are_those_of_the_matrix_that_they_add_up_to(name):
    """With W = w + s A B: dA = s dW B^T and dB = s A^T dW. dW is a plain model's, and checked elsewhere."""
    model = adapted(*VARIANTS[name])
    _, truth = gradients(merge(model))
    _, found = gradients(model)
    assert found.keys() == {name for name in model.parameters if is_adapter(name)}
    scale = model.lora.alpha / model.lora.rank
    for stem in {name.removesuffix("lora_a").removesuffix("lora_b") for name in found}:
        a, b = model.parameters[stem + "lora_a"], model.parameters[stem + "lora_b"]
        assert np.allclose(found[stem + "lora_a"], scale * truth[stem + "w"] @ b.T, rtol=1e-10, atol=1e-15)
        assert np.allclose(found[stem + "lora_b"], scale * a.T @ truth[stem + "w"], rtol=1e-10, atol=1e-15)


@pytest.mark.oracle
@pytest.mark.parametrize("backend", [ops, kernels])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_layer_is_the_definition_under_torch_autograd(dropout, backend):
    torch = pytest.importorskip("torch")
    layer, rng = LoRALinear(7, 5, rank=3, scale=0.6, dropout=dropout), np.random.default_rng(0)
    parameters = Parameters(layer.specs(), dtype=np.float64)
    layer.bind(parameters, backend)
    parameters.data[...] = rng.standard_normal(parameters.data.size)
    x, dy, draws = rng.standard_normal((2, 4, 7)), rng.standard_normal((2, 4, 5)), Draws(3)
    keep = layer.dropout.mask(x.shape, draws)
    y, cache = layer.forward(x, draws)
    dx = layer.backward(dy, cache)

    t = {name: torch.tensor(parameters[name].copy(), requires_grad=name.startswith("lora")) for name in parameters}
    tx = torch.tensor(x, requires_grad=True)
    read = tx if keep is None else tx * torch.tensor(keep) / (1 - dropout)
    ty = tx @ t["w"] + t["b"] + 0.6 * (read @ (t["lora_a"] @ t["lora_b"]))
    ty.backward(torch.tensor(dy))
    pairs = [(y, ty.detach()), (dx, tx.grad), *((parameters.gradient(name), t[name].grad) for name in ("lora_a", "lora_b"))]
    for found, true in pairs:
        assert np.abs(found - true.numpy()).max() < 1e-12


def test_at_first_it_is_the_model_without_it_and_a_depends_on_the_seed():
    base, one, two = GPT(GPT2, seed=1, dtype=np.float64), adapted(filled=False), adapted(filled=False, seed=2)
    assert np.array_equal(base.forward(IDS)[0], one.forward(IDS)[0])
    name = "blocks.0.attn.qkv.lora_a"
    assert not np.array_equal(one.parameters[name], two.parameters[name])
    assert np.array_equal(one.parameters[name], GPT(GPT2, lora=LoRA(rank=3), dtype=np.float64).parameters[name])    # made at once
    wide = GPT(replace(GPT2, n_embd=256), lora=LoRA(rank=64, targets=("qkv",)))
    assert wide.parameters[name].std() == pytest.approx((3 * 256) ** -0.5, rel=0.02)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("backend", [ops, kernels])
def test_training_changes_the_adapters_and_no_bit_of_the_base(backend, n):
    model = adapted(lora=LoRA(rank=3, dropout=0.2), ops=backend, dtype=np.float32)
    alone = adapted(lora=LoRA(rank=3, dropout=0.2), dtype=np.float64)
    before = model.parameters.data.copy()
    first, _ = model.loss(IDS, TARGETS)
    optimizer = train(model, n=n)
    train(alone)
    trained = model.parameters.n_trainable
    assert np.array_equal(model.parameters.data[trained:], before[trained:]) and model.loss(IDS, TARGETS)[0] < first
    adapters = [name for name in model.parameters if is_adapter(name)]
    assert all(np.allclose(model.parameters[name], alone.parameters[name], atol=1e-3) for name in adapters)
    assert model.parameters.grad.size == optimizer.m.size == sum(-(-model.parameters[name].size // 16) * 16 for name in adapters)


def test_what_else_is_trained_is_named():
    model = add_lora(GPT(GPT2, dtype=np.float64), LoRA(rank=3), trainable=lambda name: name.startswith("norm."))
    _, found = gradients(model)
    assert {name for name in found if not is_adapter(name)} == {"norm.w", "norm.b"}
    assert model.replica(model.parameters.replica()).parameters.n_trainable == model.parameters.n_trainable


def test_a_poisoned_workspace_changes_nothing():
    for options in ({}, {"recompute": True}):
        plain, poisoned = adapted(ops=kernels), adapted(ops=kernels, **options)
        _, truth = gradients(plain)
        with Workspace(poison=True).activate():
            _, found = gradients(poisoned)
        assert all(np.array_equal(found[name], truth[name]) for name in truth)


def test_merging_for_a_while_gives_back_every_bit():
    model = adapted()
    before, logits = model.parameters.data.copy(), model.forward(IDS)[0]
    with pytest.raises(KeyError), merging(model) as merged:
        assert np.abs(merged.forward(IDS)[0] - logits).max() < 1e-12
        assert not model.parameters["blocks.0.attn.qkv.lora_b"].any() and not np.array_equal(model.parameters.data, before)
        raise KeyError
    assert np.array_equal(model.parameters.data, before)


@pytest.mark.parametrize("backend", [ops, kernels])
@pytest.mark.parametrize("name", VARIANTS)
def test_decoding_is_that_of_the_whole_context(name, backend):
    model = adapted(*VARIANTS[name], ops=backend)
    logits, _ = model.forward(IDS[:1])
    with Decoder(model, threads=1) as decoder:
        found = [decoder.start(IDS[0, :4]), *(decoder.step([token])[0] for token in IDS[0, 4:])]
    past = model.past()
    stepped = np.concatenate([model.step(IDS[:1, :4], past)[0], model.step(IDS[:1, 4:], past)[0]])
    assert np.abs(np.array(found) - logits[0, 3:]).max() < 1e-12 and np.abs(stepped - logits[0]).max() < 1e-12


@pytest.mark.parametrize("backend", [ops, kernels])
def test_rounded_weights_are_rounded_after_they_are_merged(backend):
    model = adapted(replace(GPT2, block_size=32), ops=backend, dtype=np.float32)
    ids = np.tile(IDS[0, 0], 3)                                         # more than go the compiled way
    with Decoder(model, weights="int8", threads=1) as decoder, Decoder(merge(model), weights="int8", threads=1) as plain:
        assert np.array_equal(decoder.start(ids), plain.start(ids))
    stored, expected = StoredWeights(model), StoredWeights(merge(model))
    assert stored.rows.keys() == expected.rows.keys() and all(np.array_equal(stored.rows[name], expected.rows[name]) for name in stored.rows)


def test_a_checkpoint_knows_of_its_adapters(tmp_path):
    model = add_lora(GPT(tiny_run.MODEL), LoRA(rank=2), trainable=lambda name: name.startswith("norm."))
    config = TrainConfig(batch_size=4, max_iters=2, eval_interval=2, eval_iters=1, learning_rate=1e-2, threads=1)
    run = RunFolder(tmp_path / "run", resume=False, overwrite=True)
    run.open(0)
    Trainer(model, config, tiny_run.TOKENS, tiny_run.TOKENS, tiny_run.TOKENIZER, run_folder=run, log=lambda line: None).run()
    loaded, _, _ = checkpoint.load_model(tmp_path / "run")
    assert loaded.lora == model.lora
    assert all(np.array_equal(loaded.parameters[name], model.parameters[name]) for name in model.parameters)
    plain, _, _ = load_decodable(tmp_path / "run", ops=ops)
    assert plain.lora is None and np.array_equal(plain.parameters.data, merge(model).parameters.data)


def test_kernels_are_compiled_before_replicas_share_them():
    from numpyllm.kernels._jit import count_compilations
    model = adapted(LLAMA, LoRA(rank=8, dropout=0.1, targets=("qkv", "gate")), ops=kernels)
    compile_kernels(model, log=lambda line: None)
    with count_compilations(lambda: None) as compiled:
        gradients(model, draws=Draws(0))
    assert compiled.count == 0


@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_to_hugging_face_it_goes_merged_and_from_there_with_new_adapters(tmp_path, name):
    pytest.importorskip("safetensors")
    config, lora = VARIANTS[name]
    model = adapted(config, lora)
    model.save_pretrained(tmp_path / "model")
    loaded = GPT.from_pretrained(tmp_path / "model", dtype=np.float64, lora=LoRA(rank=2, targets=("qkv",)), trainable=lambda name: name == "norm.w")
    assert np.abs(loaded.forward(IDS)[0] - model.forward(IDS)[0]).max() < 1e-12
    _, found = gradients(loaded)
    assert set(found) == {"norm.w", *(name for name in loaded.parameters if is_adapter(name))}
    assert loaded.parameters["blocks.1.attn.qkv.lora_a"].all() and found["blocks.1.attn.qkv.lora_b"].any()


@pytest.mark.parametrize("choices, message", [
    ({"rank": 0}, "rank must be a whole number"), ({"rank": True}, "rank must be a whole number"), ({"rank": 9}, "rank must be at most"),
    ({"alpha": 0}, "alpha must be at least"), ({"alpha": float("nan")}, "alpha must be"), ({"dropout": 1}, "dropout must be"),
    ({"targets": ()}, "targets must be names"), ({"targets": "gate"}, r"targets must be among .*\(down, proj, qkv, up\), got gate"),
    ({"targets": ("qkv", 3)}, "targets must be names"), ({"targets": None}, "targets must be names")])
def test_bad_choices_are_refused(choices, message):
    with pytest.raises(InputError, match=message):
        add_lora(GPT(GPT2), LoRA(**{"rank": 2} | choices))


def test_models_without_linear_maps_and_with_adapters_are_refused():
    with pytest.raises(InputError, match="got a LSTMLM"):
        add_lora(LSTMLM(LSTMConfig(n_embd=8)), LoRA())
    with pytest.raises(InputError, match="must have none yet, got one of rank 3"):
        add_lora(adapted(), LoRA())
    for function in (merge, lambda model: merging(model).__enter__(), lambda model: save_adapter("nowhere", model)):
        for model in (GPT(GPT2), LSTMLM(LSTMConfig(n_embd=8)), EncoderDecoder(EncoderDecoderConfig(n_embd=8))):
            with pytest.raises(InputError, match="has none"):
                function(model)


# Adapters on disk.

def base():
    return GPT(GPT2, seed=1)


@pytest.fixture
def saved(tmp_path):
    model = adapted(dtype=np.float32)
    save_adapter(tmp_path / "adapter", model)
    return tmp_path / "adapter", model


def test_only_the_adapter_is_on_disk_and_comes_back(saved):
    folder, model = saved
    numbers = model.parameters.n_trainable
    assert {path.name for path in folder.iterdir()} == {"adapter.json", "adapter.npy"}
    assert (folder / "adapter.npy").stat().st_size == 4 * numbers + 128 < base().parameters.data.nbytes
    loaded = load_adapter(base(), folder)
    assert loaded.lora == model.lora and np.array_equal(loaded.parameters.data, model.parameters.data)


def test_several_adapters_take_turns_on_one_base(saved, tmp_path):
    first, one = saved
    two = adapted(seed=5, dtype=np.float32, lora=LoRA(rank=3, dropout=0.5))             # dropout does not say what a model does
    save_adapter(tmp_path / "second", two)
    model = load_adapter(base(), first)
    arrays = model.parameters.data
    for folder, expected in ((tmp_path / "second", two), (first, one), (tmp_path / "second", two)):
        assert load_adapter(model, folder) is model and model.parameters.data is arrays
        assert np.array_equal(model.forward(IDS)[0], expected.forward(IDS)[0])
    assert not np.array_equal(one.forward(IDS)[0], two.forward(IDS)[0])


def test_what_was_trained_besides_is_in_the_adapter(tmp_path):
    model = add_lora(base(), LoRA(rank=2), trainable=lambda name: name.startswith("norm."))
    train(model)
    save_adapter(tmp_path / "adapter", model)
    assert np.array_equal(load_adapter(base(), tmp_path / "adapter").parameters.data, model.parameters.data)


def test_a_float64_copy_of_the_base_is_the_same_base(saved):
    folder, model = saved
    loaded = load_adapter(base().astype(np.float64), folder)
    assert np.abs(loaded.forward(IDS)[0] - model.forward(IDS)[0]).max() < 1e-5


def other_bit(model):
    model.parameters["blocks.1.mlp.up.w"].view(np.int32)[0, 0] ^= 1
    return model


@pytest.mark.parametrize("wrong", [lambda: GPT(GPT2, seed=2), lambda: other_bit(base()), lambda: GPT(replace(GPT2, n_head=4), seed=1),
                                   lambda: GPT(replace(GPT2, vocab_size=12), seed=1), lambda: GPT(LLAMA), lambda: add_lora(other_bit(base()), LoRA(rank=3))])
def test_another_base_is_refused_and_left_alone(saved, wrong):
    model = wrong()
    before = model.parameters.data.copy()
    with pytest.raises(InputError, match="trained beside other weights than this model's") as error:
        load_adapter(model, saved[0])
    assert "\n" not in str(error.value) and np.array_equal(model.parameters.data, before)


def test_an_adapter_of_another_kind_is_not_exchanged(saved):
    model = add_lora(base(), LoRA(rank=2))
    with pytest.raises(InputError, match="must be of the model's kind"):
        load_adapter(model, saved[0])


def edit(**changes):
    def spoil(folder):
        values = json.loads((folder / "adapter.json").read_text())
        (folder / "adapter.json").write_text(json.dumps(values | changes))
    return spoil


def layout(change):
    def spoil(folder):
        values = json.loads((folder / "adapter.json").read_text())
        change(values["layout"])
        (folder / "adapter.json").write_text(json.dumps(values))
    return spoil


def array(*stored):
    def spoil(folder):
        import hashlib
        with open(folder / "adapter.npy", "wb") as file:
            np.lib.format.write_array(file, stored[0], allow_pickle=True)
        edit(array_sha256=hashlib.sha256((folder / "adapter.npy").read_bytes()).hexdigest())(folder)
    return spoil


def without(key):
    def spoil(folder):
        values = json.loads((folder / "adapter.json").read_text())
        del values[key]
        (folder / "adapter.json").write_text(json.dumps(values))
    return spoil


NAME = "blocks.0.attn.qkv.lora_a"


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: (folder / "adapter.npy").write_bytes((folder / "adapter.npy").read_bytes()[:-1]), "is damaged"),
    (lambda folder: (folder / "adapter.npy").unlink(), "cannot be read"), (lambda folder: (folder / "adapter.json").unlink(), "cannot be read"),
    (lambda folder: (folder / "adapter.json").write_text("[" * 10**5), "must be JSON"), (edit(version=2), "must be of version 1"),
    (edit(lora=None), "lora must hold rank"), (edit(lora={"rank": 2, "code": 1}), "lora must hold rank"), (edit(lora={"rank": 10**9}), "rank must be at most|of the model's kind"),
    (edit(lora={"rank": "2"}), "rank must be a whole number"), (edit(layout=[]), "layout must hold"), (edit(layout={"a": [0, [-1]]}), "layout must hold"),
    (edit(layout={"a": [0, [10**13, 10**13]]}), "layout must hold"), (edit(layout={"a": [0, [10**9, 10**9]]}), "layout must be that"),
    (edit(layout={"a": [True, [3]]}), "layout must hold"), (edit(base_sha256=3), "trained beside other weights"),
    (without("array_sha256"), "is damaged"), (without("base_sha256"), "trained beside other weights"), (without("lora"), "lora must hold rank"),
    (edit(lora={"rank": 3, "targets": ["up"]}), "layout must be that|of the model's kind"), (layout(lambda names: names.pop(NAME)), "layout must be that"),
    (layout(lambda names: names.update({NAME: [16, [8, 3]]})), "layout must be that"), (array(np.zeros(7, np.float32)), "finite numbers"),
    (array(np.array([{}], object)), "is no array"), (array(np.full(560, np.nan, np.float32)), "finite numbers"),
    (array(np.zeros(560, np.int32)), "finite numbers")])
def test_what_is_no_adapter_of_this_base_is_refused(saved, spoil, message):
    folder, _ = saved
    spoil(folder)
    for model in (base(), add_lora(base(), LoRA(rank=3))):
        before = model.parameters.data.copy()
        with pytest.raises(InputError, match=message) as error:
            load_adapter(model, folder)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600 and np.array_equal(model.parameters.data, before)


def test_a_folder_is_not_overwritten_by_accident_and_survives_a_full_disk(saved, monkeypatch):
    folder, model = saved
    with pytest.raises(InputError, match="must not be there yet"):
        save_adapter(folder, model)
    before = (folder / "adapter.npy").read_bytes()
    model.parameters["blocks.0.attn.qkv.lora_a"][...] = 3

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left"):
        patch.setattr(finetuning.adapter, "write_json", full)
        save_adapter(folder, model, overwrite=True)
    assert (folder / "adapter.npy").read_bytes() == before and len(list(folder.parent.iterdir())) == 1
    save_adapter(folder, model, overwrite=True)
    assert (folder / "adapter.npy").read_bytes() != before
    (folder / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="mine.txt"):
        save_adapter(folder, model, overwrite=True)
    model.parameters["blocks.0.attn.qkv.lora_a"][...] = np.inf
    with pytest.raises(InputError, match="finite"):
        save_adapter(folder.with_name("other"), model)
