"""Fine-tuning a classifier: what is read, that nothing leaks from one part into another, batches, figures, and the two commands."""

import json
import re
from collections import Counter

import naive
import numpy as np
import pytest

from numpyllm.cli.arguments import guarded
from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.finetuning import (ClassificationBatches, ClassificationEvaluation, balanced_weights, evaluate_classifier,
                                 load_labelled_texts, log_probabilities, read_labelled_texts)
from numpyllm.finetuning.classification_batches import POOL
from numpyllm.finetuning.packing import padded
from numpyllm.interop import save_model
from numpyllm.models import GPT, GPTClassifier, GPTConfig
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training import best_checkpoint, load_checkpoint, load_model, newest_checkpoint
from numpyllm.training.checkpoint import checkpoints

TOKENIZER = CharacterTokenizer.train("abcdefghijklmnopqrstuvwxyzABC .\n")
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=24, vocab_size=TOKENIZER.n_vocab)
QUICK = ["--backend", "numpy", "--max_iters", "6", "--eval_interval", "3", "--batch_size", "4", "--log_interval", "3", "--warmup_iters", "1",
         "--threads", "1"]


def lines(n, seed=0, labels=("up", "down")):
    """Texts with a label that their last letter tells."""
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        label = labels[i % len(labels)]
        text = "".join(rng.choice(list("cdefgh "), rng.integers(3, 12))).strip() + "ab"[i % 2]
        found.append({"text": text, "label": label})
    return found


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def begun(tmp_path):
    save_model(tmp_path / "base", GPT(CONFIG, seed=2), TOKENIZER)
    write(tmp_path / "data.jsonl", lines(120))
    return tmp_path


def finetune(folder, *flags, out="out"):
    return guarded(main, ["finetune", "classify", "--model", str(folder / "base"), "--data", str(folder / "data.jsonl"), "--out_dir",
                          str(folder / out), *QUICK, *flags])


def load(path, **options):
    return load_labelled_texts(path, TOKENIZER, CONFIG.block_size, **{"val_fraction": 0.2, "test_fraction": 0.2} | options)


# ---- reading and splitting

@pytest.mark.parametrize("suffix, content", [
    (".csv", 'text,label\n"a b",up\nc d,down\n'), (".tsv", "label\ttext\nup\ta b\ndown\tc d\n"),
    (".jsonl", '{"text": " a b ", "label": "up", "more": 1}\n\n{"text": "c d", "label": "down"}\n')])
def test_columns_are_read_whatever_the_kind_of_file(tmp_path, suffix, content):
    path = tmp_path / f"data{suffix}"
    path.write_text(content)
    found = read_labelled_texts(path, TOKENIZER, 24)
    assert [(example.text, example.label) for example in found] == [("a b", "up"), ("c d", "down")]
    assert found[1].place == f"{path}:3" and TOKENIZER.decode(found[1].ids.tolist()) == "c d"


def test_whole_numbers_are_labels_in_json(tmp_path):
    found = load(write(tmp_path / "a.jsonl", [{"text": record["text"], "label": i % 2} for i, record in enumerate(lines(60))]))
    assert found.labels == ["0", "1"]


def test_no_text_is_in_two_parts_and_none_moves_when_others_come(tmp_path):
    """Each text comes three times, in other capitals and with other blanks; half of the rest may go and come."""
    records = lines(300, seed=1)
    copies = [{"text": way(record["text"]), "label": record["label"]} for record in records
              for way in (str, str.upper, lambda text: "  " + text.replace(" ", "  ") + " ")]
    tokenizer = CharacterTokenizer.train("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ ")
    read = lambda name, records: load_labelled_texts(write(tmp_path / name, records), tokenizer, 40, val_fraction=0.2, test_fraction=0.2)
    plain = lambda part: {" ".join(example.text.casefold().split()) for example in part}
    found, fewer = read("a.jsonl", copies), read("b.jsonl", copies[:450])
    for whole in (found, fewer):
        train, validation, test = (plain(part) for part in whole[1:4])
        assert not train & validation and not train & test and not validation & test
        assert min(map(len, (train, validation, test))) > 5
    for part, other in zip(found[1:4], fewer[1:4], strict=True):
        assert plain(other) <= plain(part)
    assert sum(map(len, found[1:4])) == len(copies)
    assert 0.14 < len(plain(found.test)) / len(plain(found.train) | plain(found.validation) | plain(found.test)) < 0.26


