"""Preferences and rewards: the losses' values and what their gradients estimate, data, DPO and REINFORCE in a Trainer."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm import kernels, ops
from numpyllm.data import hold_out
from numpyllm.data.permutation import shuffled
from numpyllm.errors import InputError
from numpyllm.finetuning import (BASELINES, DPO, TEMPLATES, BradleyTerry, EncodedPair, Form, FunctionReward, ModelReward, PairBatches,
                                 Pairs, Prompt, Reinforce, Rollouts, answer_logprobs, evaluate_pairs, read_preferences,
                                 read_prompts, reference_logprobs, reward_function, sample_answers)
from numpyllm.finetuning.reinforce import advantages
from numpyllm.finetuning.rollouts import answer_rows
from numpyllm.gradcheck import assert_ok, check_gradients, directional_derivative
from numpyllm.models import GPT, LSTMLM, GPTClassifier, GPTConfig, LSTMConfig
from numpyllm.random import Draws
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer
from numpyllm.training import AdamW, RunFolder, TrainConfig, Trainer, newest_checkpoint
from numpyllm.training.replicas import Replicas

TOKENIZER = CharacterTokenizer.train("abcdefghij ABC.\n?#")
FORM = Form(TEMPLATES["plain"], TOKENIZER, 40)
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=40, vocab_size=TOKENIZER.n_vocab)
PROMPTS = ["".join(letters) + "?" for letters in itertools.product("abc", "def", "ghi")]
ASKED = [Prompt(text, FORM.prompt_ids(text)) for text in PROMPTS]
TRAIN = TrainConfig(batch_size=8, max_iters=20, learning_rate=3e-3, warmup_iters=0, eval_interval=10, log_interval=10, threads=1,
                    spike_zscore=0.0, weight_decay=0.0)
ENCODED = [EncodedPair(None, FORM.encode(prompt, prompt[:2] + "."), FORM.encode(prompt, prompt.upper()[:2].replace("D", "A") + " abc"))
           for prompt in (p.replace("e", "d").replace("f", "d") for p in PROMPTS)]


def tiny(**options):
    return GPT(options.pop("config", CONFIG), seed=1, **options)


def gradients(objective, *batch, **options):
    objective.parameters.clear_gradients()
    loss, count = objective.loss_and_gradients(*batch, **options)
    objective.parameters.settle_gradients()
    return loss, objective.parameters.grad.copy()


def some_pairs(model, n=6):
    pairs = Pairs(ENCODED[:n])
    pairs.others = (reference_logprobs(model, pairs, 4),)
    return pairs


# The losses


def test_values_that_can_be_redone_by_hand():
    one = np.array([math.log(3.0)]), np.zeros(1)                    # a margin of log 3: probability 3/4
    loss, cache = ops.bradley_terry_forward(*one)
    assert loss == pytest.approx(math.log(4 / 3), rel=1e-15)
    assert [g[0] for g in ops.bradley_terry_backward(1.0, cache)] == pytest.approx([-0.25, 0.25], rel=1e-15)
    smoothed, cache = ops.bradley_terry_forward(*one, label_smoothing=0.25)
    assert smoothed == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4), rel=1e-15)
    assert abs(ops.bradley_terry_backward(1.0, cache)[0][0]) < 1e-16            # the best margin, log(3/4 / 1/4)
    dpo, cache = ops.dpo_forward(np.array([-5.0]), np.array([-7.0]), np.array([-6.0]), np.array([-6.0]), beta=math.log(3) / 2)
    assert dpo == pytest.approx(loss, rel=1e-15)
    assert ops.dpo_backward(1.0, cache)[0][0] == pytest.approx(-math.log(3) / 8, rel=1e-15)
    value, cache = ops.policy_gradient_forward(np.array([[-1.0, -2.0, 9.0]]), np.array([[-1.0, -2.0 + math.log(2), 0.0]]),
                                               np.array([3.0]), np.array([[True, True, False]]), kl=2.0)
    assert value == pytest.approx(9 + 2 * (2 - 1 - math.log(2)), rel=1e-15)
    assert ops.policy_gradient_backward(1.0, cache)[0] == pytest.approx([-3, -3 - 2, 0], rel=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_margins_are_neither_infinite_nor_lost(size, dtype):
    chosen, rejected = np.array([size, -size], dtype), np.zeros(2, dtype)
    for loss, cache, back in ((*ops.bradley_terry_forward(chosen, rejected), ops.bradley_terry_backward),
                              (*ops.dpo_forward(chosen, rejected, rejected, rejected, beta=1.0), ops.dpo_backward)):
        assert loss == size
        assert np.array_equal(back(1.0, cache)[0], [-np.exp(dtype(-size)), -1])
    value, cache = ops.policy_gradient_forward(np.full((1, 1), size, dtype), np.zeros((1, 1), dtype), np.zeros(1, dtype), np.ones((1, 1), bool), kl=1.0)
    assert value == size - 1 and ops.policy_gradient_backward(1.0, cache)[0, 0] == 1


@given(st.integers(0, 10_000), st.floats(0.1, 30.0))
def test_single_precision_is_near_double(seed, scale):
    rng = np.random.default_rng(seed)
    values = [(scale * rng.standard_normal(6)).astype(np.float32) for _ in range(4)]
    for dtype_pair in ((ops.bradley_terry_forward, ops.bradley_terry_backward, 2), (ops.dpo_forward, ops.dpo_backward, 4)):
        forward, backward, n = dtype_pair
        loss, cache = forward(*values[:n])
        exact, c_exact = forward(*(v.astype(np.float64) for v in values[:n]))
        assert loss == pytest.approx(exact, rel=1e-5, abs=1e-6)
        assert np.allclose(backward(1.0, cache), backward(1.0, c_exact), rtol=1e-4, atol=1e-6)


def every_answer(theta):
    """Of a policy over three tokens at two places, the second's logits by the first token: (answers (9, 2), logprobs (9, 2))."""
    first, second = theta[:3], theta[3:].reshape(3, 3)
    log_softmax = lambda z: z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    answers = np.array(list(itertools.product(range(3), repeat=2)))
    a, b = answers.T
    return answers, np.stack([log_softmax(first)[a], log_softmax(second)[a, b]], axis=1)


