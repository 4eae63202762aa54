"""The LSTM language model: what must hold whatever its weights are, and that trainer, checkpoints and generation serve it."""

import json

import numpy as np
import pytest

from numpyllm import blas, kernels, ops
from numpyllm.cli.arguments import guarded
from numpyllm.cli.doctor import main as doctor
from numpyllm.cli.generate import main as generate_command
from numpyllm.cli.train import main as train_command
from numpyllm.errors import InputError
from numpyllm.inference import Decoder, StateDecoder, beam_search, generate, generate_many, make_decoder
from numpyllm.interop import load_decodable, save_pretrained, save_quantized
from numpyllm.models import GPT, LSTMLM, GPTConfig, LSTMConfig
from numpyllm.random import Draws
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import AdamW, RunFolder, TrainConfig, Trainer, load_model, newest_checkpoint
from numpyllm.training.replicas import Replicas
from numpyllm.workspace import Workspace

CONFIG = LSTMConfig(n_layer=2, n_embd=12, block_size=8, vocab_size=11)
backends = pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "twins"])
BETAS = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}
TEXT = "the quick brown fox jumps over the lazy dog. " * 30


def model(backend=ops, dtype=np.float64, seed=1, **changes):
    return LSTMLM(LSTMConfig(**vars(CONFIG) | changes), ops=backend, dtype=dtype, seed=seed)


def random_ids(*shape):
    return np.random.default_rng(0).integers(0, CONFIG.vocab_size, shape)


def test_the_forget_gate_begins_at_one_and_nothing_else_is_biased():
    b = model().parameters["blocks.1.b"].reshape(4, -1)
    assert (b[1] == 1).all() and (b[[0, 2, 3]] == 0).all()


def test_open_forget_and_shut_input_gate_keep_the_cell_for_ever():
    """With i = 0 and f = 1 the cell is a memory without loss, and its gradient comes back unchanged: the carousel of 1997."""
    rng, H = np.random.default_rng(0), 3
    b = np.concatenate([np.full(H, -800.0), np.full(H, 800.0), np.zeros(2 * H)])
    c0 = rng.standard_normal((2, H))
    _, c, cache = ops.lstm_forward(rng.standard_normal((2, 200, 5)), np.zeros((5, 4 * H)), np.zeros((H, 4 * H)), b, np.zeros((2, H)), c0)
    assert (c == c0).all()
    dc = rng.standard_normal((2, H))
    assert (ops.lstm_backward(np.zeros((2, 200, H)), dc, cache)[5] == dc).all()


@backends
def test_the_past_does_not_know_the_future(backend):
    ids = random_ids(2, 8)
    later = ids.copy()
    later[:, 5:] = (later[:, 5:] + 1) % CONFIG.vocab_size
    one, _ = model(backend).forward(ids)
    other, _ = model(backend).forward(later)
    assert (one[:, :5] == other[:, :5]).all() and (one[:, 5:] != other[:, 5:]).any()


@backends
@pytest.mark.parametrize("cut", [1, 3, 7])
def test_a_sequence_in_two_parts_is_the_whole(backend, cut):
    net, ids = model(backend), random_ids(3, 8)
    whole, _ = net.forward(ids)
    past = net.past(3)
    parts = np.concatenate([net.step(ids[:, :cut], past), net.step(ids[:, cut:], past)], axis=1)
    assert np.abs(parts - whole).max() < 1e-12 and (past.lengths == 8).all()


def test_a_context_may_be_longer_than_those_of_training():
    assert model().forward(random_ids(1, 50))[0].shape == (1, 50, CONFIG.vocab_size)


@pytest.mark.parametrize("ids, words", [([[11]], "ids must lie in"), ([[-1]], "ids must lie in"), ([0], "shape"), ([[0.5]], "integers"),
                                        (np.zeros((1, 0), int), "at least one token")])
def test_bad_ids_are_refused(ids, words):
    with pytest.raises(InputError, match=words):
        model().forward(ids)