def test_texts_that_are_the_same_once_they_are_cut_go_the_same_way(tmp_path):
    begins = [record["text"].ljust(12, "c") * 2 for record in lines(100)]
    records = [{"text": begin[:24] + end, "label": "ab"[i % 2]} for i, begin in enumerate(begins) for end in ("x", "y", "zz")]
    found = load(write(tmp_path / "a.jsonl", records), truncate=True)
    train, validation, test = ({tuple(example.ids) for example in part} for part in found[1:4])
    assert not train & validation and not train & test and not validation & test and len(train) > 30
    assert {len(example.ids) for example in found.train} <= {24, 23, 22}


def test_what_is_in_the_test_file_is_not_learnt(tmp_path):
    data, test = lines(100), lines(20, seed=9)
    shared = [{"text": "  " + record["text"].upper().replace("C", "c") + " ", "label": record["label"]} for record in data[:10]]
    tokenizer = CharacterTokenizer.train("abcdefghijABCDEFGHIJ ")
    found = load_labelled_texts(write(tmp_path / "a.jsonl", data), tokenizer, 24, test=write(tmp_path / "t.jsonl", test + shared), val_fraction=0.2)
    plain = lambda part: {" ".join(example.text.casefold().split()) for example in part}
    assert not (plain(found.train) | plain(found.validation)) & plain(found.test)
    assert found.shared >= 10 and len(found.test) == 30 and len(found.train) + len(found.validation) == 100 - found.shared


GOOD = [json.dumps(record) for record in lines(60)]


@pytest.mark.parametrize("line, message", [
    ('{"text": "abc"', "a.jsonl:7: must be a JSON object"),
    ('{"text": "abc"}', "a.jsonl:7: must have a field 'label'"),
    ('{"text": " ", "label": "up"}', "a.jsonl:7: text must not be empty"),
    ('{"text": "abc", "label": ""}', "a.jsonl:7: label must not be empty"),
    ('{"text": "abc", "label": 1.5}', "a.jsonl:7: label must be a text, got 1.5"),
    ('{"text": 3, "label": "up"}', "a.jsonl:7: text must be a text, got 3"),
    (json.dumps({"text": "a" * 25, "label": "up"}), "a.jsonl:7: a text must have at most the model's 24 tokens, this one has 25: .*--truncate"),
])
def test_a_bad_line_is_named_or_counted(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text("\n".join([*GOOD[:6], line, *GOOD[6:]]))
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.jsonl")
    found = load(tmp_path / "a.jsonl", skip_bad=True)
    assert len(found.skipped) == 1 and re.search(message, found.skipped[0])
    assert sum(map(len, found[1:4])) == 60


def test_an_unknown_label_is_named_or_counted(tmp_path):
    write(tmp_path / "a.jsonl", lines(60))
    write(tmp_path / "t.jsonl", [*lines(6, seed=5), {"text": "abc", "label": "sideways"}])
    with pytest.raises(InputError, match='t.jsonl:7: the label "sideways" is unknown'):
        load(tmp_path / "a.jsonl", test=tmp_path / "t.jsonl")
    found = load(tmp_path / "a.jsonl", test=tmp_path / "t.jsonl", skip_bad=True)
    assert len(found.test) == 6 and "t.jsonl:7" in found.skipped[0]


@pytest.mark.parametrize("records, options, message", [
    (lines(60, labels=("up",)), {}, "at least two labels to tell apart, the texts to learn from have 'up' alone"),
    (lines(2), {"val_fraction": 1e-6}, "the split leaves no text to (validate|test) on"),
    (lines(60), {"val_fraction": 0.5, "test_fraction": 0.5}, "leave something to learn from"),
    (lines(60), {"text_column": "sentence"}, "a.jsonl:1: must have a field 'sentence'"),
    (lines(60), {"text_column": "label"}, "must be in two columns, got 'label' for both"),
])
def test_files_that_nothing_can_be_learnt_from(tmp_path, records, options, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "a.jsonl", records), **options)


# ---- batches and figures