def pulled_back(theta, dlogprobs):
    """sum dlogprobs * d logprobs / d theta, by complex steps."""
    return np.array([(dlogprobs * directional_derivative(lambda t: every_answer(t)[1], theta, e)).sum() for e in np.eye(12)])


RNG = np.random.default_rng(5)
THETA, THETA_REF, REWARDS = RNG.standard_normal(12), RNG.standard_normal(12), RNG.standard_normal(9)


def test_the_expected_gradient_is_that_of_the_expected_reward_whatever_the_baseline():
    logprobs = every_answer(THETA)[1]
    p = np.exp(logprobs.sum(axis=1))
    truth = np.array([directional_derivative(lambda t: (np.exp(every_answer(t)[1].sum(axis=1)) * REWARDS).sum(), THETA, e) for e in np.eye(12)])
    for baseline in (0.0, 1.7):
        _, cache = ops.policy_gradient_forward(logprobs, logprobs, REWARDS - baseline, np.ones((9, 2), bool))
        expected = pulled_back(THETA, ops.policy_gradient_backward(1.0, cache) * p[:, None])
        assert np.abs(expected + truth).max() < 1e-14
    for baseline, factor in (("leave_one_out", 1.0), ("mean", 1 - 1 / 2)):          # over all pairs of answers, of one batch
        total = np.zeros((9, 2))
        for i, j in itertools.product(range(9), repeat=2):
            _, cache = ops.policy_gradient_forward(logprobs[[i, j]], logprobs[[i, j]], advantages(REWARDS[[i, j]], 2, baseline), np.ones((2, 2), bool))
            np.add.at(total, [i, j], p[i] * p[j] * ops.policy_gradient_backward(1 / 2, cache))
        assert np.abs(pulled_back(THETA, total) + factor * truth).max() < 1e-14


