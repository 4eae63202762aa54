"""GPTClassifier: reads the last real token, and nothing behind it; its own loss with weights of classes; begins with a GPT."""

from dataclasses import replace
from math import exp, fsum, log

import naive
import numpy as np
import pytest

from numpyllm import kernels, ops
from numpyllm.errors import InputError
from numpyllm.finetuning import add_lora
from numpyllm.inference import make_decoder
from numpyllm.interop import load_decodable, load_model, save_model
from numpyllm.models import GPT, LSTMLM, GPTClassifier, GPTClassifierConfig, GPTConfig, LoRA, LSTMConfig, architecture_of
from numpyllm.models.classifier import estimate_classifier
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import AdamW, checkpoint
from numpyllm.training.compile import compile_kernels
from numpyllm.training.replicas import Replicas

K, V = 3, 11
GPT_CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=6, vocab_size=V)
CONFIG = GPTClassifierConfig(**vars(GPT_CONFIG), n_classes=K)
RNG = np.random.default_rng(0)
IDS, LENGTHS, LABELS = RNG.integers(0, V, (4, 6)), np.array([6, 1, 4, 3]), np.array([2, 0, 1, 2])
BATCH = IDS, LENGTHS, LABELS
WEIGHTS = [1.0, 3.0, 0.25]
HEAD = ("classifier.w", "classifier.b")


def model_of(config=CONFIG, **options):
    """With weights of order one, so that classes differ."""
    model = GPTClassifier(config, dtype=np.float64, **options)
    model.parameters.data[...] = np.random.default_rng(1).standard_normal(model.parameters.data.size) / 2
    return model


def gradients(model, *batch):
    model.parameters.clear_gradients()
    loss, count = model.loss_and_gradients(*batch)
    model.parameters.settle_gradients()
    return loss, count, {name: model.parameters.gradient(name) for name in model.parameters}


@pytest.mark.parametrize("backend", [ops, kernels])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_loss_is_that_of_the_texts_one_by_one_without_padding(weights, backend):
    """The trunk is the GPT's; norm's output at the last token goes through the naive linear map and the naive log-softmax."""
    model, gpt, losses = model_of(class_weights=weights, ops=backend), GPT(GPT_CONFIG, dtype=np.float64), []
    for name in set(model.parameters) - set(HEAD):
        gpt.parameters[name][...] = model.parameters[name]
    for ids, length, label in zip(*BATCH):
        h = gpt._trunk(ids[None, :length], None)[0][0, -1].tolist()
        [logits] = naive.linear([h], model.parameters["classifier.w"].tolist(), model.parameters["classifier.b"].tolist())
        losses.append((weights or [1, 1, 1])[label] * (log(fsum(map(exp, logits))) - logits[label]))
    loss, count = model.loss(*BATCH)
    assert loss == pytest.approx(fsum(losses), rel=1e-13)
    assert count == model.count(*BATCH) == (4 if weights is None else 1.0 + 3.0 + 2 * 0.25)
    assert gradients(model, *BATCH)[0] == pytest.approx(loss, rel=1e-14)


@pytest.mark.parametrize("backend", [ops, kernels])
@pytest.mark.parametrize("choices", [{}, {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False},
                                     {"position": "alibi", "attention": "window", "window": 2},
                                     {"attention": "fixed", "window": 2, "pre_norm": False}])
def test_the_content_of_padding_changes_no_bit(choices, backend):
    model = model_of(replace(CONFIG, **choices), ops=backend)
    other = np.where(np.arange(6) < LENGTHS[:, None], IDS, (IDS + 5) % V)
    assert not np.array_equal(other, IDS)
    assert np.array_equal(model.logits(IDS, LENGTHS), model.logits(other, LENGTHS))
    loss, _, found = gradients(model, *BATCH)
    found = {name: gradient.copy() for name, gradient in found.items()}
    other_loss, _, again = gradients(model, other, LENGTHS, LABELS)
    assert loss == other_loss
    for name in found:
        assert np.array_equal(found[name], again[name]), name
    changed = IDS.copy()
    changed[np.arange(4), LENGTHS - 1] = (changed[np.arange(4), LENGTHS - 1] + 1) % V       # the last real tokens: they are read
    assert (model.logits(changed, LENGTHS) != model.logits(IDS, LENGTHS)).any(axis=1).all()


def test_more_padding_is_the_same_but_for_rounding():
    model = model_of()
    for row in range(4):
        alone = model.logits(IDS[row:row + 1, :LENGTHS[row]], LENGTHS[row:row + 1])
        assert np.abs(alone - model.logits(IDS, LENGTHS)[row]).max() < 1e-14


def test_weights_are_relative_and_the_mean_is_the_weighted_one():
    once, twice = (gradients(model_of(class_weights=np.multiply(WEIGHTS, factor)), *BATCH) for factor in (1, 2))
    plain = [model_of().loss(*(part[i:i + 1] for part in BATCH))[0] for i in range(4)]
    mean = np.average(plain, weights=np.array(WEIGHTS)[LABELS])
    assert once[0] / once[1] == pytest.approx(mean, rel=1e-14) and twice[0] / twice[1] == pytest.approx(mean, rel=1e-14)
    for name in once[2]:
        assert np.abs(once[2][name] - twice[2][name]).max() < 1e-15, name