def test_an_epoch_has_each_text_once_and_a_batch_depends_on_its_number_alone(tmp_path):
    examples = load(write(tmp_path / "a.jsonl", lines(200)))
    train = examples.train[:96]
    make = lambda **options: ClassificationBatches(train, examples.labels, batch_size=6, seed=3, **options)
    batches, again = make(), make(micro_batches=2)
    seen = Counter()
    for step in range(POOL):                # 96 texts: one pool is one epoch
        ids, lengths, labels = batches(step)
        assert ids.shape == (6, lengths.max()) and ids.dtype == lengths.dtype == labels.dtype == np.int64
        for row, length, label in zip(ids, lengths, labels, strict=True):
            seen[TOKENIZER.decode(row[:length].tolist()), examples.labels[label]] += 1
            assert not row[length:].any()
    assert seen == Counter((example.text, example.label) for example in train)
    for step in (5, 0, 21):
        for part, same in zip(batches(step), again(step // 2, step % 2), strict=True):
            assert np.array_equal(part, same)
    assert any(not np.array_equal(a, b) for a, b in zip(batches(0), batches(POOL), strict=True))
    within = np.mean([np.ptp(batches(step)[1]) for step in range(POOL)])
    assert within < 0.5 * np.ptp(batches.lengths)           # sorted: little is padding


def test_probabilities_are_those_of_each_text_alone_and_figures_those_of_a_count():
    model = GPTClassifier.from_gpt(GPT(CONFIG, seed=2, dtype=np.float64), 3, class_weights=[1, 2, 3])
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, CONFIG.vocab_size, n) for n in rng.integers(1, 20, 23)]
    logp = log_probabilities(model, rows, batch_size=4)
    for row, found in zip(rows, logp, strict=True):
        assert np.abs(found - [score - naive.log_sum_exp(logits) for logits in model.logits(row[None], [len(row)]).tolist() for score in logits]).max() < 1e-13
    right, predicted = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 1])
    found = ClassificationEvaluation(["a", "b", "c"], right, predicted, 0.5)
    assert found.confusion.tolist() == [[1, 1, 0], [1, 2, 0], [0, 1, 0]] and found.accuracy == 0.5
    assert found.by_label()["b"] == {"precision": 0.5, "recall": 2 / 3, "f1": 4 / 7, "texts": 3}
    assert found.macro_f1 == pytest.approx((1 / 2 + 4 / 7 + 0) / 3)
    assert json.loads(json.dumps(found.summary()))["confusion"][1] == [1, 2, 0]
    table = found.table().splitlines()
    assert table[2].split() == ["b", "0.5000", "0.6667", "0.5714", "3"] and table[-2].split() == ["b", "1", "2", "0"]


def test_the_loss_of_an_evaluation_is_the_models_weighted_mean(tmp_path):
    examples = load(write(tmp_path / "a.jsonl", lines(90, labels=("up", "down", "down"))))
    weights = balanced_weights(examples.train, examples.labels)
    counts = Counter(example.label for example in examples.train)
    assert np.allclose(weights, [len(examples.train) / (2 * counts[label]) for label in examples.labels], rtol=1e-15)
    model = GPTClassifier.from_gpt(GPT(CONFIG, seed=2, dtype=np.float64), 2, class_weights=weights)
    found = evaluate_classifier(model, examples.test, examples.labels)
    loss, count = model.loss(*padded([example.ids for example in examples.test]), found.right)
    assert found.loss == pytest.approx(loss / count, rel=1e-12)


# ---- the commands

