"""numpyllm finetune prefer: all three methods from a command line, resumed, refused where something is wrong."""

import json

import numpy as np
import pytest

from numpyllm.cli import finetune_prefer
from numpyllm.cli.arguments import Parser
from numpyllm.cli.finetuning import open_finetuning
from numpyllm.cli.main import main
from numpyllm.interop import save_model
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import load_model

TOKENIZER = CharacterTokenizer.train("abcdefghij ABC.\n?#")
ROWS = [{"prompt": f"{a}{b}?", "chosen": f"{a}.", "rejected": "AB C"} for a in "abcdef" for b in "ghij"]


@pytest.fixture
def begun(tmp_path):
    """A model's folder and a file of pairs."""
    save_model(tmp_path / "base", GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=32, vocab_size=TOKENIZER.n_vocab)), TOKENIZER)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def prefer(folder, method, *flags, out="out", steps=4):
    return main(["finetune", "prefer", "--method", method, "--model", str(folder / "base"), "--data", str(folder / "pairs.jsonl"), "--out_dir",
                 str(folder / out), "--backend", "numpy", "--max_iters", str(steps), "--eval_interval", "2", "--batch_size", "4",
                 "--threads", "1", "--lr_decay_iters", "4", "--learning_rate", "1e-2", "--warmup_iters", "0", "--val_fraction", "0.3", *flags])


ASKED = ("--max_new_tokens", "6", "--answers_each", "2")


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_dpo(begun, capsys):
    assert prefer(begun, "dpo", "--beta", "0.3", "--kl", "5") == 2              # of another method
    assert "--method dpo has no kl" in capsys.readouterr().err
    assert prefer(begun, "dpo", "--beta", "0.3") == 0
    said = capsys.readouterr().out
    assert "log-probabilities of all answers in the model as it is" in said and "pairs in the right order" in said
    found = [line for line in metrics(begun / "out") if "val/loss" in line]
    assert found[0]["val/loss"] == pytest.approx(np.log(2), abs=1e-5) and found[-1]["val/loss"] < 0.6 and found[-1]["val/accuracy"] == 1
    samples = [json.loads(line)["text"] for line in (begun / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 and samples[0].startswith("> ")
    assert main(["finetune", "prefer", "--config", str(begun / "out" / "config.toml"), "--overwrite"]) == 0     # a run's record can be run
    assert metrics(begun / "out")[-1]["val/loss"] == found[-1]["val/loss"]


def test_a_reward_model_and_then_reinforcement_by_it(begun, capsys):
    assert prefer(begun, "reward", out="judge") == 0
    assert "learns to please it" in capsys.readouterr().out
    model, _, state = load_model(begun / "judge")
    assert model.config.n_classes == 1 and state["facts"]["template"] == "plain"
    assert prefer(begun, "reinforce", "--reward", str(begun / "judge"), *ASKED) == 0
    found = metrics(begun / "out")
    assert any("train/reward" in line for line in found)
    first, *_, last = [line for line in found if "val/reward" in line]
    assert first["val/kl"] < 1e-4 < 1e-3 < last["val/kl"]                                  # the reference stays what it was
    assert prefer(begun, "reinforce", "--reward", str(begun / "base"), *ASKED, out="other") == 2
    assert "must be a reward model" in capsys.readouterr().err
    again = ["finetune", "prefer", "--resume", "--out_dir", str(begun / "out"), "--max_iters", "5"]
    assert main(again) == 0                                                                 # by the same judge
    assert prefer(begun, "reward", "--seed", "5", "--overwrite", out="judge") == 0
    assert main(again) == 2 and "no longer the reward model" in capsys.readouterr().err


@pytest.mark.parametrize("method, flags", [("dpo", ("--lora_rank", "2")), ("reward", ("--freeze", "all")),
                                           ("reinforce", ("--reward", "lower_case", *ASKED))])
def test_a_resumed_run_ends_with_the_same_bits(begun, capsys, method, flags):
    assert prefer(begun, method, *flags, out="whole") == 0
    assert ("parameters are trained (" in capsys.readouterr().out) == (method != "reinforce")
    assert prefer(begun, method, *flags, out="parts", steps=2) == 0
    assert main(["finetune", "prefer", "--resume", "--out_dir", str(begun / "parts"), "--max_iters", "4"]) == 0
    whole, parts = (load_model(begun / name)[0].parameters.data for name in ("whole", "parts"))
    assert whole.tobytes() == parts.tobytes()
    assert not np.array_equal(whole[:8], np.zeros(8))


@pytest.mark.parametrize("flags, message", [
    (("reinforce",), "needs a --reward: lower_case"), (("reinforce", "--reward", "nice"), "nice is no reward"),
    (("reinforce", "--reward", "lower_case", "--beta", "1"), "--method reinforce has no beta"),
    (("reinforce", "--reward", "lower_case", "--max_new_tokens", "32"), "must leave room for a prompt"),
    (("reinforce", "--reward", "lower_case", "--max_new_tokens", "6", "--answers_each", "3"), "must be a multiple"),
    (("dpo", "--beta", "-1"), "beta must be positive"), (("dpo", "--val_fraction", "0.0001"), "makes 24 and 0"),
    (("reward", "--kl", "1"), "--method reward has no kl"),
])
def test_what_cannot_be_meant_is_one_line_and_leaves_nothing(begun, capsys, flags, message):
    assert prefer(begun, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (begun / "out").exists()


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_recompute_reaches_the_model(begun, method):
    finetune_prefer.add_options(parser := Parser(prog="test"))
    args = parser.parse_args(["--method", method, "--model", str(begun / "base"), "--data", str(begun / "pairs.jsonl"), "--backend", "numpy",
                              "--val_fraction", "0.3", "--template", "plain", "--recompute"])
    quiet = lambda line: None
    assert finetune_prefer.make_trainer(open_finetuning(args, "prefer", log=quiet), args, quiet).model.recompute


def test_bad_records_are_named_or_skipped(begun, capsys):
    with open(begun / "pairs.jsonl", "a") as file:
        file.write('{"prompt": "a", "chosen": "b"}\n')
    assert prefer(begun, "dpo") == 2
    assert "pairs.jsonl:25: must have a field 'rejected'" in capsys.readouterr().err
    assert prefer(begun, "dpo", "--skip_bad", steps=1) == 0
    assert "skipped 1 of 25 records" in capsys.readouterr().out


def test_no_prompt_that_is_held_out_was_learnt(begun, monkeypatch):
    """What goes into training and what is evaluated, seen where they are made."""
    split, made = finetune_prefer.hold_out, []
    monkeypatch.setattr(finetune_prefer, "hold_out", lambda *args, **options: made.append(split(*args, **options)) or made[-1])
    rows = ROWS + [row | {"prompt": f" {row['prompt'].replace('a', 'A')}  "} for row in ROWS]
    (begun / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert prefer(begun, "dpo", steps=1) == 0
    [(learnt, held_out)] = made
    prompts = lambda some: {pair.preference.prompt.casefold().strip() for pair in some}
    assert len(learnt) + len(held_out) == 48 and not prompts(learnt) & prompts(held_out)
