"""The examples, run small; and what they answer to bad input: one line, exit code 2, nothing written."""

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numpyllm.cli.arguments import guarded
from numpyllm.cli.main import main as numpyllm_main
from numpyllm.training import TrainConfig, learning_rate, load_checkpoint, newest_checkpoint

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = ["--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--block_size", "8", "--batch_size", "2", "--eval_iters", "2",
         "--eval_interval", "6", "--max_iters", "12", "--warmup_iters", "2", "--log_interval", "3"]
WRITTEN = {"metrics.jsonl", "samples.jsonl", "config.toml", "environment.json"}
TEXT = "It was the best of times, it was the worst of times.\nIt was the age of wisdom, it was the age of foolishness.\n" * 12


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


train_tiny, train_shakespeare, numbers_in_words = load("train_tiny"), load("train_shakespeare"), load("numbers_in_words")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def tiny(text, out, *more):
    return guarded(train_tiny, ["--data", text, "--out_dir", str(out), "--vocab_size", "270", *SMALL, *more])


def test_train_tiny_from_text_to_proven_gradients(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert tiny(text, out) == 0
    printed = capsys.readouterr().out
    for part in ("reading", "training a tokenizer of 270 tokens", "step 12/12", "bits per byte", "unigram model", "gzip -9",
                 "this model", "> The", "complex step: 16 tensors right"):
        assert part in printed
    assert printed.strip().splitlines()[-1].startswith("gradients of the trained model")
    assert {path.name for path in out.iterdir()} - {"training.png"} == {
        *WRITTEN, "latest", "best", "step_00000006", "step_00000012"}
    assert "step" in json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])


def test_generate_continues_a_text_with_the_trained_model(text, tmp_path, capsys):
    assert tiny(text, tmp_path / "run") == 0
    capsys.readouterr()
    command = ["generate", "--model", str(tmp_path / "run"), "--prompt", "It was", "--max-new-tokens", "5", "--seed", "3"]
    assert numpyllm_main(command) == 0
    first = capsys.readouterr().out
    assert first.startswith("It was") and numpyllm_main(command) == 0 and capsys.readouterr().out == first