@pytest.mark.parametrize("changes", [{"n_layer": 0}, {"n_embd": 1.5}, {"dropout": 1.0}, {"vocab_size": True}])
def test_bad_sizes_are_refused(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        model(**changes)


def test_the_estimate_counts_the_parameters():
    for tied in (True, False):
        net = model(tied=tied)
        assert net.estimate(4).parameters == net.n_params() == net.n_params(embedding=False) + net.embedding.wte.size


@backends
def test_recomputing_gives_the_same_bits_and_dropout_another_loss(backend):
    ids, found = random_ids(2, 8), []
    for recompute in (False, True):
        net = LSTMLM(LSTMConfig(**vars(CONFIG) | {"dropout": 0.4}), ops=backend, seed=1, recompute=recompute)
        with Workspace(poison=True).activate():
            loss, _ = net.loss_and_gradients(ids, ids, draws=Draws(0))
        assert loss != net.loss(ids, ids)[0]
        found.append((float(loss), net.parameters.grad.tobytes()))
    assert found[0] == found[1]


def test_twins_in_a_poisoned_workspace():
    """Memory that was given back is not read: the gradients are those of the text, step after step."""
    text, twin, ids = model(), model(kernels), random_ids(2, 8)
    expected, _ = text.loss_and_gradients(ids, ids)
    for _ in range(2):
        twin.parameters.clear_gradients()
        with blas.limited(1), Workspace(poison=True).activate():
            assert abs(float(twin.loss(ids, ids)[0]) - expected) < 1e-11
            loss, _ = twin.loss_and_gradients(ids, ids)
        assert abs(float(loss) - expected) < 1e-11
        assert np.linalg.norm(twin.parameters.grad - text.parameters.grad) < 1e-12 * np.linalg.norm(text.parameters.grad)


def test_nan_stays_nan_in_the_twins():
    """Else training that broke down would go on unnoticed."""
    net = model(kernels, np.float32)
    net.parameters["blocks.0.w_x"][0, 0] = np.nan
    assert np.isnan(net.loss(random_ids(2, 8), random_ids(2, 8))[0])


@backends
def test_two_replicas_take_the_step_of_one(backend):
    ids, after = random_ids(4, 8), []
    for n in (1, 2):
        net = model(backend)
        Replicas(net, n).step([(ids, ids)], AdamW(net.parameters, net.ops, **BETAS), lr=0.1, grad_clip=1.0, draws=lambda micro, row: None)
        after.append(net.parameters.data.copy())
    assert np.abs(after[0] - after[1]).max() < 1e-9


# ---- decoding with a state -----------------------------------------------------------------------------------------

@backends
def test_decoding_gives_the_logits_of_the_whole_context(backend):
    net, ids = model(backend), random_ids(1, 8)
    whole = net.forward(ids)[0][0]
    with make_decoder(net, sequences=3) as decoder:
        assert isinstance(decoder, StateDecoder)
        assert np.abs(decoder.start(ids[0, :3], 1) - whole[2]).max() < 1e-12
        decoder.copy(1, 0)
        for sequence in (0, 1):
            assert np.abs(decoder.extend(ids[0, 3:], sequence) - whole[3:]).max() < 1e-12
        decoder.cut(6, 1)                                   # along the last extend
        decoder.cut(2, 0)                                   # further back
        decoder.start(ids[0, :1], 2)
        rows = decoder.step([ids[0, 6], ids[0, 2], ids[0, 1]], [1, 0, 2])
        assert np.abs(rows - whole[[6, 2, 1]]).max() < 1e-12
        assert [decoder.length(i) for i in range(3)] == [3, 7, 2]
        decoder.cut(0, 1)
        assert np.abs(decoder.extend(ids[0, :2], 1) - whole[:2]).max() < 1e-12
        with pytest.raises(InputError, match="at least one token"):
            decoder.start([])


def test_a_gpt_still_has_its_cache():
    with make_decoder(GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=8, vocab_size=11))) as decoder:
        assert type(decoder) is Decoder


@backends
def test_guesses_change_no_token_and_there_is_no_limit(backend):
    net = model(backend, np.float32)
    plain = list(generate(net, [1, 2, 3], 40, seed=5))
    assert len(plain) == 40 > CONFIG.block_size and list(generate(net, [1, 2, 3], 40, seed=5, lookup=4)) == plain
    many = generate_many(net, [[1, 2, 3], [4]], 10, temperature=0)
    assert many[0] == list(generate(net, [1, 2, 3], 10, temperature=0)) and len(many[1]) == 10


def test_one_beam_is_greedy_and_more_are_at_least_as_likely():
    net = model()
    one, four = (beam_search(net, [1, 2], 6, beams=beams)[0] for beams in (1, 4))
    assert one.tokens == list(generate(net, [1, 2], 6, temperature=0)) and four.log_probability >= one.log_probability - 1e-9


