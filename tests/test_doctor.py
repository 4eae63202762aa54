"""numpyllm doctor: it finds nothing wrong where all is well, and each defect by the line that is about it."""

import configparser
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_run
from test_cli import run

from numpyllm import doctor, kernels, ops
from numpyllm.data import Batches
from numpyllm.doctor import Patient, check_versions, examine, irreducible, numbers
from numpyllm.errors import InputError
from numpyllm.kernels import _jit
from numpyllm.layers import basic
from numpyllm.models import GPTConfig
from numpyllm.training import TrainConfig

V = tiny_run.TOKENIZER.n_vocab
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=V)
TRAIN = TrainConfig(batch_size=4, learning_rate=1e-2, threads=1)
BATCHES = Batches(tiny_run.TOKENS, batch_size=4, block_size=16, seed=1)


def failures(*names, backend=ops, train=TRAIN, batches=BATCHES, **changes):
    """The names of the findings that are not ok, among those of these checks (the cheap ones by default)."""
    names = names or ("causality", "initial loss", "overfitting")
    patient = Patient(CONFIG, train, backend, batches)
    found = {name: doctor.CHECKS[name](patient, lambda done, total: None) for name in names}
    assert all(finding.name == name and any(c.isdigit() for c in finding.found) for name, finding in found.items())
    return {name for name, finding in found.items() if not finding.ok}


def broken(backend, **replaced):
    return SimpleNamespace(**vars(backend) | replaced)


def test_nothing_is_wrong_where_all_is_well(capsys):
    assert failures() == set() and failures(backend=kernels) == set()
    code, out, err = run(capsys, "doctor", "--n_layer", "1", "--n_embd", "32", "--block_size", "32", "--tokenizer", "character",
                         "--learning_rate", "1e-2", "--data", tiny_run.__file__)
    lines = out.splitlines()
    assert code == 0 and lines[-1] == "9 checks, 0 failed" and err == "", out
    assert [line.split("  ")[0] for line in lines[-10:-1]] == ["ok"] * 9
    assert all(f" {name} " in line for name, line in zip((n for n in doctor.CHECKS if n != "loss"), lines[-10:-1], strict=True))


def test_a_failure_says_what_was_found_and_expected_and_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"overfitting": doctor.check_overfitting})
    arguments = ("--n_layer", "1", "--n_embd", "8", "--block_size", "8", "--tokenizer", "character", "--data", tiny_run.__file__)
    code, out, _ = run(capsys, "doctor", *arguments, "--learning_rate", "0", "--backend", "numpy")
    assert code == 1 and out.splitlines()[-1] == "1 checks, 1 failed"
    assert "FAILED  overfitting   32 tokens, 300 steps of adamw: loss " in out
    assert "(expected: below 0.1" in out and "try another --learning_rate than 0" in out


def test_a_wrong_backward_is_found():
    def wrong(dy, cache, *, out=None):
        dx, db = kernels.bias_gelu_backward(dy, cache, out=out)
        dx *= 0.9
        return dx, db

    assert failures("kernels", "gradients", backend=broken(kernels, bias_gelu_backward=wrong)) == {"kernels", "gradients"}
    assert failures("kernels", backend=kernels) == set()


def test_a_wrong_forward_of_a_twin_is_found():
    def wrong(x, w, b=None, **more):
        y, cache = kernels.linear_forward(x, w, b, **more)
        y *= 1.001
        return y, cache

    assert failures("kernels", backend=broken(kernels, linear_forward=wrong)) == {"kernels"}


def test_attention_without_its_mask_is_found():
    def all_keys(q, k, v, spans=None, **more):
        return ops.attention_forward(q, k, v, None, **more)

    def one_too_many(q, k, v, spans=None, **more):
        return ops.attention_forward(q, k, v, np.minimum(spans + [0, 1], k.shape[1]), **more)

    for forward in (all_keys, one_too_many):
        assert "causality" in failures("causality", backend=broken(ops, attention_forward=forward))


def test_an_input_that_does_not_arrive_is_found():
    def positions_only(ids, wte, wpe, **more):
        return ops.token_position_forward(np.zeros_like(ids), wte, wpe, **more)

    assert failures(backend=broken(ops, token_position_forward=positions_only)) == {"causality", "overfitting"}


@pytest.mark.parametrize("std", [0.2, 1.0])
def test_initial_weights_of_the_wrong_size_are_found(monkeypatch, std):
    normal = basic.normal
    monkeypatch.setattr(basic, "normal", lambda _: normal(std))
    assert "initial loss" in failures("initial loss")


def test_a_text_of_repetitions_is_no_wrong_initialisation():
    """With a tied head a token is likely to follow itself: by 0.7 to 1 nat, which would look like weights too large."""
    rows = np.repeat(np.arange(4), 16).reshape(4, 16)
    batches = lambda step: (rows, np.where(np.arange(16) == 15, (rows + 1) % 4, rows))
    patient = Patient(GPTConfig(n_layer=1, n_head=2, n_embd=64, block_size=16, vocab_size=V), TRAIN, ops, batches)
    assert doctor.check_initial_loss(patient, None).ok


def test_a_learning_rate_of_zero_and_one_far_too_high_are_found():
    for rate in (0.0, 1e3):
        assert failures(train=TrainConfig(batch_size=4, learning_rate=rate, threads=1)) == {"overfitting"}