def test_train_shakespeare_is_nanogpts_recipe(text, tmp_path, capsys):
    """All the numbers of config/train_shakespeare_char.py as its README runs it on a CPU."""
    assert guarded(train_shakespeare, ["--data", text, "--out_dir", str(tmp_path / "run"), *SMALL]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("validation loss ")
    run = tmp_path / "defaults"
    assert guarded(train_shakespeare, ["--data", text, "--out_dir", str(run), "--max_iters", "1", "--eval_iters", "1"]) == 0
    _, state, _ = load_checkpoint(newest_checkpoint(run))
    model, train = state["model"], state["train"]
    assert TrainConfig().max_iters == 2000
    assert learning_rate(TrainConfig(), 100) == 1e-3 and learning_rate(TrainConfig(), 2000) == pytest.approx(1e-4)
    assert {k: model[k] for k in ("n_layer", "n_head", "n_embd", "block_size", "dropout", "bias", "tied")} == {
        "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "dropout": 0.0, "bias": False, "tied": True}
    assert {k: train[k] for k in ("batch_size", "learning_rate", "warmup_iters", "beta1", "beta2", "weight_decay",
                                  "grad_clip", "schedule", "gradient_accumulation_steps")} == {
        "batch_size": 12, "learning_rate": 1e-3, "warmup_iters": 100, "beta1": 0.9, "beta2": 0.99,
        "weight_decay": 0.1, "grad_clip": 1.0, "schedule": "cosine", "gradient_accumulation_steps": 1}


def test_numbers_in_words_from_pairs_to_mistakes(capsys):
    command = ["--max_iters", "3", "--test_pairs", "7", "--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--batch_size", "4",
               "--threads", "2"]
    assert guarded(numbers_in_words, command) == 0
    printed = capsys.readouterr().out
    for part in ("parameters; for instance", "training on 2 threads", "step     3/3  loss", "7 held-out pairs: 0.00% exactly right",
                 "nats a digit", "7 mistakes, the first of them:", "what beam search finds in", "probability"):
        assert part in printed
    assert guarded(numbers_in_words, command) == 0
    steady = lambda text: re.sub(" *[0-9]+ ms a step|[0-9]+ s$", "", text, flags=re.MULTILINE)
    assert steady(capsys.readouterr().out) == steady(printed)
    assert guarded(numbers_in_words, ["--n_head", "3"]) == 2 and guarded(numbers_in_words, ["--block_size", "9"]) == 2


def test_numbers_in_words_writes_numbers_right_and_holds_some_out():
    example = numbers_in_words.__globals__
    in_words, pairs, held_out_pairs, encoded = (example[name] for name in ("in_words", "pairs", "held_out_pairs", "encoded"))
    for n, words, other in ((0, "zero", "zero"), (13, "thirteen", "thirteen"), (40, "forty", "forty"),
                            (705, "seven hundred five", "seven hundred and five"), (1000, "one thousand", "one thousand"),
                            (50_021, "fifty thousand twenty-one", "fifty thousand and twenty one"),
                            (999_999, "nine hundred ninety-nine thousand nine hundred ninety-nine",
                             "nine hundred and ninety nine thousand nine hundred and ninety nine")):
        assert (in_words(n), in_words(n, True, " ")) == (words, other)
    assert len({in_words(n) for n in range(20_000)}) == 20_000
    learnt, held_out = pairs(3000, 0, "train"), held_out_pairs(3000, 0, "test")
    assert all(0 < n < 10**6 and n % 97 for n, _ in learnt) and {len(str(n)) for n, _ in learnt} == {1, 2, 3, 4, 5, 6}
    assert all(n % 97 == 0 for n, _ in held_out) and len({n for n, _ in held_out}) == 3000
    sources, targets = encoded([(30, "thirty"), (5, "five")])
    letters = example["LETTERS"]
    assert ["".join(letters[i] for i in row if i >= 0) for row in sources] == ["thirty", "five"]
    assert targets.tolist() == [[3, 0, 11], [5, 11, -1]]


def test_an_interrupted_run_resumes_to_the_same_bits(text, tmp_path):
    """A real process, a real Ctrl-C, in the middle of training."""
    command = [sys.executable, str(EXAMPLES / "train_tiny.py"), "--data", text, "--vocab_size", "270", *SMALL,
               "--max_iters", "300", "--eval_interval", "200", "--log_interval", "1"]
    process = subprocess.Popen([*command, "--out_dir", str(tmp_path / "parts")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "/300" in line:
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    stopped = json.loads((newest_checkpoint(tmp_path / "parts") / "state.json").read_text())["step"]
    assert 0 < stopped < 300 and "--resume" in rest
    assert guarded(train_tiny, ["--out_dir", str(tmp_path / "parts"), "--resume"]) == 0
    assert guarded(train_tiny, [*command[2:], "--out_dir", str(tmp_path / "whole")]) == 0
    a, b = (load_checkpoint(newest_checkpoint(tmp_path / name))[0] for name in ("parts", "whole"))
    for name in ("params", "adam_m", "adam_v"):
        assert a[name].tobytes() == b[name].tobytes()


@pytest.mark.parametrize("flags, words", [
    (["--data", "missing.txt"], "cannot read missing.txt: No such file or directory"),
    (["--n_embd", "30", "--n_head", "4"], "n_embd must be divisible by n_head, got n_embd=30 and n_head=4"),
    (["--block_size", "5000"], "longer than one context"),
    (["--max-itres", "5"], "--max_itres is not known: did you mean --max_iters?"),
    (["--frobnicate"], "--frobnicate is not known: --help lists what there is"),
    (["--max_iters", "many"], "argument --max_iters: invalid int value: 'many'"),
    (["--vocab_size", "10"], "vocab_size"),
    (["--resume"], "does not exist: train"),
    (["--learning_rate", "-1"], "learning_rate must be at least 0"),
    (["--n_embd", "100000000"], "the sizes must fit into the"),
    (["--batch_size", "100000000000000"], "the sizes must fit into the"),
    (["--bias", "maybe"], "must be true or false, got maybe"),
    (["--data", ""], "got an empty name"), (["--out_dir", ""], "got an empty name")])
def test_bad_input_is_one_line_and_exit_code_2(text, tmp_path, capsys, flags, words):
    out = tmp_path / "run"
    try:
        code = tiny(text, out, *flags)
    except SystemExit as stop:
        code = stop.code
    errors = capsys.readouterr().err
    assert code == 2 and words in errors and len(errors.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("content, words", [("", "is empty"), ("short", "must be longer than one context"),
                                            (b"\xff\xfe", "is no UTF-8 text")])
def test_bad_texts_are_one_line_and_exit_code_2(tmp_path, capsys, content, words):
    path = tmp_path / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert tiny(str(path), tmp_path / "run") == 2
    errors = capsys.readouterr().err
    assert words in errors and len(errors.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_unless_asked(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert tiny(text, out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert tiny(text, out) == 2
    assert "is not empty: give --resume to continue that run, --overwrite to replace it" in capsys.readouterr().err
    assert tiny(text, out, "--overwrite", "--n_embd", "15") == 2            # found to be bad before anything is removed
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert tiny(text, out, "--overwrite", "--max_iters", "6") == 0
    assert newest_checkpoint(out).name == "step_00000006"


def test_resuming_with_other_sizes_or_another_text_is_refused(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert tiny(text, out) == 0
    assert guarded(train_tiny, ["--out_dir", str(out), "--resume", "--n_embd", "32"]) == 2
    assert "the run to resume has n_embd=16, got --n_embd 32" in capsys.readouterr().err
    Path(text).write_text(TEXT + "more")
    assert guarded(train_tiny, ["--out_dir", str(out), "--resume"]) == 2
    assert "is not the text that" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(text, tmp_path):
    """A file may not grow beyond 20 kB in this process: the first checkpoint does not fit."""
    out = tmp_path / "run"
    process = subprocess.run([sys.executable, str(EXAMPLES / "train_tiny.py"), "--data", text, "--out_dir", str(out),
                              "--vocab_size", "270", *SMALL], capture_output=True, text=True, timeout=120,
                             env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert process.returncode == 2
    assert "step_00000000: the checkpoint cannot be written (File too large)" in process.stderr and len(process.stderr.splitlines()) == 1
    assert {path.name for path in out.iterdir()} == WRITTEN


def test_a_read_only_folder_is_one_line(text, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert tiny(text, tmp_path / "file" / "run") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_diverging_training_is_exit_code_1(text, tmp_path, capsys):
    with np.errstate(all="ignore"):
        assert tiny(text, tmp_path / "run", "--learning_rate", "1e5", "--grad_clip", "0", "--warmup_iters", "0",
                    "--max_iters", "50", "--eval_interval", "50") == 1
    assert "try a lower --learning_rate" in capsys.readouterr().err


@pytest.mark.thorough
def test_shakespeare_reaches_nanogpts_loss(data_dir, tmp_path, capsys):
    """nanoGPT printed 1.8857 on 20 random batches; over the whole validation text, the mean of three seeds is at most 1.91."""
    losses = []
    for seed in (1337, 1338, 1339):
        assert guarded(train_shakespeare, ["--data", str(data_dir / "tinyshakespeare.txt"), "--out_dir",
                                           str(tmp_path / str(seed)), "--seed", str(seed)]) == 0
        losses.append(float(capsys.readouterr().out.split()[-1]))
    assert sum(losses) / 3 <= 1.91


@pytest.mark.thorough
def test_numbers_in_words_are_read_right_in_99_of_100_cases(capsys):
    """Held-out numbers, two seeds; some minutes each."""
    for seed in (1337, 1):
        assert guarded(numbers_in_words, ["--seed", str(seed)]) == 0
        assert float(re.search(r"2000 held-out pairs: ([0-9.]+)% exactly right", capsys.readouterr().out)[1]) > 99