@pytest.mark.parametrize("n", [1, 2])
def test_a_step_of_replicas_is_one_on_the_weighted_mean(n):
    """Small weights: their sum is below one, and still it is what is divided by."""
    weights = np.multiply(WEIGHTS, 0.01)
    model, alone = model_of(class_weights=weights), model_of(class_weights=weights)
    optimizer = AdamW(model.parameters, ops, beta1=0.9, beta2=0.95, weight_decay=0.1)
    loss, norm, updated = Replicas(model, n).step([BATCH], optimizer, lr=1e-2, grad_clip=0.0, draws=lambda micro, row: None)
    total, count, expected = gradients(alone, *BATCH)
    assert updated and loss == pytest.approx(total / count, rel=1e-13)
    assert norm == pytest.approx(np.sqrt(sum((gradient ** 2).sum() for gradient in expected.values())), rel=1e-12)


@pytest.mark.parametrize("chosen, moved", [(("classifier.",), HEAD), (("blocks.1.", "norm.", "classifier."), None)])
def test_frozen_parts_keep_their_bits_and_the_rest_its_gradients(chosen, moved):
    trainable = lambda name: name.startswith(chosen)
    model, expected = model_of(), gradients(model_of(), *BATCH)[2]
    frozen = GPTClassifier(CONFIG, dtype=np.float64, trainable=trainable)
    for name in model.parameters:
        frozen.parameters[name][...] = model.parameters[name]
    for name, gradient in gradients(frozen, *BATCH)[2].items():
        assert gradient is None if not trainable(name) else np.abs(gradient - expected[name]).max() < 1e-14, name
    optimizer = AdamW(frozen.parameters, ops, beta1=0.9, beta2=0.95, weight_decay=0.1)
    Replicas(frozen, 2).step([BATCH], optimizer, lr=1e-2, grad_clip=1.0, draws=lambda micro, row: None)
    for name in model.parameters:
        assert np.array_equal(frozen.parameters[name], model.parameters[name]) == (not trainable(name)), name


def test_nothing_goes_back_through_a_frozen_trunk():
    model = GPTClassifier(CONFIG, trainable=lambda name: name.startswith("classifier."))
    for layer in (model.norm, *model.blocks, model.embedding):
        layer.backward = None
    assert gradients(model, *BATCH)[2]["classifier.w"].any()


def test_it_begins_with_a_gpt_by_name():
    gpt = GPT(replace(GPT_CONFIG, tied=False), seed=5)
    model = GPTClassifier.from_gpt(gpt, K, seed=1, dropout=0.25)
    assert set(model.parameters) == set(gpt.parameters) - {"head.w"} | set(HEAD)
    assert all(np.array_equal(model.parameters[name], gpt.parameters[name]) for name in set(model.parameters) - set(HEAD))
    assert model.parameters["classifier.w"].std() > 0 and model.config == replace(CONFIG, tied=False, dropout=0.25)
    assert np.array_equal(GPTClassifier.from_gpt(gpt, K, seed=1).parameters["classifier.w"], model.parameters["classifier.w"])
    assert not np.array_equal(GPTClassifier.from_gpt(gpt, K, seed=2).parameters["classifier.w"], model.parameters["classifier.w"])
    frozen = GPTClassifier.from_gpt(gpt, K, trainable=lambda name: name.startswith("classifier."))
    assert {name for name in frozen.parameters if frozen.parameters.specs[name].trainable} == set(HEAD)
    assert all(np.array_equal(frozen.parameters[name], gpt.parameters[name]) for name in set(model.parameters) - set(HEAD))
    with pytest.raises(InputError, match="begins with a GPT, got a LSTMLM"):
        GPTClassifier.from_gpt(LSTMLM(LSTMConfig(vocab_size=V)), K)


def test_lora_leaves_it_what_it_was_and_trains_the_head_beside():
    model = model_of(class_weights=WEIGHTS)
    adapted = add_lora(model, LoRA(rank=2), trainable=lambda name: name.startswith("classifier."))
    assert np.array_equal(adapted.logits(IDS, LENGTHS), model.logits(IDS, LENGTHS)) and adapted.count(*BATCH) == model.count(*BATCH)
    trained = {name for name in adapted.parameters if adapted.parameters.specs[name].trainable}
    assert trained == {f"blocks.{i}.attn.{part}.lora_{side}" for i in (0, 1) for part in ("qkv", "proj") for side in "ab"} | set(HEAD)


def test_it_has_nothing_of_what_only_a_language_model_can():
    model = model_of()
    for name in ("logprobs", "logprobs_forward", "past", "trunk_step", "objective", "from_pretrained", "save_pretrained", "head"):
        assert hasattr(GPT(GPT_CONFIG), name) and not hasattr(model, name), name