def test_finetune_and_classify_from_end_to_end(begun, capsys):
    """120 steps are enough for a label that the last letter tells; the best checkpoint is tested, and is what classify uses."""
    assert finetune(begun, "--max_iters", "120", "--eval_interval", "20", "--learning_rate", "1e-2", "--patience", "4") == 0
    printed = capsys.readouterr().out
    result = json.loads((begun / "out" / "classification.json").read_text())
    best = best_checkpoint(begun / "out")
    _, state, _ = load_checkpoint(best)
    assert result["step"] == state["step"] and f"after step {state['step']}" in printed and result["accuracy"] > 0.9
    assert state["facts"]["labels"] == ["down", "up"] and "confusion matrix" in printed
    examples = load(begun / "data.jsonl", val_fraction=0.1, test_fraction=0.1)
    model, tokenizer, _ = load_model(best)
    again = evaluate_classifier(model, examples.test, examples.labels)
    assert again.confusion.tolist() == result["confusion"] and again.loss == pytest.approx(result["loss"], rel=1e-6)

    text = examples.test[0].text
    classify = lambda *flags: guarded(main, ["classify", "--model", str(begun / "out"), "--backend", "numpy", *flags])
    assert classify(text) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(examples.labels[again.predicted[0]]) and " ".join(text.split()) in shown
    (begun / "new.csv").write_text(f"text\n{text}\ncdec\n")
    assert classify("--data", str(begun / "new.csv"), "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    expected = np.exp(log_probabilities(model, [examples.test[0].ids]))[0]
    assert first["text"] == text and list(first["probabilities"])[0] == first["label"] and second["text"] == "cdec"
    assert [first["probabilities"][label] for label in examples.labels] == pytest.approx(expected, abs=2e-6)


def test_the_best_checkpoint_is_taken_though_it_is_not_the_newest(begun):
    assert finetune(begun) == 0
    older = checkpoints(begun / "out")[0]
    (begun / "out" / "best").write_text(older.name)
    assert best_checkpoint(begun / "out") == older != newest_checkpoint(begun / "out")
    (begun / "out" / "best").unlink()
    assert best_checkpoint(begun / "out") == newest_checkpoint(begun / "out") == best_checkpoint(newest_checkpoint(begun / "out"))


def test_what_a_run_trains_on_has_nothing_of_what_it_is_tested_on(begun, monkeypatch):
    """At the level of the command: what batches hand out, against what is evaluated."""
    from numpyllm.cli import finetune_classify
    trained, evaluated = set(), []

    class Watched(ClassificationBatches):
        def __call__(self, step, micro=0):
            ids, lengths, labels = super().__call__(step, micro)
            trained.update(" ".join(TOKENIZER.decode(row[:length].tolist()).casefold().split()) for row, length in zip(ids, lengths))
            return ids, lengths, labels

    def watched(model, examples, labels):
        evaluated.append({" ".join(example.text.casefold().split()) for example in examples})
        return evaluate_classifier(model, examples, labels)

    monkeypatch.setattr(finetune_classify, "ClassificationBatches", Watched)
    monkeypatch.setattr(finetune_classify, "evaluate_classifier", watched)
    records = lines(120)
    write(begun / "data.jsonl", records + [{"text": record["text"].replace(" ", "  "), "label": record["label"]} for record in records])
    assert finetune(begun, "--max_iters", "80", "--eval_interval", "80") == 0
    assert len(evaluated) == 3 and len(trained) > 60 and not trained & set.union(*evaluated)
    assert not evaluated[0] & evaluated[-1]


@pytest.mark.parametrize("flags, names", [
    (("--freeze", "all"), {"classifier.w", "classifier.b"}),
    (("--freeze", "1"), None),
    (("--lora_rank", "2"), {"classifier.w", "classifier.b"} | {f"blocks.{i}.attn.{part}.lora_{side}" for i in (0, 1) for part in ("qkv", "proj")
                                                              for side in "ab"}),
])
def test_what_is_frozen_keeps_its_bits(begun, flags, names):
    assert finetune(begun, *flags, "--learning_rate", "1e-2") == 0
    model, _, _ = load_model(newest_checkpoint(begun / "out"))
    before = GPT(CONFIG, seed=2).parameters
    changed = {name for name in model.parameters if name not in before.layout or not np.array_equal(model.parameters[name], before[name])}
    if names is None:
        names = {name for name in model.parameters if name.startswith(("blocks.1.", "norm.", "classifier."))}
    assert changed == names
    assert (begun / "out" / "adapter").is_dir() == ("--lora_rank" in flags)


@pytest.mark.parametrize("flags", [(), ("--freeze", "1"), ("--lora_rank", "2", "--lora_dropout", "0.2"), ("--class_weights", "balanced", "--dropout", "0.1")])
def test_a_resumed_run_has_the_same_bits(begun, flags):
    assert finetune(begun, *flags) == 0
    assert finetune(begun, *flags, "--max_iters", "3", "--lr_decay_iters", "6", out="half") == 0
    assert guarded(main, ["finetune", "classify", "--resume", "--out_dir", str(begun / "half"), "--max_iters", "6"]) == 0
    whole, half = (load_checkpoint(newest_checkpoint(begun / name))[0] for name in ("out", "half"))
    assert whole.keys() == half.keys() and all(np.array_equal(whole[name], half[name]) for name in whole)
    assert (begun / "out" / "classification.json").read_text() == (begun / "half" / "classification.json").read_text()


def test_the_test_weighs_labels_as_training_does(begun):
    write(begun / "data.jsonl", lines(120, labels=("up", "down", "down", "down")))
    assert finetune(begun, "--class_weights", "balanced", "--test_fraction", "0.4") == 0
    examples = load(begun / "data.jsonl", val_fraction=0.1, test_fraction=0.4)
    model, _, _ = load_model(best_checkpoint(begun / "out"))
    plain = evaluate_classifier(model, examples.test, examples.labels).loss
    model.class_weights = balanced_weights(examples.train, examples.labels)
    found = json.loads((begun / "out" / "classification.json").read_text())["loss"]
    assert found == pytest.approx(evaluate_classifier(model, examples.test, examples.labels).loss) != pytest.approx(plain)


def test_a_run_is_not_resumed_with_another_test_file(begun, capsys):
    write(begun / "t.jsonl", lines(9, seed=7))
    assert finetune(begun, "--test", str(begun / "t.jsonl")) == 0
    write(begun / "t.jsonl", lines(8, seed=7))
    assert guarded(main, ["finetune", "classify", "--resume", "--out_dir", str(begun / "out")]) == 2
    assert "t.jsonl is no longer what the run is tested on" in capsys.readouterr().err


def test_bad_data_is_one_line_and_nothing_is_written(begun, capsys):
    with open(begun / "data.jsonl", "a") as file:
        file.write('{"text": "abc"\n')
    assert finetune(begun) == 2
    error = capsys.readouterr().err
    assert f"{begun / 'data.jsonl'}:121: must be a JSON object" in error and error.count("\n") == 1 and not (begun / "out").exists()
    assert finetune(begun, "--skip-bad") == 0
    assert f"1 records cannot be used and were left out, the first because: {begun / 'data.jsonl'}:121" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["generate", "--model"], ["quantize", "--out", "x", "--model"], ["convert", "--out", "y"],
                                     ["train", "--init_from"], ["finetune", "classify", "--data", "d", "--model"], ["doctor", "--model"]])