# ---- trainer, checkpoints, command line ----------------------------------------------------------------------------

def trainer(folder, **changes):
    tokenizer = CharacterTokenizer.train(TEXT)
    tokens = tokenizer.encode_to_numpy(TEXT)
    net = LSTMLM(LSTMConfig(n_layer=1, n_embd=16, block_size=16, vocab_size=tokenizer.n_vocab, dropout=0.1), seed=1)
    config = TrainConfig(**{"batch_size": 8, "max_iters": 60, "eval_interval": 30, "eval_iters": 1, "log_interval": 30, "warmup_iters": 3,
                            "learning_rate": 3e-2, "threads": 2} | changes)
    return Trainer(net, config, tokens, tokens, tokenizer, run_folder=folder and RunFolder(folder).open(), log=lambda line: None)


def test_it_learns_and_a_checkpoint_gives_it_back(tmp_path):
    made = trainer(tmp_path / "run")
    before = made.evaluate().loss
    assert made.run() and made.evaluate().loss < 0.5 * before
    loaded, tokenizer, state = load_model(tmp_path / "run")
    assert isinstance(loaded, LSTMLM) and state["architecture"] == "lstm" and loaded.config == made.model.config
    assert loaded.parameters.data.tobytes() == made.model.parameters.data.tobytes()
    stored_model, stored, _ = load_decodable(tmp_path / "run", weights="int8", ops=ops)
    save_quantized(tmp_path / "small", stored_model, stored, tokenizer)
    again, rounded, _ = load_decodable(tmp_path / "small", ops=ops)
    with make_decoder(stored_model, weights=stored) as one, make_decoder(again, weights=rounded) as other:
        assert (one.start([1, 2]) == other.start([1, 2])).all()
        assert (one.start([1, 2]) != loaded.forward([[1, 2]])[0][0, -1]).any()
    with pytest.raises(InputError, match="GPT-2's"):
        save_pretrained(tmp_path / "hf", loaded)


def test_a_checkpoint_that_names_no_architecture_holds_a_gpt(tmp_path):
    from numpyllm.training.checkpoint import architecture, make_model
    state = {"model": vars(GPTConfig(n_layer=1, n_head=1, n_embd=4, block_size=4, vocab_size=5))}
    assert isinstance(make_model(state, tmp_path), GPT)
    with pytest.raises(InputError, match="one of the architectures gpt, lstm"):
        architecture({"architecture": "abacus"}, tmp_path)


SMALL = ["--architecture", "lstm", "--n_layer", "1", "--n_embd", "8", "--block_size", "8", "--batch_size", "2", "--max_iters", "4",
         "--eval_interval", "2", "--eval_iters", "1", "--warmup_iters", "1", "--backend", "numpy", "--tokenizer", "character"]


def test_the_command_line_trains_resumes_and_generates(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    run = ["--data", str(tmp_path / "text.txt"), "--out_dir", str(tmp_path / "run")]
    assert guarded(train_command, [*SMALL, *run]) == 0
    assert guarded(train_command, ["--resume", "--max_iters", "6", *run]) == 0
    state = json.loads((newest_checkpoint(tmp_path / "run") / "state.json").read_text())
    assert state["step"] == 6 and state["architecture"] == "lstm"
    assert 'architecture = "lstm"' in (tmp_path / "run" / "config.toml").read_text()
    assert guarded(generate_command, ["--model", str(tmp_path / "run"), "--prompt", "the", "--max_new_tokens", "20", "--backend", "numpy"]) == 0
    assert "\nthe" in capsys.readouterr().out
    begun = ["--init_from", str(tmp_path / "run"), "--data", run[1], "--out_dir", str(tmp_path / "begun")]
    assert guarded(train_command, [*begun, "--max_iters", "2", "--backend", "numpy", "--block_size", "9"]) == 0
    for words, flags in (("has no n_head", [*SMALL, "--n_head", "2"]), ("run to resume is of architecture lstm", ["--resume", "--architecture", "gpt"]),
                         ("is of architecture lstm", [*begun[:2], "--architecture", "gpt"])):
        where = run if "--resume" in flags else ["--data", run[1], "--out_dir", str(tmp_path / "other")]
        assert guarded(train_command, [*flags, *where]) == 2 and words in capsys.readouterr().err
    assert guarded(doctor, ["--model", str(tmp_path / "run")]) == 2 and "doctor examines a gpt" in capsys.readouterr().err


