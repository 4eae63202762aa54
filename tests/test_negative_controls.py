"""Backwards that are broken on purpose, as found in public projects: the checks must reject them, and we know which does.

Each control replaces one op of the backend. `caught` are the methods that must fail; the others must pass, so that a
change in what a check can see does not go unnoticed.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from numpyllm import ops
from numpyllm.checks import check_case
from numpyllm.gradcheck import GradientError, assert_ok, check_op

ALL = ("complex", "central", "adjoint", "central adjoint")


def transposed_dk(dy, cache, *, out=None):
    dq, dk, dv = ops.attention_backward(dy, cache)
    B, S, H, D = dk.shape
    wrong = dk.transpose(0, 2, 3, 1).reshape(B, H, S, D).transpose(0, 2, 1, 3)      # the right shape
    return ops._out.deliver((dq, wrong, dv), out)


def dropped_mean_term(dy, cache, *, out=None):
    x, w, b, mean, rstd = cache
    _, dw, db = ops.layernorm_backward(dy, cache)
    n, dn = (x - mean) * rstd, dy * w
    return (dn - n * (dn * n).mean(-1, keepdims=True)) * rstd, dw, db


def missing_one_over_n(dy, cache, *, out=None):
    x, w, b, mean, rstd = cache
    _, dw, db = ops.layernorm_backward(dy, cache)
    n, dn = (x - mean) * rstd, dy * w
    return (dn - dn.mean(-1, keepdims=True) - n * (dn * n).sum(-1, keepdims=True)) * rstd, dw, db


def assignment_in_scatter(dy, cache, *, out=None, add=False):
    dw = np.zeros((cache.n_rows, dy.shape[-1]))
    dw[cache.ids] = dy
    return dw


def dropped_tied_term(dy, cache, *, out=None, add=False):
    if not add:
        return ops.token_position_backward(dy, cache, out=out)
    _, dwpe = ops.token_position_backward(dy, cache)
    return out[0], dwpe                                     # what the head wrote, without the embedding's part


def residual_through_the_norm(ds, dy, cache, *, out=None):
    dx, dw, db = ops.layernorm_backward(ds + dy, cache)
    return dx, dx, dw, db


def diagonal_softmax_jacobian(dy, cache, *, out=None):
    return dy * cache.y * (1 - cache.y)


def float32_accumulation(dy, cache, *, out=None):
    dx, dw, db = ops.linear_backward(dy, cache)
    N = cache.x.reshape(-1, cache.w.shape[0]).astype(np.float32)
    return dx, (N.T @ dy.reshape(-1, dy.shape[-1]).astype(np.float32)).astype(np.float64), db


def unscaled_down_projection(dz, cache, *, out=None, add=False):
    """dA without LoRA's scale."""
    dx, dy, da, db = ops.lora_backward(dz, cache, out=out, add=add)
    return dx, dy, da / cache.scale, db


def only_the_frozen_path(dz, cache, *, out=None, add=False):
    """dx without what comes back through A."""
    _, dy, da, db = ops.lora_backward(dz, cache)
    return out[0] if add else np.zeros_like(cache.x), dy, da, db


def swapped_gates(dy, dc, cache, *, out=None):
    """The gradients of the input and the forget gate, each in the other's place."""
    dx, dw_x, dw_h, db, dh0, dc0 = ops.lstm_backward(dy, dc, cache)
    swap = lambda a: np.concatenate([np.split(a, 4, axis=-1)[k] for k in (1, 0, 2, 3)], axis=-1)
    return dx, swap(dw_x), swap(dw_h), swap(db), dh0, dc0


