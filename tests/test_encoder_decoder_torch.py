"""The encoder-decoder against torch's nn.TransformerEncoder and nn.TransformerDecoder in float64, with padding masks: logits,
loss and all gradients."""

import math

import numpy as np
import pytest
from test_encoder_decoder import SOURCES, TARGETS, both_norms, gradients_of, random_model

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.oracle


def copy_sublayers(model, stack, theirs):
    """Our weights into torch's layers -> [(our name, what ours is in their layout, as a function, their parameter, or that and which
    rows of it)]."""
    pairs = []

    def same(ours, parameter, part=lambda a: a):
        with torch.no_grad():
            parameter.copy_(torch.tensor(part(model.parameters[ours])))
        pairs.append((ours, part, parameter))

    for i, layer in enumerate(theirs):
        attentions = {"attn": layer.self_attn} | ({"cross": layer.multihead_attn} if hasattr(layer, "multihead_attn") else {})
        for n, (name, attention) in enumerate(attentions.items(), 1):
            ours = f"{stack}.{i}.{name}.f"
            weight, bias = (np.concatenate([model.parameters[f"{ours}.{part}.{kind}"].T for part in ("q", "kv")]) for kind in "wb")
            with torch.no_grad():
                attention.in_proj_weight.copy_(torch.tensor(weight))
                attention.in_proj_bias.copy_(torch.tensor(bias))
            C = model.config.n_embd
            pairs.append((f"{ours}.q.w", np.transpose, (attention.in_proj_weight, slice(0, C))))
            pairs.append((f"{ours}.kv.w", np.transpose, (attention.in_proj_weight, slice(C, None))))
            pairs.append((f"{ours}.q.b", np.asarray, (attention.in_proj_bias, slice(0, C))))
            pairs.append((f"{ours}.kv.b", np.asarray, (attention.in_proj_bias, slice(C, None))))
            same(f"{ours}.proj.w", attention.out_proj.weight, np.transpose)
            same(f"{ours}.proj.b", attention.out_proj.bias)
            same_norm(same, f"{stack}.{i}.{name}.norm", getattr(layer, f"norm{n}"))
        ours = f"{stack}.{i}.mlp"
        same(f"{ours}.f.up.w", layer.linear1.weight, np.transpose)
        same(f"{ours}.f.b", layer.linear1.bias)
        same(f"{ours}.f.down.w", layer.linear2.weight, np.transpose)
        same(f"{ours}.f.down.b", layer.linear2.bias)
        same_norm(same, f"{ours}.norm", getattr(layer, f"norm{len(attentions) + 1}"))
    return pairs


def same_norm(same, ours, theirs):
    same(f"{ours}.w", theirs.weight)
    same(f"{ours}.b", theirs.bias)


def close(actual, expected, largest=1.0):
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) <= 1e-10 * np.linalg.norm(expected) + 1e-12 * max(1, largest)


@both_norms
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_loss_and_gradients(pre_norm, tied):
    model = random_model(pre_norm=pre_norm, tied=tied, label_smoothing=0.1, exact_gelu=True)
    c = model.config
    options = {"dim_feedforward": 4 * c.n_embd, "dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": pre_norm,
               "dtype": torch.float64}
    last = lambda: nn.LayerNorm(c.n_embd, dtype=torch.float64) if pre_norm else None
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(c.n_embd, c.n_head, **options), c.n_layer, last(),
                                    enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(c.n_embd, c.n_head, **options), c.n_layer, last())
    pairs = copy_sublayers(model, "encoder", encoder.layers) + copy_sublayers(model, "decoder", decoder.layers)
    if pre_norm:
        for ours, theirs in (("encoder_norm", encoder.norm), ("norm", decoder.norm)):
            with torch.no_grad():
                theirs.weight.copy_(torch.tensor(model.parameters[f"{ours}.w"]))
                theirs.bias.copy_(torch.tensor(model.parameters[f"{ours}.b"]))
            pairs += [(f"{ours}.w", np.asarray, theirs.weight), (f"{ours}.b", np.asarray, theirs.bias)]
    tables = {name: torch.tensor(model.parameters[name], requires_grad=True) for name in model.parameters
              if name.endswith("wte") or name == "head.w"}
    pairs += [(name, np.asarray, table) for name, table in tables.items()]
    assert {name for name, _, _ in pairs} == set(model.parameters)

    position = torch.tensor([[(math.cos if i % 2 else math.sin)(t / 10000 ** ((i - i % 2) / c.n_embd)) for i in range(c.n_embd)]
                             for t in range(c.block_size)], dtype=torch.float64)
    embed = lambda name, ids: tables[name][torch.tensor(ids)] * math.sqrt(c.n_embd) + position[:ids.shape[1]]
    hidden, T = torch.tensor(SOURCES == -1), TARGETS.shape[1]
    memory = encoder(embed("source_embedding.wte", np.maximum(SOURCES, 0)), src_key_padding_mask=hidden)
    h = decoder(embed("embedding.wte", model.shifted(TARGETS)), memory, memory_key_padding_mask=hidden,
                tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1))
    logits = h @ tables["embedding.wte" if tied else "head.w"].T
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(TARGETS).flatten(), ignore_index=-1, reduction="sum",
                                           label_smoothing=0.1)
    expected.backward()

    close(model.forward(SOURCES, model.shifted(TARGETS))[0], logits)
    loss, _, _ = gradients_of(model, scale=1.0)
    close(np.asarray(loss), expected)
    largest = max(np.linalg.norm(model.parameters.gradient(name)) for name in model.parameters)
    for name, part, theirs in pairs:
        gradient = theirs[0].grad[theirs[1]] if isinstance(theirs, tuple) else theirs.grad
        close(part(model.parameters.gradient(name)), gradient, largest)
