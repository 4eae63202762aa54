"""The command numpyllm."""

import json
import subprocess
import sys
import time

import pytest

from numpyllm.cli import gradcheck
from numpyllm.cli.main import COMMANDS, main


def run(capsys, *argv):
    try:
        code = main(list(argv))
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_help_names_every_command(capsys):
    code, out, _ = run(capsys)
    assert code == 0 and all(name in out for name in COMMANDS)
    for name in COMMANDS:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0 and out.startswith(f"usage: numpyllm {name}")


def test_unknown_commands_and_flags_get_a_hint(capsys):
    assert run(capsys, "gradchek") == (2, "", "numpyllm: error: gradchek is no command: did you mean gradcheck?\n")
    code, _, err = run(capsys, "gradcheck", "--methd", "both")
    assert code == 2 and err == "numpyllm gradcheck: error: --methd is not known: did you mean --method?\n"
    code, _, err = run(capsys, "gradcheck", "--op", "atention")
    assert code == 2 and "no op is called atention: there are linear" in err
    code, _, err = run(capsys, "generate", "--model", "nowhere")
    assert code == 2 and err == "numpyllm: error: nowhere does not exist: train a model into it first\n"


def test_gradcheck_of_one_op_as_json(capsys):
    code, out, _ = run(capsys, "gradcheck", "--op", "layernorm", "--method", "both", "--json")
    rows = json.loads(out)
    assert code == 0 and {tuple(row) for row in rows} == {("op", "tensor", "shape", "method", "error", "ok")}
    assert {(row["op"].split(",")[0].lower(), row["method"]) for row in rows} == {("layernorm", "complex"), ("layernorm", "central")}
    assert {row["tensor"] for row in rows} == {"x", "w", "b"} and all(row["ok"] and row["error"] < 1e-7 for row in rows)
    assert all(row["error"] < 1e-12 for row in rows if row["method"] == "complex")


def test_gradcheck_fails_with_exit_code_1(capsys, monkeypatch):
    rows = gradcheck.check_case("softmax")
    monkeypatch.setattr(gradcheck, "check_case", lambda *a, **k: [row._replace(ok=False) for row in rows])
    code, out, _ = run(capsys, "gradcheck", "--op", "softmax")
    assert code == 1 and "NO" in out and "1 failed" in out and "worst at" in out


def test_gradcheck_is_the_same_by_several_processes(capsys):
    alone, shared = (run(capsys, "gradcheck", "--op", "layernorm", "--workers", n) for n in ("1", "2"))
    assert alone == shared and alone[0] == 0 and "layernorm" in alone[1]


def test_gradcheck_of_everything_takes_under_30_seconds():
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "numpyllm", "gradcheck"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed; largest error" in done.stdout.splitlines()[-1]
    assert time.perf_counter() - started < 30


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_plain_questions(capsys, flag):
    assert run(capsys, flag)[0] == 0


def test_bench_train_prints_one_object(capsys):
    code, out, err = run(capsys, "bench", "train", "--seconds", "0.1", "--json")
    figures = json.loads(out)
    assert code == 0 and "validated against the text" in err
    assert set(figures) == {"size", "ms", "peer_ms", "ratio", "tokens_per_s", "gflops", "ceiling_share", "peak_mb", "peer_peak_mb"}
    assert figures["ms"] > 0 and figures["ratio"] is None and 0 < figures["ceiling_share"] < 1.5


def test_bench_train_times_nothing_that_is_wrong(capsys, monkeypatch):
    from numpyllm.bench import train
    monkeypatch.setattr(train, "GRADIENT_BOUND", 0.0)
    code, _, err = run(capsys, "bench", "train", "--seconds", "0.1")
    assert code == 2 and "must agree with the text" in err and "nothing was timed" in err


def test_bench_finetune_compares_ways_of_training_less(capsys, monkeypatch):
    from numpyllm.bench import finetune
    assert set(finetune.FINETUNE) == {"full", "lora", "lora-all", "last-block"}
    monkeypatch.setattr(finetune, "FINETUNE", ("full", "lora"))         # each is a process of its own
    code, out, err = run(capsys, "bench", "finetune", "--seconds", "0.1", "--json")
    ways = json.loads(out)["ways"]
    assert code == 0 and "LoRA validated against the text" in err and set(ways) == {"full", "lora"}
    assert all(way["ms"] > 0 and way["peak_mb"] > 0 for way in ways.values()) and ways["full"]["time_share"] == 1
    assert run(capsys, "bench", "finetune", "--size", "lstm")[0] == 2


def test_bench_ops_shows_each_op_beside_its_floor(capsys):
    code, out, _ = run(capsys, "bench", "ops", "--seconds", "0.1", "--json")
    figures = json.loads(out)
    assert code == 0 and {"linear_forward", "attention_backward", "adamw_update", "head_loss_forward_backward"} <= set(figures)
    calls, ms, floor = figures["linear_forward"]
    assert calls == 16 and 0 < floor < ms * 2