def test_the_penalty_has_the_value_of_one_divergence_and_the_gradient_of_the_other():
    logprobs, reference = every_answer(THETA)[1], every_answer(THETA_REF)[1]
    p, first = np.exp(logprobs.sum(axis=1)), np.exp(every_answer(THETA)[1][::3, 0])

    def divergence(theta, backwards):
        """KL in each context, weighted with how often THETA's policy meets it: of p and p_ref, or backwards."""
        log_p, log_q = every_answer(theta)[1], reference
        log_a, log_b = (log_q, log_p) if backwards else (log_p, log_q)
        each = np.exp(log_a) * (log_a - log_b)
        return each[::3, 0].sum() + (first[:, None] * each[:, 1].reshape(3, 3)).sum()

    _, cache = ops.policy_gradient_forward(logprobs, reference, np.zeros(9), np.ones((9, 2), bool), kl=1.0)
    penalty = np.expm1(cache.log_ratio) - cache.log_ratio
    assert (p[:, None] * penalty).sum() == pytest.approx(divergence(THETA, False), rel=1e-14)
    expected = pulled_back(THETA, ops.policy_gradient_backward(1.0, cache) * p[:, None])
    slope = lambda backwards: np.array([directional_derivative(lambda t: divergence(t, backwards), THETA, e) for e in np.eye(12)])
    assert np.abs(expected - slope(True)).max() < 1e-14
    assert np.abs(expected - slope(False)).max() > 0.1


