"""examples/finetune_prefer.py, run small."""

import json
import sys

import pytest
from test_examples import EXAMPLES

from numpyllm.cli.arguments import guarded
from numpyllm.interop import save_model
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import CharacterTokenizer


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import finetune_prefer
    yield finetune_prefer
    for name in ("finetune_prefer", "finetune_instruct"):
        sys.modules.pop(name)


def test_pairs_are_made_both_methods_run_and_a_table_is_printed(example, tmp_path, capsys, monkeypatch):
    questions = [{"instruction": f"What does {a}{b} do?", "output": "x"} for a in "abcdef" for b in "ghijk"]
    monkeypatch.setattr(example, "write_instructions", lambda path: example.write_records(path, questions))
    monkeypatch.setattr(example, "TOKENS", 12)
    tokenizer = CharacterTokenizer.train("".join(question["instruction"] for question in questions) + "\n#.")
    config = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=64, vocab_size=tokenizer.n_vocab)
    save_model(tmp_path / "model", GPT(config), tokenizer)
    assert guarded(example.main, ["--model", str(tmp_path / "model"), "--prompts", "30", "--dpo_steps", "2", "--reinforce_steps", "2", "--out_dir",
                                  str(tmp_path / "out"), "--reward", "contains:a"]) == 0
    said = capsys.readouterr().out
    pairs = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert pairs and all("a" in pair["chosen"].lower() and "a" not in pair["rejected"].lower() for pair in pairs)
    table = [line.split() for line in said.splitlines() if line.strip().startswith(("before ", "DPO ", "REINFORCE "))]
    assert [row[0] for row in table[:3]] == ["before", "DPO", "REINFORCE"] and float(table[0][2]) == 0.0
    assert "held-out prompts\n  step  reward" in said
