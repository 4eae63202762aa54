"""numpyllm eval: figures, files of results, and what it answers to what cannot be measured."""

import json
import math
import os
import sys

import pytest
from test_choice import GLUE, TOKENIZER, write
from test_cli_generate import save_model

from numpyllm import ops
from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.evaluation import TASKS, count_words, perplexity
from numpyllm.files import replacing
from numpyllm.interop import load_decodable

TEXT = "Is a whale a mammal or a fish? It is a mammal.\nnaïve Ärger, no <unk> blue <|endoftext|> sky.\n\n" * 4
QUESTIONS = "".join(json.dumps({"question": f"Is a whale {i} a", "choices": ["mammal", "fish", "sky"], "answer": i % 3}) + "\n" for i in range(9))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("eval") / "model", TOKENIZER, block_size=32)


def run(capsys, *arguments, model):
    """-> exit code, what was printed, what was complained."""
    try:
        code = main(["eval", *map(str, arguments), "--model", str(model)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize("flags", [[], ["--window", "16", "--stride", "5"], ["--count_line_ends"], ["--max_tokens", "40"],
                                   ["--backend", "numpy", "--batch_size", "1"], ["--window", "33"]])
def test_perplexity_of_a_text(model, capsys, tmp_path, flags):
    path = write(tmp_path, "text.tokens", TEXT)
    code, printed, errors = run(capsys, "perplexity", "--data", path, "--json", tmp_path / "out.json", *flags, model=model)
    assert (code, errors) == (0, "")
    found = json.loads((tmp_path / "out.json").read_text())
    ids, text = TOKENIZER.encode_to_numpy(TEXT, disallowed_special=()), TEXT
    if "--max_tokens" in flags:
        ids, text = ids[:40], TOKENIZER.decode(ids[:40])
    own = load_decodable(model, ops=ops)[0]
    window, stride = {"16": (16, 5), "33": (33, 16)}.get(flags[1] if flags[:1] == ["--window"] else "", (32, 16))
    expected = perplexity(own, ids, TOKENIZER.token_byte_lengths, words=count_words(text, line_ends="--count_line_ends" in flags),
                          window=window, stride=stride)
    assert (found["window"], found["stride"], found["tokens"]) == (window, stride, len(ids) - 1)
    assert found["words"] == len(text.split()) + ("--count_line_ends" in flags) * text.count("\n")
    assert found["token_perplexity"]["value"] == pytest.approx(expected.token_perplexity, rel=1e-5)
    assert found["word_perplexity"] == pytest.approx(expected.word_perplexity, rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-5)
    assert found["token_perplexity"]["low"] < found["token_perplexity"]["value"] < found["token_perplexity"]["high"]
    assert f"token perplexity {found['token_perplexity']['value']:.4f}" in printed and f"{found['tokens']:,} tokens" in printed


def test_rounded_weights_give_another_figure(model, capsys, tmp_path):
    path = write(tmp_path, "text.txt", TEXT)
    first = run(capsys, "perplexity", "--data", path, model=model)
    assert run(capsys, "perplexity", "--data", path, "--weights", "int8", model=model)[1].splitlines()[0] != first[1].splitlines()[0]


@pytest.mark.parametrize("content, flags, message", [
    ("", [], "is empty"), ("a", [], "must have at least 2 tokens, it has 1"), (TEXT, ["--window", "40"], "window must be from 2 to 33"),
    (TEXT, ["--stride", "32"], "stride must be from 1 to 31 for window=32"), (TEXT, ["--window", "1"], "must be at least 2"),
    (TEXT, ["--json", "none/out.json"], "there is no folder"), (None, [], "text.txt")])
def test_texts_and_windows_that_cannot_be(model, capsys, tmp_path, monkeypatch, content, flags, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        write(tmp_path, "text.txt", content)
    code, printed, errors = run(capsys, "perplexity", "--data", "text.txt", *flags, model=model)
    assert code == 2 and printed == "" and message in errors and errors.count("\n") == 1


@pytest.mark.parametrize("shots", [0, 2])
def test_multiple_choice(model, capsys, tmp_path, shots):
    path, out = write(tmp_path, "q.jsonl", QUESTIONS), tmp_path / "out.json"
    flags = ["--data", path, "--shots", shots, "--train", path, "--json", out, "--predictions", tmp_path / "p.jsonl"]
    code, printed, errors = run(capsys, "choice", *flags, model=model)
    assert code == 0 and f"9 questions, {shots} examples before each" in printed
    assert ("were cut at their left" in errors) == (shots > 0)
    found, lines = json.loads(out.read_text()), [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(lines) == 9 == found["questions"]
    for way in "raw", "by_bytes":
        assert found["metrics"][way]["accuracy"]["value"] == sum(line[way] == line["answer"] for line in lines) / 9
        assert f"{found['metrics'][way]['accuracy']['value']:.4f}" in printed
    again = run(capsys, "choice", *flags, model=model)
    assert again == (code, printed, errors) and json.loads(out.read_text()) == found
    if shots:
        run(capsys, "choice", *flags, "--seed", 3, model=model)
        assert [json.loads(line)["logprobs"] for line in (tmp_path / "p.jsonl").read_text().splitlines()] != [line["logprobs"] for line in lines]


@pytest.mark.parametrize("name", TASKS)
def test_tasks(model, capsys, tmp_path, name):
    file, content, answers = GLUE[name]
    path = write(tmp_path, file, content)
    code, printed, errors = run(capsys, "task", name, "--data", path, "--train", path, "--shots", 1, "--json", tmp_path / "o.json", model=model)
    assert code == 0 and f"{len(answers)} questions" in printed
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["metrics"]["raw"].keys() == TASKS[name].metrics.keys()
    for figures in found["metrics"]["raw"].values():
        assert figures["value"] is None or -1 <= figures["value"] <= 1


@pytest.mark.parametrize("skip", [False, True])
def test_bad_lines_are_refused_or_left_out_and_counted(model, capsys, tmp_path, skip):
    path = write(tmp_path, "q.jsonl", QUESTIONS + '{"question": \n' + '{"question": "q", "choices": [], "answer": 0}\n')
    code, printed, errors = run(capsys, "choice", "--data", path, *["--skip_bad"] * skip, "--json", tmp_path / "o.json", model=model)
    if skip:
        assert code == 0 and "9 questions" in printed and "2 records left out" in printed
        assert f"{path}:10: " in errors and f"{path}:11: " in errors and json.loads((tmp_path / "o.json").read_text())["left_out"] == 2
    else:
        assert code == 2 and printed == "" and errors.startswith(f"numpyllm: error: {path}:10: ") and errors.count("\n") == 1
        assert not (tmp_path / "o.json").exists()


def test_a_failure_leaves_an_earlier_result(model, capsys, tmp_path):
    (tmp_path / "o.json").write_text("mine")
    path = write(tmp_path, "q.jsonl", "[]\n")
    assert run(capsys, "choice", "--data", path, "--json", tmp_path / "o.json", model=model)[0] == 2
    assert (tmp_path / "o.json").read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["o.json", "q.jsonl"]


@pytest.mark.parametrize("arguments, message", [
    (["choice", "--data", "q.jsonl", "--shots", "2"], "name a file of them with --train"),
    (["choice", "--data", "q.jsonl", "--shots", "9", "--train", "q.jsonl"], "9 examples were asked for, there are 8"),
    (["choice", "--data", "missing.jsonl"], "missing.jsonl"), (["task", "sst3", "--data", "q.jsonl"], "invalid choice"),
    (["task", "sst2", "--data", "q.jsonl"], "q.jsonl:1: "), (["chioce"], "did you mean choice?"),
    (["choice", "--data", "q.jsonl", "--predictions", "none/p.jsonl"], "there is no folder"),
    (["choice", "--data", "q.jsonl", "--json", "./q.jsonl"], "q.jsonl: a result must be written to a file of its own"),
    (["choice", "--data", "q.jsonl", "--json", "r", "--predictions", "r"], "r: a result must be written to a file of its own"),
    (["perplexity", "--data", "q.jsonl", "--json", "q.jsonl"], "q.jsonl: a result must be written to a file of its own"),
    (["choice", "--data", "q.jsonl", "--json", "."], "is no file"), (["choice", "--data", "q.jsonl", "--json", ""], "is no file")])
def test_commands_that_cannot_be(model, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = write(tmp_path, "q.jsonl", QUESTIONS).read_bytes()
    code, printed, errors = run(capsys, *arguments, model=model)
    assert code == 2 and printed == "" and message in errors
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_a_result_names_a_file_that_is_called_in_no_encoding(model, capsys, tmp_path):
    path = write(tmp_path, os.fsdecode(b"q\xff.jsonl"), QUESTIONS)
    assert run(capsys, "choice", "--data", path, "--json", tmp_path / "o.json", model=model)[0] == 0
    assert json.loads((tmp_path / "o.json").read_text())["data"] == str(path)


def test_only_a_file_is_replaced_and_a_link_stays_one(tmp_path):
    """A rename would put a file in the place of a device, where the user may do that."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in ("", tmp_path / "pipe", tmp_path / "folder"):
        with pytest.raises(InputError, match="must be a file, or not be there yet|Is a directory"), replacing(path):
            pass
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    with replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link", "pipe"]


def test_without_the_harness_one_line_says_so(model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert run(capsys, "harness", "--tasks", "x", model=model) == (
        2, "", "numpyllm: error: lm_eval is not installed: pip install 'numpyllm[eval]'\n")


def test_a_figure_that_is_none_is_null(model, capsys, tmp_path):
    path = write(tmp_path, "blanks.txt", " \n \u00a0." + "\n" * 9)
    code, printed, _ = run(capsys, "perplexity", "--data", path, "--max_tokens", 3, "--json", tmp_path / "o.json", model=model)
    found = json.loads((tmp_path / "o.json").read_text())
    assert code == 0 and found["words"] == 0 and found["word_perplexity"] is None and "word perplexity  undefined" in printed
    assert math.isfinite(found["loss"])