@given(st.integers(0, 1000), st.integers(2, 5))
def test_baselines(seed, each):
    rewards = np.random.default_rng(seed).standard_normal(3 * each)
    one_by_one = [reward - np.delete(rewards[i // each * each:(i // each + 1) * each], i % each).mean() for i, reward in enumerate(rewards)]
    assert np.allclose(advantages(rewards, each, "leave_one_out"), one_by_one, rtol=0, atol=1e-14)
    assert np.array_equal(advantages(rewards, each, "none"), rewards)
    assert np.allclose(advantages(rewards, each, "mean"), rewards - rewards.mean())


# Objectives


def reinforce_batch(rng, V=11):
    targets = rng.integers(-1, V, (4, 6))
    return rng.integers(0, V, (4, 6)), targets, np.where(targets == -1, 0, -3 * rng.random((4, 6))), rng.standard_normal(4)


def dpo_batch(rng, V=11):
    return rng.integers(0, V, (4, 2, 6)), rng.integers(-1, V, (4, 2, 6)), -10 * rng.random((4, 2))


OBJECTIVES = {"DPO": (lambda model: DPO(model, beta=0.6, label_smoothing=0.1), dpo_batch),
              "REINFORCE": (lambda model: Reinforce(model, kl=0.3), reinforce_batch),
              "reward": (lambda model: BradleyTerry(model, label_smoothing=0.1), lambda rng: dpo_batch(rng)[:2])}
MODELS = {"GPT": lambda **o: GPT(GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=8, vocab_size=11, **o), dtype=np.float64),
          "LSTM": lambda **o: LSTMLM(LSTMConfig(n_layer=2, n_embd=8, block_size=8, vocab_size=11, **o), dtype=np.float64)}


def model_for(name, **options):
    model = MODELS["GPT"](**options)
    return GPTClassifier.from_gpt(model, 1) if name == "reward" else model


@pytest.mark.parametrize("name, kind", [*((name, "GPT") for name in OBJECTIVES), ("DPO", "LSTM"), ("REINFORCE", "LSTM")])
def test_gradients_of_objectives_against_the_complex_step(name, kind):
    make, some = OBJECTIVES[name]
    model, rng = model_for(name) if kind == "GPT" else MODELS[kind](), np.random.default_rng(0)
    model.parameters.data[...] = 0.5 * rng.standard_normal(model.parameters.data.shape)
    batch, shadow = some(rng), make(model.astype(np.complex128))
    loss, grad = gradients(make(model), *batch, scale=1.0)
    assert make(model).loss(*batch)[0] == pytest.approx(loss, rel=1e-13)

    def scalar(**changed):
        shadow.parameters.data[...] = model.parameters.data
        for key, value in changed.items():
            shadow.parameters[key][...] = value
        return shadow.loss(*batch)[0]

    assert_ok(check_gradients(name, scalar, {key: model.parameters[key] for key in model.parameters},
                              {key: model.parameters.gradient(key) for key in model.parameters}, methods=("adjoint",)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_replica_and_two_do_the_same(name):
    make, some = OBJECTIVES[name]
    found = []
    for n in (1, 2):
        model = model_for(name, dropout=0.2)
        optimizer = AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.99, weight_decay=0.0)
        replicas = Replicas(make(model), n)
        rng = np.random.default_rng(1)
        losses = [replicas.step([some(rng), some(rng)], optimizer, lr=1e-2, grad_clip=1.0,
                                draws=lambda micro, row, step=step: Draws(3, step=step, micro=micro, first_row=row))[0] for step in range(3)]
        found.append((losses, model.parameters.data.copy()))
    assert np.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert np.abs(found[0][1] - found[1][1]).max() < 1e-10


def test_at_the_beginning_nothing_is_preferred_and_the_cached_reference_is_the_recomputed_one():
    model = tiny(dtype=np.float64)
    pairs = some_pairs(model, 7)
    [reference] = pairs.others
    one_by_one = np.concatenate([answer_logprobs(model, *pairs.rows([i])[:2]) for i in range(7)])
    assert np.abs(reference - one_by_one).max() < 1e-12 * np.abs(reference).max()
    found = evaluate_pairs(DPO(model), pairs, 3)
    assert found.loss == pytest.approx(math.log(2), rel=1e-12) and abs(found.margin) < 1e-12
    loss, grad = gradients(DPO(model, beta=0.2), *pairs.rows(np.arange(7)))
    live = answer_logprobs(model, *pairs.rows(np.arange(7))[:2])                    # as if a second model were asked in each step
    again, grad_again = gradients(DPO(model, beta=0.2), *pairs.rows(np.arange(7))[:2], live)
    assert again == pytest.approx(loss, rel=1e-12) and np.abs(grad - grad_again).max() < 1e-12 * np.abs(grad).max()


def test_prompts_and_padding_ask_for_nothing():
    """The log-probability of an answer is the sum over its own tokens, its end among them."""
    model, pairs = tiny(dtype=np.float64), Pairs(ENCODED[:3])
    ids, targets = ENCODED[1].rejected
    logits = model.forward(ids[None])[0][0]
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    answer = TOKENIZER.encode(PROMPTS[1].replace("e", "d").upper()[:2].replace("D", "A") + " abc\n###")
    by_hand = sum(logits[len(ids) - len(answer) + k, token] for k, token in enumerate(answer))
    assert answer_logprobs(model, *pairs.rows([0, 1, 2]))[1, 1] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "kernels"])
def test_dpo_learns_what_is_preferred(backend):
    model = tiny(ops=backend)
    train, held_out = Pairs(ENCODED[:20]), Pairs(ENCODED[20:])
    for pairs in (train, held_out):
        pairs.others = (reference_logprobs(model, pairs, 8),)
    objective = DPO(model)
    trainer = Trainer(model, TRAIN, PairBatches(train, batch_size=8, seed=0), None, TOKENIZER, objective=objective,
                      evaluate=lambda: evaluate_pairs(objective, held_out, 4), log=lambda line: None)
    before = trainer.evaluate()         # in batches of 4, the reference in batches of 8: all are ties but for rounding
    assert before.accuracy == 0.5 and str(before).endswith("margin 0.000 (+0.000 against +0.000)")
    trainer.run()
    found = trainer.evaluate()
    assert found.accuracy == 1 and found.loss < 0.5 and found.margin == pytest.approx(found.chosen - found.rejected, rel=1e-6)
    assert trainer.best[0] == found.loss


def test_a_reward_model_learns_the_order_and_can_be_asked():
    model = GPTClassifier.from_gpt(tiny(ops=kernels), 1)
    train, held_out = Pairs(ENCODED[:20]), Pairs(ENCODED[20:])
    objective = BradleyTerry(model)
    trainer = Trainer(model, TRAIN, PairBatches(train, batch_size=8, seed=0), None, TOKENIZER, objective=objective,
                      evaluate=lambda: evaluate_pairs(objective, held_out, 4), log=lambda line: None)
    before = trainer.evaluate()
    trainer.run()
    found = trainer.evaluate()
    assert found.accuracy == 1 and found.loss < before.loss / 2
    rewards, _ = objective.judge(*held_out.rows(np.arange(2)))
    prompts = [p.replace("e", "d").replace("f", "d") for p in PROMPTS[20:22]]
    answers = [p[:2] + "." for p in prompts] + [p.upper()[:2].replace("D", "A") + " abc" for p in prompts]
    assert np.allclose(ModelReward(model, FORM, batch_size=3)(prompts * 2, answers), rewards.T.reshape(-1), atol=1e-5)
    assert np.isfinite(ModelReward(model, FORM)(["ab"], [""])).all()                    # a model may say nothing


def test_a_reward_is_read_at_the_end_of_the_answer_whatever_the_padding():
    model, pairs = GPTClassifier.from_gpt(tiny(dtype=np.float64), 1, seed=4), Pairs(ENCODED[:6])
    model.parameters["classifier.w"][...] = np.random.default_rng(0).standard_normal((16, 1))
    rewards, _ = BradleyTerry(model).judge(pairs.ids, pairs.targets)
    for i, pair in enumerate(ENCODED[:6]):
        for k, (ids, _) in enumerate((pair.chosen, pair.rejected)):
            assert model.logits(ids[None], np.array([len(ids)]))[0, 0] == pytest.approx(rewards[i, k], rel=1e-12)


def run_of(folder, steps, config=TRAIN):
    """REINFORCE on small letters: a Trainer resumed from the folder, if it has a checkpoint, that is to take so many steps."""
    model = tiny(ops=kernels)
    reward, reference = reward_function("lower_case"), model.astype(np.float32)
    sizes = {"batch_size": 8, "max_new_tokens": 6, "answers_each": 4}
    held_out = Rollouts(model, reference, ASKED[20:], reward, FORM, seed=1, **sizes)
    config = TrainConfig(**vars(config) | {"max_iters": steps, "lr_decay_iters": max(6, steps), "eval_interval": 3, "log_interval": 3, "threads": 2})
    resume = folder is not None and (folder / "latest").exists()
    run = None if folder is None else RunFolder(folder, resume=resume)
    trainer = Trainer(model, config, Rollouts(model, reference, ASKED[:20], reward, FORM, seed=0, **sizes), None, TOKENIZER, run_folder=run,
                      objective=Reinforce(model, kl=0.05), evaluate=lambda: held_out.evaluate(0.05), log=lambda line: None)
    if run:
        run.open(trainer.resume(newest_checkpoint(folder))["metrics_bytes"] if resume else 0)
    return trainer


def test_a_resumed_run_draws_the_same_answers_and_ends_with_the_same_bits(tmp_path):
    whole = run_of(tmp_path / "whole", 6)
    whole.run()
    run_of(tmp_path / "parts", 3).run()
    resumed = run_of(tmp_path / "parts", 6)
    assert resumed.step == 3
    resumed.run()
    assert resumed.model.parameters.data.tobytes() == whole.model.parameters.data.tobytes()
    ours, theirs = ([{k: v for k, v in line.items() if "tok_per_sec" not in k} for line in trainer.run_folder.read_metrics()]
                    for trainer in (whole, resumed))
    assert ours == theirs
    assert any("train/reward" in line and "train/kl" in line for line in ours) and "val/reward" in ours[0]


def test_answers_are_a_function_of_seed_step_and_parameters():
    a, b = run_of(None, 6), run_of(None, 6)
    same = lambda x, y: all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))
    first = a.batches(2, 1)
    a.batches(3)
    assert same(a.batches(2, 1), first) and same(b.batches(2, 1), first)
    assert not same(a.batches(3), first)
    a.train_step()
    assert not same(a.batches(2, 1), first)


