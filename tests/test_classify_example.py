"""The example of classification, run small: what it tests on was not learnt, and nobody reads the answer off a text."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from numpyllm.cli.arguments import guarded
from numpyllm.finetuning import load_labelled_texts
from numpyllm.interop import save_model
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import CharacterTokenizer

PATH = Path(__file__).parent.parent / "examples" / "finetune_classify.py"
spec = importlib.util.spec_from_file_location("finetune_classify", PATH)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


@pytest.fixture(scope="module")
def docstrings():
    return example.docstrings()


def test_docstrings_are_masked_and_no_two_are_nearly_the_same(docstrings):
    letters = [re.sub("[^a-z]", "", text.casefold()) for text, _ in docstrings]
    assert len(set(letters)) == len(letters) > 1500
    assert {module for _, module in docstrings} == set(example.MODULES)
    assert not any(re.search(rf"\b{module}\b", text.casefold()) for text, _ in docstrings for module in example.MODULES)


def test_it_compares_three_ways_on_the_same_texts(docstrings, tmp_path, capsys, monkeypatch):
    chosen = docstrings[::12]
    monkeypatch.setattr(example, "docstrings", lambda: chosen)
    tokenizer = CharacterTokenizer.train("".join(text for text, _ in chosen) + "\n")
    save_model(tmp_path / "base", GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=48, vocab_size=tokenizer.n_vocab)), tokenizer)
    out = tmp_path / "out"
    assert guarded(example.main, ["--model", str(tmp_path / "base"), "--out_dir", str(out), "--labels", "4", "--steps", "3", "--threads",
                                  "1"]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^(fine-tuned|from scratch|bag of words) +[\d,]+ +(\d\.\d+) +(\d\.\d+)", printed, re.MULTILINE)
    assert [name for name, *_ in rows] == ["fine-tuned", "from scratch", "bag of words"]
    assert [json.loads(line)["label"] for line in (out / "docstrings.jsonl").read_text().splitlines()] == [module for _, module in chosen]
    found = example.few(load_labelled_texts(out / "docstrings.jsonl", tokenizer, 48, truncate=True, val_fraction=0.15, test_fraction=0.45), 4)
    train, test = ({one.text for one in part} for part in (found.train, found.test))
    assert not train & test and max(sum(one.label == label for one in found.train) for label in found.labels) == 4


def test_the_bag_of_words_learns_words():
    """Texts whose one telling word is among others: all right, and the loss is nearly none."""
    from numpyllm.finetuning import LabelledText, LabelledTexts
    rng = np.random.default_rng(0)
    make = lambda n: [LabelledText(f"{rng.choice(['some', 'other', 'words'])} {'cat' if i % 2 else 'dog'} {rng.integers(0, 50)}", np.zeros(1, int),
                              "ab"[i % 2], "") for i in range(n)]
    found, n_params = example.bag_of_words(LabelledTexts(["a", "b"], make(40), make(20), make(30), [], 0))
    assert found.accuracy == 1.0 and found.loss < 0.1 and n_params % 2 == 0