def test_what_continues_texts_refuses_a_classifier_in_one_line(begun, capsys, command, monkeypatch):
    assert finetune(begun) == 0
    monkeypatch.chdir(begun)
    (begun / "d").write_text("")
    capsys.readouterr()
    assert guarded(main, [*command, str(begun / "out")]) == 2
    error = capsys.readouterr().err
    assert "classifier" in error and error.count("\n") == 1


@pytest.mark.parametrize("flags, message", [
    ((), "texts must come on the command line or from --data, got none"), (("abc", "--data", "x"), "not from both"),
    ((" ",), "text 1: TEXT must not be empty"), (("a" * 30,), "text 1: a text must have at most the model's 24 tokens"),
    (("--data", "nowhere.csv"), "nowhere.csv: cannot be read"),
])
def test_classify_refuses_in_one_line(begun, capsys, flags, message):
    assert finetune(begun) == 0
    capsys.readouterr()
    assert guarded(main, ["classify", "--model", str(begun / "out"), "--backend", "numpy", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_text_and_label_must_be_two_columns(begun, capsys):
    assert finetune(begun, "--text_column", "label") == 2
    assert "a text and its label must be in two columns, got 'label' for both" in capsys.readouterr().err


def test_a_label_that_is_no_text_is_refused_before_it_is_learnt(begun, capsys):
    with open(begun / "data.jsonl", "a") as file:
        file.write('{"text": "abc", "label": "\\ud800"}\n')
    assert finetune(begun) == 2
    assert "data.jsonl:121: must hold whole characters" in capsys.readouterr().err and not (begun / "out").exists()


def test_classify_needs_a_classifier_and_cuts_what_it_may(begun, capsys):
    assert guarded(main, ["classify", "--model", str(begun / "base"), "--backend", "numpy", "abc"]) == 2
    assert "must hold a classifier" in capsys.readouterr().err
    assert finetune(begun, "--truncate") == 0
    capsys.readouterr()
    (begun / "new.txt").write_text("a" * 30 + "\n\n" + "c d\n")
    assert guarded(main, ["classify", "--model", str(begun / "out"), "--backend", "numpy", "--data", str(begun / "new.txt"), "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert guarded(main, ["classify", "--model", str(begun / "out"), "--backend", "numpy", "--no_truncate", "--data", str(begun / "new.txt")]) == 2
    assert "new.txt:1: a text must have at most" in capsys.readouterr().err
    for content, message in (("\n \n", "it holds none"), ("a" * 30, "it holds none that can be used, and 1 that cannot")):
        (begun / "new.txt").write_text(content)
        assert guarded(main, ["classify", "--model", str(begun / "out"), "--backend", "numpy", "--data", str(begun / "new.txt"), "--no_truncate",
                              "--skip_bad"]) == 2
        assert capsys.readouterr().err == f"numpyllm: error: {begun / 'new.txt'}: must hold texts, one a line, {message}\n"