def test_reinforce_learns_what_is_rewarded():
    trainer = run_of(None, 40)
    before = trainer.evaluate().measured
    trainer.run()
    after = trainer.evaluate().measured
    assert before.kl < 1e-5 and after.kl > 0.1
    assert after.reward > before.reward + 0.1
    assert after.entropy < before.entropy


def test_a_dear_penalty_keeps_the_model_where_it_was():
    drifts = []
    for kl in (0.0, 3.0):
        trainer = run_of(None, 30)
        trainer.replicas = Replicas(Reinforce(trainer.model, kl=kl), 1)
        for _ in range(30):
            trainer.train_step()
        drifts.append(trainer.evaluate().measured.kl)
    assert drifts[1] < drifts[0] / 4


# Answers that are drawn


WORDS = BytePairTokenizer.train("a bad cab fed a dab cab bad fed " * 20, 266, special_tokens=["<|endoftext|>"])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, WORDS], ids=["text", "token"])
def test_answers_end_with_a_token_or_a_text_and_both_are_learnt(tokenizer):
    form = Form(TEMPLATES["plain"], tokenizer, 60)
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=60, vocab_size=tokenizer.n_vocab), dtype=np.float64)
    model.parameters.data[...] = 0
    end = form.ending
    favoured = end.ids[0] if end.token is not None else TOKENIZER.encode("#")[0]
    model.parameters["embedding.wte"][favoured] = 1                     # the likeliest token, whatever came before
    model.parameters["norm.b"][...] = 0.5
    asked = [Prompt(text, form.prompt_ids(text)) for text in ("abc", "d", "fed")] * 6
    answers = sample_answers(model, asked, form, 24, seed=3)
    assert [answer.text for answer in answers] == [answer.text for answer in sample_answers(model, asked, form, 24, seed=3)]
    ids, targets = answer_rows(answers)
    for row, answer, prompt in zip(targets, answers, asked, strict=True):
        said = row[row != -1].tolist()
        assert said == answer.tokens and answer.prompt == prompt.ids
        whole = tokenizer.decode([token for token in said if token != end.token])
        assert whole == answer.text + "".join(end.stops) * answer.ended
        if end.token is not None:
            assert (said[-1] == end.token) == answer.ended
    if end.token is not None:
        assert 0 < sum(answer.ended for answer in answers)
    assert (ids[:, 0] == [prompt.ids[0] for prompt in asked]).all()