def test_noise_in_place_of_targets_is_learnt_by_heart_but_not_what_changes():
    rng = np.random.default_rng(0)
    noise = lambda step: (rng.integers(0, V, (4, 16)), rng.integers(0, V, (4, 16)))
    assert failures("overfitting", batches=noise) == set()
    same = lambda step: (np.zeros((4, 16), int), rng.integers(0, V, (4, 16)))
    assert failures("overfitting", batches=same) == set()       # no less than irreducible is asked


def test_irreducible_loss_is_that_of_equal_contexts_that_go_on_differently():
    ids = np.array([[1, 2], [1, 3], [1, 2]])
    assert irreducible(ids, np.array([[5, 5], [6, 5], [5, 4]])) == pytest.approx((3 * 0.6365141682948128 + 2 * math.log(2)) / 6)
    assert irreducible(ids, np.array([[5, 5], [-1, 5], [5, -1]])) == 0.0


def test_a_slow_step_is_found(monkeypatch):
    monkeypatch.setattr(doctor, "SPEED_SECONDS", 0.0)
    monkeypatch.setattr(doctor, "sgemm_ceiling", lambda threads: 1.0)

    def slow(*args, **more):
        time.sleep(0.05)
        return kernels.adamw_update(*args, **more)

    assert failures("speed", backend=broken(kernels, adamw_update=slow)) == set()       # a step so small may be anything
    monkeypatch.setattr(doctor, "SPEED_FLOPS", 0.0)
    assert failures("speed", backend=broken(kernels, adamw_update=slow)) == {"speed"}
    monkeypatch.setattr(doctor, "sgemm_ceiling", lambda threads: 1e-3)
    assert failures("speed", backend=broken(kernels, adamw_update=slow)) == set()


def test_the_machine(monkeypatch):
    assert failures("versions", "threads", "kernel cache", backend=kernels) == set()
    assert failures("threads", train=TrainConfig(threads=99)) == {"threads"}
    two = [{"user_api": "blas", "internal_api": "openblas", "version": "1", "num_threads": 2}]
    monkeypatch.setattr(doctor.threadpoolctl, "threadpool_info", lambda: two)
    assert failures("threads") == {"threads"}
    monkeypatch.setattr(_jit, "CACHE", None)
    assert failures("kernel cache", backend=kernels) == {"kernel cache"} and failures("kernel cache") == set()
    monkeypatch.setattr(doctor, "version", lambda name: "0.60.1" if name == "numba" else "99")
    finding = check_versions(None, None)
    assert not finding.ok and finding.remedy == "pip install --upgrade numba" and "numba 0.60.1" in finding.found


def test_versions_are_those_that_the_package_asks_for():
    asked = configparser.ConfigParser()
    asked.read(Path(__file__).parent.parent / "setup.cfg")
    lines = asked["options"]["install_requires"].split()
    assert {name: numbers(low) for name, _, low in (line.partition(">=") for line in lines)} == doctor.REQUIRED
    assert numbers("2.4rc1") == (2, 4) and numbers("0.61.dev0") == (0, 61) and numbers("") == ()


def test_a_check_that_cannot_go_on_is_a_finding_and_bad_input_is_not(monkeypatch):
    def breaks(patient, progress):
        raise ZeroDivisionError("float division by zero")

    def refuses(patient, progress):
        raise InputError("no")

    monkeypatch.setattr(doctor, "CHECKS", {"causality": breaks, "speed": refuses})
    found = examine(Patient(CONFIG, TRAIN, ops, BATCHES))
    assert next(found)[:2] == ("causality", "it ends with ZeroDivisionError: float division by zero")
    with pytest.raises(InputError):
        next(found)


def test_a_trained_model_is_examined(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name] for name in ("kernels", "causality", "loss")})
    text = tmp_path / "text.txt"
    text.write_text(tiny_run.TEXT)
    folder = tmp_path / "run"
    assert tiny_run.make(folder).run()
    code, out, _ = run(capsys, "doctor", "--model", str(folder), "--data", str(text))
    assert code == 0 and out.endswith("3 checks, 0 failed\n") and f"(expected: below ln {V} = " in out
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text.write_text("qjz" * 600)        # nothing that the model has seen
    code, out, _ = run(capsys, "doctor", "--model", str(folder), "--data", str(text))
    assert code == 1 and "FAILED  loss " in out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("arguments, words", [
    (("--model", "nowhere"), "nowhere does not exist"), (("--config", "tyny"), "did you mean tiny?"),
    (("--data", "nowhere.txt"), "nowhere.txt"), (("--n_embd", "7"), "n_embd must be divisible by n_head"),
    (("--learning_rate", "-1"), "learning_rate must be at least 0"), (("--n_embd", "100000000"), "must fit into the")])
def test_bad_input_is_one_line(capsys, arguments, words):
    code, out, err = run(capsys, "doctor", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1


def test_the_sizes_of_a_trained_model_are_its_own(tmp_path, capsys):
    assert tiny_run.make(tmp_path / "run", max_iters=1).run()
    code, _, err = run(capsys, "doctor", "--model", str(tmp_path / "run"), "--n_layer", "2")
    assert code == 2 and "--model has its n_layer on record: leave --n_layer out" in err