def truncated_through_time(dy, dc, cache, *, out=None):
    """Each step by itself: nothing of h's gradient comes back from the step after it."""
    steps = []
    for t in range(cache.y.shape[1]):
        here = slice(t, t + 1)
        steps.append(ops.lstm_backward(dy[:, here], dc * (t == cache.y.shape[1] - 1), cache._replace(
            x=cache.x[:, here], gates=cache.gates[:, here], y=cache.y[:, here], c=cache.c[:, here],
            h0=cache.h0 if t == 0 else cache.y[:, t - 1], c0=cache.c0 if t == 0 else cache.c[:, t - 1])))
    dx = np.concatenate([step[0] for step in steps], axis=1)
    return dx, *(sum(step[k] for step in steps) for k in (1, 2, 3)), steps[0][4], steps[0][5]


def state_from_the_wrong_step(dy, dc, cache, *, out=None):
    """dw_h made of y_t where y_{t-1} belongs."""
    dx, _, _, db, dh0, dc0 = full = ops.lstm_backward(dy, dc, cache)
    shifted = cache._replace(h0=cache.y[:, 0], y=np.concatenate([cache.y[:, 1:], cache.y[:, -1:]], axis=1))
    return dx, full[1], ops.lstm_backward(dy, dc, shifted)[2], db, dh0, dc0


def cotangent_ignored(dy, cache, *, out=None):
    """A check whose cotangents happen to be its inputs would not notice."""
    return ops.attention_backward(cache.q, cache)


def turned_on_instead_of_back(dy, cache, *, out=None):
    return ops.rotary_forward(dy, cache.cos, cache.sin, interleaved=cache.interleaved)[0]


def one_of_the_heads_that_share(dy, cache, *, out=None):
    share = cache.q.shape[2] // cache.k.shape[2]
    dq, dk, dv = ops.attention_backward(dy, cache._replace(k=np.repeat(cache.k, share, axis=2), v=np.repeat(cache.v, share, axis=2)))
    return dq, dk[:, :, ::share], dv[:, :, ::share]


def rmsnorm_without_its_mean_term(dy, cache, *, out=None):
    _, dw = ops.rmsnorm_backward(dy, cache)
    return dy * cache.w * cache.rstd, dw


def cap_taken_for_a_straight_line(dy, cache, *, out=None):
    """ds lacks the factor 1 - tanh^2, as if the capped scores were the scores."""
    from numpyllm.ops.attention import _probabilities, _scores
    q, share, scale = cache.q, cache.q.shape[2] // cache.k.shape[2], cache.q.shape[-1] ** -0.5
    k, v = np.repeat(cache.k, share, axis=2), np.repeat(cache.v, share, axis=2)
    P = _probabilities(_scores(q, k, cache.spans, cache.slopes, cache.softcap), cache.lse)
    ds = P * (np.einsum("bthd,bshd->bhts", dy, v) - (dy * cache.y).sum(-1).transpose(0, 2, 1)[..., None])
    dq, dk = np.einsum("bhts,bshd->bthd", ds, k) * scale, np.einsum("bhts,bthd->bshd", ds, q) * scale
    _, _, dv = ops.attention_backward(dy, cache)
    return dq, dk.reshape(*dv.shape[:3], share, -1).sum(axis=3), dv


def router_that_never_learns(dgates, cache, *, out=None):
    """Gates taken for constants."""
    return np.zeros_like(dgates)


def gates_each_for_itself(dgates, cache, *, out=None):
    """As if a chosen score did not push the other chosen ones down."""
    return ops._out.deliver((np.where(cache.chosen, diagonal_softmax_jacobian(dgates, cache.softmax), 0),), out)


def balance_pulls_what_counts_itself(dloss, cache, *, out=None):
    """P held constant and f taken for the probabilities, not the other way round: dp is T E P in place of E f."""
    P = cache.p.mean(axis=-2, keepdims=True) * cache.p.shape[-1]
    return ops.softmax_backward(dloss * np.broadcast_to(P, cache.p.shape), ops.SoftmaxCache(cache.p))


