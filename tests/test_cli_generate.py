"""numpyllm generate and quantize: what they answer to odd models, odd prompts, closed pipes and Ctrl-C."""

import io
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from numpyllm.cli.main import main
from numpyllm.inference import generate_text
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer
from numpyllm.training import load_model, save_checkpoint

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 4


def save_model(folder, tokenizer=None, **sizes):
    tokenizer = tokenizer or BytePairTokenizer.train(TEXT, 270)
    config = GPTConfig(**({"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": tokenizer.n_vocab} | sizes))
    model = GPT(config, seed=None)
    model.parameters.data[...] = 0.3 * np.random.default_rng(0).standard_normal(model.parameters.data.size)
    save_checkpoint(folder, {"params": model.parameters.data}, {"step": 7, "model": vars(config), "train": {}, "facts": {},
                                                                "layout": model.parameters.layout, "metrics_bytes": 0}, tokenizer)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("generate") / "model")


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("generate") / "characters", CharacterTokenizer.train("abc \n"))


def run(capsys, command, *arguments, model):
    """-> exit code, what was printed, what was complained."""
    try:
        code = main([command, "--model", model, *arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def standard_input(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


@pytest.mark.parametrize("flags", [
    [], ["--lookup", "3"], ["--temperature", "0"], ["--top_k", "3", "--top_p", "0.9", "--min_p", "0.1"], ["--repetition_penalty", "1.3"],
    ["--weights", "bfloat16"], ["--weights", "int8", "--lookup", "100000"], ["--threads", "3"], ["--backend", "numpy", "--lookup", "2"],
    ["--beams", "3"], ["--beams", "2", "--weights", "int8", "--threads", "2"], ["--num_samples", "3"], ["--stop", "a", "--stop", "\n"],
    ["--max_new_tokens", "0"], ["--max_new_tokens", "0", "--beams", "2"], ["--temperature", "1e-310"], ["--seed", "9" * 30]])
@pytest.mark.parametrize("prompt", ["the", TEXT])       # the second is longer than the context
def test_every_option_continues_the_prompt(model, capsys, flags, prompt):
    code, printed, errors = run(capsys, "generate", "--prompt", prompt, "--max_new_tokens", "12", *flags, model=model)
    assert (code, errors) == (0, "") and printed.startswith(prompt)
    assert printed.count("-" * 40 + "\n" + prompt) == (2 if "--num_samples" in flags else 0)
    assert run(capsys, "generate", "--prompt", prompt, "--max_new_tokens", "12", *flags, model=model)[1] == printed


@pytest.mark.parametrize("flags", [[], ["--lookup", "4"], ["--beams", "3"], ["--weights", "int8"]])
def test_a_context_of_one_token_and_a_vocabulary_without_an_end(tmp_path, capsys, flags):
    odd = save_model(tmp_path / "odd", BytePairTokenizer.train(TEXT, 262, special_tokens=()), block_size=1)
    assert run(capsys, "generate", "--prompt", "the", "--max_new_tokens", "9", *flags, model=odd)[::2] == (0, "")


@pytest.mark.parametrize("flags", [["--temperature", "5"], ["--beams", "3"]])
def test_tokens_that_the_tokenizer_does_not_know_are_never_chosen(tmp_path, capsys, flags):
    padded = save_model(tmp_path / "padded", vocab_size=2000)
    assert run(capsys, "generate", "--max_new_tokens", "40", *flags, model=padded)[::2] == (0, "")


def test_a_stop_string_may_begin_in_one_token_and_end_in_another(model, capsys):
    text = run(capsys, "generate", "--prompt", "a", "--max_new_tokens", "40", "--seed", "4", model=model)[1][1:-1]
    trained, tokenizer, _ = load_model(model)
    first = generate_text(trained, tokenizer, "a", 6, seed=4, temperature=0.8)
    stop = text[len(first) - 1:len(first) + 1]                  # the last character of one token, the first of the next
    assert run(capsys, "generate", "--prompt", "a", "--max_new_tokens", "40", "--seed", "4", "--stop", stop, model=model)[1] == \
        "a" + text[:text.find(stop)] + "\n"


def test_prompts_from_a_pipe(model, capsys, monkeypatch):
    standard_input(monkeypatch, "déjà\n".encode())
    code, printed, _ = run(capsys, "generate", "--prompt", "-", "--max_new_tokens", "3", model=model)
    assert code == 0 and printed.startswith("déjà\n")
    for content, words in ((b"", "at least one token"), (b"a\xff", r"must be UTF-8 text, got b'\xff'")):
        standard_input(monkeypatch, content)
        code, printed, errors = run(capsys, "generate", "--prompt", "-", model=model)
        assert (code, printed, len(errors.splitlines())) == (2, "", 1) and words in errors


def test_interactive_answers_a_line_after_another(characters, capsys, monkeypatch):
    """A line's end is no part of a prompt, an empty line is a prompt; a bad one is complained of, and the next is asked for."""
    flags = ["--max_new_tokens", "4", "--temperature", "0"]
    expected = [run(capsys, "generate", "--prompt", prompt, *flags, model=characters)[1].removeprefix(prompt) for prompt in ("abc", "\n", "ca")]
    standard_input(monkeypatch, b"abc\r\n\nxyz\nca")
    code, printed, errors = run(capsys, "generate", "--interactive", *flags, model=characters)
    assert code == 0 and printed == "".join(expected)
    assert "every character must be in the vocabulary" in errors and len(errors.splitlines()) == 1


def test_a_search_uses_the_weights_and_threads_that_were_asked_for(model, capsys, monkeypatch):
    made = []
    from numpyllm.inference import decoder
    real = decoder.Decoder.__init__
    monkeypatch.setattr(decoder.Decoder, "__init__", lambda self, *a, **k: made.append(k) or real(self, *a, **k))
    assert run(capsys, "generate", "--beams", "3", "--weights", "int8", "--threads", "2", "--max_new_tokens", "3", model=model)[0] == 0
    assert [(k["weights"].kind, k["threads"], k["sequences"]) for k in made] == [("int8", 2, 6)]


@pytest.mark.parametrize("flags, words", [
    (["--prompt", ""], "at least one token"), (["--stop", ""], "stop string must not be empty"), (["--interactive", "--prompt", "a"], "leave out --prompt"),
    (["--beams", "2", "--temperature", "1"], "draws nothing"), (["--top_k", "0"], "top_k must be"), (["--temperature", "nan"], "temperature must be"),
    (["--max_new_tokens", "-1"], "must be at least 0"), (["--threads", "0"], "must be at least 1"), (["--weights", "int4"], "invalid choice")])
def test_bad_options_are_one_line(model, capsys, flags, words):
    code, _, errors = run(capsys, "generate", *flags, model=model)
    assert code == 2 and words in errors and len(errors.splitlines()) == 1


def test_broken_folders_are_one_line(model, tmp_path, capsys):
    assert main(["quantize", "--model", model, "--out", str(tmp_path / "small"), "--eval_tokens", "0"]) == 0
    for name in ("matrices.npy", "scales.npy", "params.npy", "state.json", "tokenizer.json", "manifest.json"):
        content = (tmp_path / "small" / name).read_bytes()
        for damaged in (content[:len(content) // 2], b"", None):
            (tmp_path / "small" / name).unlink() if damaged is None else (tmp_path / "small" / name).write_bytes(damaged)
            capsys.readouterr()
            code, printed, errors = run(capsys, "generate", model=str(tmp_path / "small"))
            assert (code, printed, len(errors.splitlines())) == (2, "", 1), (name, damaged)
        (tmp_path / "small" / name).write_bytes(content)
    assert run(capsys, "generate", "--max_new_tokens", "2", model=str(tmp_path / "small"))[0] == 0


def test_ctrl_c_and_a_closed_pipe_end_it_quietly(model):
    command = [sys.executable, "-m", "numpyllm", "generate", "--model", model, "--threads", "2", "--max_new_tokens", "100000000"]
    for end, code, words in ((lambda process: process.send_signal(signal.SIGINT), 130, b"numpyllm: error: interrupted\n"),
                             (lambda process: process.stdout.close(), 141, b"")):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        assert process.stdout.read(20)
        end(process)
        errors = process.stderr.read()
        assert process.wait(60) == code and errors == words
        process.stdout.close()
        process.stderr.close()


def test_quantize_says_what_the_rounding_costs(model, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    for kind in ("int8", "bfloat16"):
        code, printed, _ = run(capsys, "quantize", "--weights", kind, "--out", str(tmp_path / kind), "--data", str(tmp_path / "text.txt"),
                               model=model)
        assert code == 0 and [line.split()[0] for line in printed.splitlines()[:-1]] == ["float32", kind]
        code, printed, _ = run(capsys, "generate", "--max_new_tokens", "5", model=str(tmp_path / kind))
        assert printed == run(capsys, "generate", "--max_new_tokens", "5", "--weights", kind, model=model)[1]
        assert "take the model that it was made from" in run(capsys, "generate", "--weights", "float32", model=str(tmp_path / kind))[2]
    assert run(capsys, "quantize", "--out", str(tmp_path / "again"), model=str(tmp_path / "int8"))[0] == 2


def test_quantize_never_replaces_what_was_trained(tmp_path, capsys):
    trained = save_model(tmp_path / "run" / "step_00000007")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "step_00000007").iterdir()}
    for out in (trained, str(tmp_path / "run")):
        code, _, errors = run(capsys, "quantize", "--out", out, "--overwrite", "--eval_tokens", "0", model=trained)
        assert code == 2 and "is not by numpyllm quantize" in errors and len(errors.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "step_00000007").iterdir()} == before
    other = ["--out", str(tmp_path / "small"), "--eval_tokens", "0"]
    assert run(capsys, "quantize", *other, model=trained)[0] == 0 and run(capsys, "quantize", *other, model=trained)[0] == 2
    assert run(capsys, "quantize", *other, "--overwrite", "--weights", "bfloat16", model=trained)[0] == 0
    assert (tmp_path / "small" / "matrices.npy").stat().st_size > 2 * 270 * 16


def test_quantize_needs_a_text_to_predict(model, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("ab")
    code, _, errors = run(capsys, "quantize", "--out", str(tmp_path / "small"), "--data", str(tmp_path / "short.txt"), model=model)
    assert code == 2 and "must have at least 2 tokens" in errors and not (tmp_path / "small").exists()