def test_a_stop_text_ends_an_answer_at_once():
    model = tiny(dtype=np.float64)
    model.parameters.data[...] = 0
    model.parameters["norm.b"][...] = 1
    stop = TOKENIZER.encode("\n###")
    model.parameters["embedding.wte"][stop] = 1
    answers = sample_answers(model, ASKED[:1] * 40, FORM, 30, seed=0)
    ended = [answer for answer in answers if answer.ended]
    assert ended and all(answer.tokens[-4:] == stop and "\n###" not in answer.text for answer in ended)
    assert all(len(answer.tokens) == 30 for answer in answers if not answer.ended)


def test_rewards_that_are_functions():
    answers = ["Return x.", "count", "class", "", "ALL CAPS", "as long as this"]
    value = lambda name: reward_function(name)(["p"] * 6, answers).tolist()
    assert value("full_stop") == [1, 0, 0, 0, 0, 0]
    assert value("identifier") == [0, 1, 0, 0, 0, 0]
    assert value("lower_case") == [6 / 7, 1, 1, 0, 0, 1]
    assert value("contains:RETURN") == [1, 0, 0, 0, 0, 0]
    assert value("length:10") == pytest.approx([0.9, 0.5, 0.5, 0, 0.8, 0.5])


@pytest.mark.parametrize("name, message", [("lowercase", "did you mean lower_case"), ("length", "length must be told a positive"),
                                           ("length:x", "such as length:40"), ("contains:", "contains must be told a word"), ("x", "there are lower_case")])
def test_unknown_rewards_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        reward_function(name)


# Data


def write(folder, rows, name="p.jsonl"):
    path = folder / name
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


GOOD = {"prompt": "ab", "chosen": "cd.", "rejected": "CA"}


@pytest.mark.parametrize("row, message", [
    ({"prompt": "ab", "chosen": "c"}, r"p\.jsonl:2: must have a field 'rejected'"),
    (GOOD | {"rejected": " "}, r"p\.jsonl:2: rejected must not be empty"),
    (GOOD | {"rejected": " cd. "}, r"p\.jsonl:2: chosen and rejected must differ"),
    (GOOD | {"chosen": "a" * 60}, r"p\.jsonl:2: .*must fit into the context of 40 tokens"),
    ("{\n", r"p\.jsonl:2: must be a JSON object"),
])
def test_bad_pairs_are_named_by_line_or_skipped(tmp_path, row, message):
    path, skipped = write(tmp_path, [GOOD, row, GOOD]), []
    with pytest.raises(InputError, match=message):
        read_preferences(path, FORM)
    assert len(read_preferences(path, FORM, skip_bad=True, skipped=skipped)) == 2 and len(skipped) == 1


