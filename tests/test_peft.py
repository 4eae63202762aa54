"""Adapters in PEFT's layout: ours come back, theirs do what their definition says, and what is neither is refused."""

import json
import warnings

import numpy as np
import pytest
from test_lora import GPT2, IDS, LLAMA, VARIANTS, adapted

from numpyllm.errors import InputError
from numpyllm.finetuning import add_lora, load_peft, save_peft
from numpyllm.models import GPT, LoRA

save_file = pytest.importorskip("safetensors.numpy").save_file
NAMES = ["GPT-2", "Llama"]


@pytest.mark.parametrize("name", NAMES)
def test_ours_come_back(tmp_path, name):
    model = adapted(*VARIANTS[name])
    save_peft(tmp_path / "adapter", model)
    loaded = load_peft(GPT(VARIANTS[name][0], seed=1, dtype=np.float64), tmp_path / "adapter")
    assert loaded.lora == model.lora and np.array_equal(loaded.parameters.data, model.parameters.data)
    assert all(value.dtype == np.float64 for value in loaded.parameters._views.values())


def theirs(folder, modules, **changes):
    """Random adapters to these modules of both layers ({name: (n_in, n_out)}) -> the arrays."""
    rng, arrays = np.random.default_rng(0), {}
    for i in range(2):
        for name, (n_in, n_out) in modules.items():
            arrays[f"base_model.model.{name.format(i)}.lora_A.weight"] = rng.standard_normal((2, n_in))
            arrays[f"base_model.model.{name.format(i)}.lora_B.weight"] = rng.standard_normal((n_out, 2))
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["x"]} | changes))
    return arrays


def test_theirs_do_what_the_definition_says(tmp_path):
    """W <- W + alpha / r B A for each matrix of theirs; of a Llama's queries and values, that is two of the three in our one."""
    for config, modules, places in (
            (GPT2, {"transformer.h.{}.attn.c_attn": (8, 24), "transformer.h.{}.mlp.c_proj": (32, 8)},
             [("attn.qkv", slice(0, 24)), ("mlp.down", slice(0, 8))]),
            (LLAMA, {"model.layers.{}.self_attn.q_proj": (8, 8), "model.layers.{}.self_attn.v_proj": (8, 4), "model.layers.{}.mlp.up_proj": (8, 32)},
             [("attn.qkv", slice(0, 8)), ("attn.qkv", slice(12, 16)), ("mlp.up", slice(0, 32))])):
        arrays, base = theirs(tmp_path, modules), GPT(config, seed=1, dtype=np.float64)
        expected = base.astype(np.float64)
        for i in range(2):
            for name, (ours, columns) in zip(modules, places, strict=True):
                a, b = (arrays[f"base_model.model.{name.format(i)}.lora_{letter}.weight"] for letter in "AB")
                expected.parameters[f"blocks.{i}.{ours}.w"][:, columns] += 3 / 2 * (b @ a).T
        loaded = load_peft(base, tmp_path)
        assert np.abs(loaded.forward(IDS)[0] - expected.forward(IDS)[0]).max() < 1e-11
        assert loaded.lora.rank == (2 if config is GPT2 else 4)
        loaded.parameters.clear_gradients()
        loaded.loss_and_gradients(IDS, IDS)                             # it can be trained on


ATTENTION = {"transformer.h.{}.attn.c_attn": (8, 24)}


@pytest.mark.parametrize("modules, changes, message", [
    (ATTENTION, {"peft_type": "IA3"}, 'peft_type must be "LORA"'), (ATTENTION, {"use_dora": True}, "use_dora must be false"),
    (ATTENTION, {"modules_to_save": ["lm_head"]}, "modules_to_save must be null"), (ATTENTION, {"init_lora_weights": "pissa"}, "change the base"),
    (ATTENTION, {"r": 3}, r"shape \[3, 8\]"), (ATTENTION, {"r": 0}, "rank must be"), (ATTENTION, {"r": 10**9}, "r must be at most 8"),
    (ATTENTION, {"lora_alpha": None}, "alpha must be"), (ATTENTION, {"lora_dropout": "0"}, "dropout must be"),
    ({"transformer.h.{}.attn.c_attn": (7, 24)}, {}, r"shape \[2, 8\]"), (ATTENTION | {"transformer.h.{}.ln_1": (8, 8)}, {}, "surplus: .*ln_1"),
    ({"model.layers.{}.mlp.up_proj": (8, 32)}, {}, "surplus: .*up_proj"), ({}, {}, "there are none")])
def test_what_does_not_fit_is_refused(tmp_path, modules, changes, message):
    theirs(tmp_path, modules, **changes)
    with pytest.raises(InputError, match=message) as error:
        load_peft(GPT(GPT2), tmp_path)
    assert "\n" not in str(error.value)


def test_what_peft_has_no_place_for_is_refused(tmp_path):
    more = add_lora(GPT(GPT2), LoRA(rank=2), trainable=lambda name: name == "norm.w")
    for model, message in ((more, "besides: norm.w"), (GPT(GPT2), "this model has none"),
                           (adapted(VARIANTS["post-norm"][0], LoRA(rank=1)), "no architecture of Hugging Face's"),
                           (adapted(GPT2.__class__(**vars(LLAMA) | {"rotary_interleaved": True})), "merge it")):
        with pytest.raises(InputError, match=message):
            save_peft(tmp_path / "adapter", model)
        assert not any(tmp_path.iterdir())
    save_peft(tmp_path / "adapter", adapted())
    with pytest.raises(InputError, match="must not be there yet"):
        save_peft(tmp_path / "adapter", adapted())
    save_peft(tmp_path / "adapter", adapted(), overwrite=True)


@pytest.mark.oracle
@pytest.mark.parametrize("name, modules", [("GPT-2", ["c_attn", "mlp.c_proj"]), ("Llama", ["q_proj", "v_proj", "o_proj"])])
def test_the_library_and_this_one_read_each_other(tmp_path, name, modules):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft, torch, transformers = (pytest.importorskip(package) for package in ("peft", "torch", "transformers"))
        config, lora = VARIANTS[name]
        base, model = GPT(config, seed=1), adapted(config, lora, dtype=np.float32)
        base.save_pretrained(tmp_path / "base")
        save_peft(tmp_path / "ours", model, base_name=str(tmp_path / "base"))
        make = lambda: transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        logits = lambda module: module.eval()(torch.from_numpy(IDS)).logits.detach().numpy()
        assert np.abs(logits(peft.PeftModel.from_pretrained(make(), tmp_path / "ours")) - model.forward(IDS)[0]).max() < 1e-5
        made = peft.get_peft_model(make(), peft.LoraConfig(r=3, lora_alpha=5, target_modules=modules, init_lora_weights=False))
        made.save_pretrained(tmp_path / "theirs")
        loaded = load_peft(base, tmp_path / "theirs")
        assert np.abs(logits(made) - loaded.forward(IDS)[0]).max() < 1e-5
        assert np.abs(loaded.forward(IDS)[0] - base.forward(IDS)[0]).max() > 1e-3
