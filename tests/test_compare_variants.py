"""examples/compare_variants.py, run small."""

import json

from test_examples import TEXT, load

from numpyllm.cli.arguments import guarded

SMALL = ["--steps", "2", "--seeds", "2", "--batch_size", "2", "--block_size", "8", "--n_layer", "1", "--n_embd", "64",
         "--vocab_size", "270", "--threads", "1"]


def test_variants_of_equal_size_are_trained_and_a_table_is_printed(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    main = load("compare_variants")
    assert guarded(main, ["--data", str(tmp_path / "text.txt"), "--variants", "gpt2", "window", *SMALL]) == 0
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[4:]]
    assert [(name, runs) for name, _, _, runs, *_ in cells] == [("gpt2", "2"), ("window", "1")]
    assert cells[0][1] == cells[1][1] and "±" in cells[0][2] and "±" not in cells[1][2]     # a window has no parameters


def test_each_variant_has_nearly_equal_parameters_and_learns(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    main, found = load("compare_variants"), {}
    for name in ("gpt2", "rotary", "rmsnorm", "swiglu", "no bias", "grouped keys", "llama"):
        assert guarded(main, ["--data", str(tmp_path / "text.txt"), *SMALL, "--one", name, "7"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
        assert [step for step, _ in found[name]["curve"]] == [1, 2]
        assert found[name]["seconds"] > 0 and found[name]["peak"] > 1e6
    assert all(abs(one["parameters"] / found["gpt2"]["parameters"] - 1) < 0.01 for one in found.values())
    assert len({one["curve"][-1][1] for one in found.values()}) == len(found)               # each is a model of its own


def test_bad_input_is_one_line(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    main = load("compare_variants")
    assert guarded(main, ["--data", str(tmp_path / "text.txt"), "--variants", "gpt2", *SMALL, "--block_size", "5000"]) == 2
    assert "longer than 5000 tokens" in capsys.readouterr().err
    assert guarded(main, ["--n_embd", "12"]) == 2
    assert guarded(main, ["--one", "gpt3", "1"]) == 2