def test_a_prompt_has_no_control_signs(tmp_path):
    path = write(tmp_path, [GOOD, GOOD | {"prompt": "a<|endoftext|>b"}])
    form = FORM._replace(tokenizer=WORDS)
    for read in (lambda **settings: read_preferences(path, form, **settings), lambda **settings: read_prompts(path, form, 30, **settings)):
        with pytest.raises(InputError, match=r"p\.jsonl:2: a prompt must not contain '<\|endoftext\|>'"):
            read()
        assert len(read(skip_bad=True)) == 1


def test_prompts_alone_are_read_once_each(tmp_path):
    path = write(tmp_path, [GOOD, {"prompt": "d"}, GOOD])
    assert [prompt.text for prompt in read_prompts(path, FORM, 20)] == ["ab", "d"]
    with pytest.raises(InputError, match=r"p\.jsonl:1: a prompt must leave room .* have 5 tokens"):
        read_prompts(path, FORM, 5)


def test_no_prompt_is_both_learnt_and_held_out(tmp_path):
    rows = [{"prompt": prompt, "chosen": f"{c}.", "rejected": "B"} for c in "abc" for prompt in [*PROMPTS, *(f" {p.title()} ".replace("Ae", "ae") for p in PROMPTS)]]
    rows = [row for row in rows if set(row["prompt"]) <= set("abcdefghij ABC?")]
    pairs = read_preferences(write(tmp_path, rows), FORM)
    kept, held = hold_out(pairs, 0.3, key=lambda pair: pair.preference.prompt)
    plain = lambda some: {pair.preference.prompt.casefold().strip() for pair in some}
    assert kept and held and len(kept) + len(held) == len(rows) and not plain(kept) & plain(held)
    with pytest.raises(InputError, match="makes 3 and 0"):
        hold_out(["a", "a", "a"], 0.1, key=str)


def test_every_pair_comes_once_an_epoch():
    row = shuffled(0, 60, 20, 7, "x")
    assert all(sorted(row[i:i + 20]) == list(range(20)) for i in (0, 20, 40)) and (row[:20] != row[20:40]).any()
    assert np.array_equal(np.concatenate([shuffled(i, 7, 20, 7, "x") for i in range(0, 56, 7)]), row[:56])
    batches = PairBatches(Pairs(ENCODED[:6]), batch_size=4, seed=0, micro_batches=2)
    assert all(part.shape[:2] == (4, 2) for part in batches(3, 1))


@pytest.mark.parametrize("make, message", [
    (lambda m: DPO(m, beta=0), "beta must be positive"), (lambda m: DPO(m, label_smoothing=0.5), "below 0.5"),
    (lambda m: Reinforce(m, kl=-1), "at least 0"), (BradleyTerry, "must be a reward model, .*got another GPT"),
    (lambda m: ModelReward(GPTClassifier.from_gpt(m, 2), FORM), "a reward must be a reward model"),
    (lambda m: Rollouts(m, m, ASKED, None, FORM, batch_size=6, seed=0), "must be a multiple"),
    (lambda m: Rollouts(m, m, ASKED, None, FORM, batch_size=6, seed=0, answers_each=1), "needs at least 2 answers"),
    (lambda m: Rollouts(m, m, ASKED, None, FORM, batch_size=8, seed=0, max_new_tokens=35), "behind the longest prompt"),
    (lambda m: Rollouts(m, m, ASKED, None, FORM, batch_size=8, seed=0, baseline="x"), f"one of {', '.join(BASELINES)}"),
    (lambda m: Rollouts(m, m, ASKED, FunctionReward(lambda answer: math.nan), FORM, batch_size=8, seed=0, max_new_tokens=4)(0), "finite number"),
])
def test_what_means_nothing_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make(tiny())