def preferred_with_the_probability_of_the_preferred(dloss, cache, *, out=None):
    """sigmoid(m) for sigmoid(-m): what is settled is pushed, what is wrong is not."""
    return ops.bradley_terry_backward(dloss, cache._replace(margin=-cache.margin))


def beta_on_one_side(dloss, cache, *, out=None):
    dchosen, drejected = ops.dpo_backward(dloss, cache)
    return dchosen, drejected / cache.beta


def penalty_as_if_it_were_the_plain_log_ratio(dloss, cache, *, out=None):
    """The gradient of kl (log p - log p_ref), whose expected value is zero: no penalty at all."""
    return np.where(cache.counted, dloss * (cache.kl - cache.advantages), 0)


CONTROLS = {    # case, op that is replaced, its broken form, tensors that must fail, methods that must see it
    "transposed dK": ("attention", "attention_backward", transposed_dk, {"k"}, ALL),
    "dropped mean term": ("layernorm", "layernorm_backward", dropped_mean_term, {"x"}, ALL),
    "missing 1/N": ("layernorm", "layernorm_backward", missing_one_over_n, {"x"}, ALL),
    "= for += in the scatter": ("embedding", "embedding_backward", assignment_in_scatter, {"w"}, ALL),
    "dropped tied term": ("GPT, tied", "token_position_backward", dropped_tied_term, {"embedding.wte"}, ALL),
    "residual through the norm": ("residual_layernorm", "residual_layernorm_backward", residual_through_the_norm,
                                  {"x", "r", "w", "b"}, ALL),
    "diagonal softmax Jacobian": ("softmax", "softmax_backward", diagonal_softmax_jacobian, {"x"}, ALL),
    "cotangent ignored": ("attention", "attention_backward", cotangent_ignored, {"q", "k", "v"}, ALL),
    "turned on instead of back": ("rotary", "rotary_backward", turned_on_instead_of_back, {"x"}, ALL),
    "one of the heads that share": ("attention, shared keys", "attention_backward", one_of_the_heads_that_share, {"k", "v"}, ALL),
    "RMSNorm without its mean term": ("rmsnorm", "rmsnorm_backward", rmsnorm_without_its_mean_term, {"x"}, ALL),
    "cap taken for a straight line": ("attention, soft cap", "attention_backward", cap_taken_for_a_straight_line, {"q", "k"}, ALL),
    "gates in each other's place": ("lstm", "lstm_backward", swapped_gates, {"w_x", "w_h", "b"}, ALL),
    "truncated through time": ("lstm", "lstm_backward", truncated_through_time, {"x", "w_x", "w_h", "b", "h0", "c0"}, ALL),
    "state of the wrong step": ("lstm", "lstm_backward", state_from_the_wrong_step, {"w_h"}, ALL),
    "dA without the scale": ("LoRALinear", "lora_backward", unscaled_down_projection, {"lora_a"}, ALL),
    "nothing back through A": ("LoRALinear", "lora_backward", only_the_frozen_path, {"x"}, ALL),
    "router that never learns": ("MixtureOfExperts, gated, dropout", "route_backward", router_that_never_learns, {"x", "router.w"}, ALL),
    "gates each for itself": ("route", "route_backward", gates_each_for_itself, {"scores"}, ALL),
    "balance of the wrong factor": ("MixtureOfExperts", "balance_backward", balance_pulls_what_counts_itself, {"x", "router.w"}, ALL),
    "the preferred's probability": ("bradley_terry", "bradley_terry_backward", preferred_with_the_probability_of_the_preferred,
                                    {"chosen", "rejected"}, ALL),
    "beta on one side": ("dpo", "dpo_backward", beta_on_one_side, {"rejected"}, ALL),
    "KL by the plain log ratio": ("policy_gradient, KL", "policy_gradient_backward", penalty_as_if_it_were_the_plain_log_ratio,
                                  {"logprobs"}, ALL),
    "float32 accumulation": ("linear", "linear_backward", float32_accumulation, {"w"}, ("complex", "adjoint", "central adjoint")),
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("control", CONTROLS)
def test_broken_backward_is_rejected(control, method):
    case, op, broken, tensors, caught = CONTROLS[control]
    rows = check_case(case, methods=(method,), ops=SimpleNamespace(**(vars(ops) | {op: broken})), seed=3)
    failed = {row.tensor for row in rows if not row.ok}
    assert failed == (tensors if method in caught else set()), f"{control}: {method} rejected {failed}"


@pytest.mark.parametrize("case", sorted({case for case, *_ in CONTROLS.values()}))
def test_the_same_case_unbroken_is_accepted(case):
    assert_ok(check_case(case, methods=ALL, seed=3))


def test_a_plain_sum_would_accept_zeros():
    """Why cotangents are random: with ones, the true gradient of softmax is zero."""
    x = np.random.default_rng(0).standard_normal((2, 5))
    y, cache = ops.softmax_forward(x)
    assert np.abs(ops.softmax_backward(np.ones_like(y), cache)).max() < 1e-15
    rows = check_op("softmax", ops.softmax_forward, lambda dy, cache: np.zeros_like(dy), {"x": x})
    assert not rows[0].ok


def test_failure_names_tensor_index_analytic_numeric_and_ratio():
    def forward(a, b):
        return a * b, (a, b)

    def backward(dy, cache):
        a, b = cache
        da = dy * b
        da[1, 2] *= 3
        return da, dy * a

    rng = np.random.default_rng(0)
    rows = check_op("times", forward, backward, {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal((2, 3))})
    with pytest.raises(GradientError) as caught:
        assert_ok(rows)
    message = str(caught.value)
    assert message.startswith("times: gradient of a (2, 3) is wrong by")
    for part in ("worst at (1, 2)", "analytic ", "numeric ", "ratio 3"):
        assert part in message
    assert "gradient of b" not in message


def test_some_entries_stand_for_all_beside_an_adjoint_test():
    """Of 999 entries one is wrong, at no chosen place: the adjoint test sees it; at a chosen place the complex step does, too."""
    x = np.random.default_rng(0).standard_normal((3, 333))
    chosen = check_op("square", *square(), {"x": x}, entries=5)[0]
    places = [int(word) for word in chosen.detail.partition("[")[2].partition("]")[0].split(",")]
    assert chosen.ok and chosen.shape == (3, 333) and len(set(places)) == 5
    other = next(i for i in range(x.size) if i not in places)
    for place, failed in ((other, {"adjoint", "central adjoint"}), (places[2], set(ALL))):
        rows = check_op("square", *square(wrong=place), {"x": x}, methods=ALL, entries=5)
        assert {row.method for row in rows if not row.ok} == failed
    calls = []
    check_op("square", lambda x: calls.append(0) or (x * x, x), lambda dy, x: 2 * x * dy, {"x": x}, methods=ALL, entries=5)
    assert len(calls) == 1 + 5 + 2 * 5 + 1 + 2


def square(wrong=None):
    def backward(dy, x):
        dx = 2 * x * dy
        if wrong is not None:
            dx.flat[wrong] += 1e-3
        return dx
    return lambda x: (x * x, x), backward


def test_wrong_shape_nan_and_nothing_checked_are_failures():
    x = np.ones(3)
    square = lambda x: (x * x, x)
    assert not check_op("square", square, lambda dy, x: np.ones((1, 3)), {"x": x})[0].ok
    assert not check_op("square", square, lambda dy, x: np.ones((1, 3)), {"x": x}, methods=("adjoint",))[0].ok
    assert not check_op("square", square, lambda dy, x: np.full(3, np.nan), {"x": x})[0].ok
    with pytest.raises(GradientError, match="nothing was checked"):
        assert_ok([])
    with pytest.raises(ValueError, match="float64"):
        check_op("square", square, lambda dy, x: x, {"x": x.astype(np.float32)})