def test_merged_it_still_weighs_its_classes():
    adapted = model_of(lora=LoRA(rank=2), class_weights=WEIGHTS)
    merged = adapted.merged()
    assert merged.lora is None and merged.loss(*BATCH) == pytest.approx(adapted.loss(*BATCH), rel=1e-12)


def test_checkpoints_bring_it_back_and_what_continues_texts_refuses_it(tmp_path):
    tokenizer = CharacterTokenizer.train("abcdefghij\n")
    model = GPTClassifier(CONFIG, seed=3)
    save_model(tmp_path / "made", model, tokenizer)
    loaded, _, state = checkpoint.load_model(tmp_path / "made")
    assert architecture_of(loaded) == state["architecture"] == "classifier" and loaded.config == CONFIG
    assert np.array_equal(loaded.logits(IDS, LENGTHS), model.logits(IDS, LENGTHS))
    for call in (lambda: load_model(tmp_path / "made"), lambda: load_decodable(tmp_path / "made", ops=ops), lambda: make_decoder(model)):
        with pytest.raises(InputError, match="continue"):
            call()


def test_no_kernel_is_left_to_be_compiled_by_replicas():
    from numpyllm.kernels._jit import count_compilations
    model = GPTClassifier(CONFIG, ops=kernels, class_weights=WEIGHTS)
    compile_kernels(model, log=lambda line: None, objective=model, batch=BATCH)
    with count_compilations(lambda: None) as compiled:
        gradients(model, *BATCH)
        model.loss(*BATCH)
    assert compiled.count == 0


@pytest.mark.parametrize("ids, lengths, labels, message", [
    (IDS, [6, 0, 4, 3], LABELS, "lengths must be 4 integers from 1 to 6"), (IDS, [6, 7, 4, 3], LABELS, "lengths must be 4 integers from 1 to 6"),
    (IDS, [6, 1, 4], LABELS, "lengths must be 4 integers"), (IDS, [1.0] * 4, LABELS, "lengths must be 4 integers"),
    (IDS, LENGTHS, [0, 1, 2, 3], "labels must be 4 integers from 0 to 2"), (IDS, LENGTHS, [0, -1, 2, 0], "labels must be 4 integers from 0 to 2"),
    (IDS, LENGTHS, [0], "labels must be 4 integers"), (IDS + V, LENGTHS, LABELS, "ids must lie in"), (IDS[0], LENGTHS, LABELS[:6], "must be"),
])
def test_batches_that_cannot_be_are_refused(ids, lengths, labels, message):
    with pytest.raises(InputError, match=message):
        GPTClassifier(CONFIG).loss(ids, np.array(lengths), np.array(labels))


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 0], [1, 2, -1], [1, 2, np.nan], [[1, 2, 3]]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(InputError, match="class_weights must be 3 positive numbers"):
        GPTClassifier(CONFIG, class_weights=weights)


def test_estimate_counts_its_parameters():
    for config in (CONFIG, replace(CONFIG, tied=False, mlp="swiglu", bias=False)):
        assert estimate_classifier(config, 2).parameters == GPTClassifier(config).n_params()
    with pytest.raises(InputError, match="n_classes must be a whole number of at least 1"):
        replace(CONFIG, n_classes=0)


@pytest.mark.oracle
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_loss_and_gradients_are_torchs(weights):
    """The whole model in torch's own functions, float64, differentiated by torch."""
    torch = pytest.importorskip("torch")
    F, model = torch.nn.functional, model_of(class_weights=weights)
    p = {name: torch.tensor(model.parameters[name], requires_grad=True) for name in model.parameters}
    x = F.embedding(torch.tensor(IDS), p["embedding.wte"]) + p["embedding.wpe"]
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], p[f"{name}.w"], p[f"{name}.b"])
    linear = lambda x, name: F.linear(x, p[f"{name}.w"].T, p[f"{name}.b"])
    for i in range(CONFIG.n_layer):
        q, k, v = (part.reshape(4, 6, 2, 4).transpose(1, 2) for part in linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(8, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(4, 6, 8)
        x = x + linear(y, f"blocks.{i}.attn.proj")
        hidden = F.linear(norm(x, f"blocks.{i}.norm2"), p[f"blocks.{i}.mlp.up.w"].T, p[f"blocks.{i}.mlp.b"])
        x = x + linear(F.gelu(hidden, approximate="tanh"), f"blocks.{i}.mlp.down")
    logits = linear(norm(x, "norm")[torch.arange(4), torch.tensor(LENGTHS) - 1], "classifier")
    mean = F.cross_entropy(logits, torch.tensor(LABELS), weight=None if weights is None else torch.tensor(weights, dtype=torch.float64))
    mean.backward()
    loss, count, found = gradients(model, *BATCH)
    assert abs(loss / count - mean.item()) < 1e-12
    largest = max(float(t.grad.norm()) for t in p.values())
    for name, gradient in found.items():
        assert np.linalg.norm(gradient - p[name].grad.numpy()) <= 1e-10 * max(float(p[name].grad.norm()), 1e-4 * largest), name
