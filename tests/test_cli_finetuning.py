"""What the tasks of numpyllm finetune share: options, freezing, LoRA, the record of a run."""

import json

import numpy as np
import pytest

from numpyllm.cli.arguments import Parser, guarded
from numpyllm.cli.finetuning import adapted, add_finetuning_options, open_finetuning, trainable_parts
from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.interop import save_model
from numpyllm.models import GPT, GPTConfig, LSTMLM, LSTMConfig
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training.checkpoint import make_model

TOKENIZER = CharacterTokenizer.train("abcdefgh \n")


@pytest.fixture
def begun(tmp_path):
    """A model's folder and a file of examples."""
    save_model(tmp_path / "base", GPT(GPTConfig(n_layer=3, n_head=2, n_embd=8, block_size=16, vocab_size=TOKENIZER.n_vocab)), TOKENIZER)
    (tmp_path / "data.jsonl").write_text('{"text": "ab"}\n')
    return tmp_path


def parsed(folder, *flags):
    parser = Parser(prog="test")
    add_finetuning_options(parser, data_help="examples", out_dir=str(folder / "out"))
    return parser.parse_args(["--model", str(folder / "base"), "--data", str(folder / "data.jsonl"), "--backend", "numpy", *flags])


def trained_names(*flags, n_layer=3):
    names = ["embedding.wte", "embedding.wpe", *(f"blocks.{i}.attn.qkv.w" for i in range(n_layer)), "norm.w", "head.w", "classifier.w"]
    args = parsed_flags(*flags)
    chosen = trainable_parts(args, n_layer)
    return names if chosen is None else [name for name in names if chosen(name)]


def parsed_flags(*flags):
    parser = Parser(prog="test")
    add_finetuning_options(parser, data_help="examples", out_dir="out")
    return parser.parse_args(list(flags))


def test_what_freeze_leaves_to_be_trained():
    assert trained_names("--freeze", "all") == ["classifier.w"] == trained_names("--lora_rank", "2")
    assert trained_names("--freeze", "2") == ["blocks.1.attn.qkv.w", "blocks.2.attn.qkv.w", "norm.w", "head.w", "classifier.w"]
    assert len(trained_names()) == 8
    with pytest.raises(InputError, match="at most the model's 3 blocks"):
        trained_names("--freeze", "4")
    with pytest.raises(InputError, match="leave --freeze out, or --lora_rank"):
        trained_names("--freeze", "1", "--lora_rank", "2")


@pytest.mark.parametrize("flags, share", [((), 1.0), (("--freeze", "1"), 0.5), (("--lora_rank", "1"), 0.2)])
def test_the_adapted_model_begins_with_the_same_parameters(begun, flags, share):
    opened = open_finetuning(args := parsed(begun, "--recompute", *flags), "instruct", log=lambda line: None)
    model = adapted(opened, args)
    assert model.recompute
    assert all(np.array_equal(model.parameters[name], opened.model.parameters[name]) for name in opened.model.parameters)
    assert 0 < model.parameters.n_trainable <= share * model.parameters.data.size
    ids = np.arange(8)[None]
    assert np.array_equal(model.forward(ids)[0], opened.model.forward(ids)[0])
    with pytest.raises(InputError, match="leaves nothing to train"):
        adapted(opened, parsed(begun, "--freeze", "all"))


@pytest.mark.parametrize("flags, message", [
    (("--val_fraction", "1"), "val_fraction must be above 0 and below 1, got 1"),
    (("--model", ""), "--model must name the model to begin with"),
    (("--model", "nowhere"), "nowhere"),
    (("--data", "nowhere.csv"), "nowhere.csv: cannot be read"),
    (("--learning_rate", "-1"), "learning_rate must be at least 0"),
    (("--batch_size", f"{10**12}"), "the sizes must fit into the .* GB of this machine, they need"),
    (("--batch_size", f"{10**400}"), "the sizes must fit into the .* GB of this machine, they need far more: "),
    (("--resume",), "does not exist: train"),
])
def test_bad_options_are_refused_before_anything_is_written(begun, flags, message):
    with pytest.raises(InputError, match=message):
        open_finetuning(parsed(begun, *flags), "instruct", log=lambda line: None)
    assert not (begun / "out").exists()


def test_a_file_of_options_may_hold_what_freeze_takes(begun):
    (begun / "a.toml").write_text('freeze = "all"\n')
    assert parsed(begun, "--config", str(begun / "a.toml")).freeze == "all"
    (begun / "a.toml").write_text("freeze = 2\n")
    assert parsed(begun, "--config", str(begun / "a.toml")).freeze == 2
    (begun / "a.toml").write_text("freeze = 0.5\n")
    with pytest.raises(InputError, match="freeze"):
        parsed(begun, "--config", str(begun / "a.toml"))


def test_the_command_lists_its_tasks(capsys):
    assert guarded(main, ["finetune"]) == 0 and "instruct" in capsys.readouterr().out
    assert guarded(main, ["finetune", "instrukt"]) == 2 and "did you mean instruct?" in capsys.readouterr().err


def test_an_lstm_is_refused_where_a_gpt_is_needed(begun):
    from numpyllm.cli.finetuning import require_gpt
    save_model(begun / "lstm", LSTMLM(LSTMConfig(n_layer=1, n_embd=8, block_size=8, vocab_size=TOKENIZER.n_vocab)), TOKENIZER)
    opened = open_finetuning(parsed(begun, "--model", str(begun / "lstm")), "instruct", log=lambda line: None)
    with pytest.raises(InputError, match="needs a GPT, .* is of architecture lstm"):
        require_gpt(opened)


@pytest.mark.parametrize("line, message", [
    ('freeze = "some"', "freeze: invalid literal"), ("freeze = true", "freeze: invalid literal"), ("freeze = 0", "freeze: must be at least 1, got 0"),
    ("freeze = [1]", "freeze: invalid literal")])
def test_freeze_in_a_file_is_what_the_flag_takes(begun, line, message):
    (begun / "my.toml").write_text(line)
    with pytest.raises(InputError, match=f"my.toml: {message}"):
        parsed(begun, "--config", str(begun / "my.toml"))
    for text, value in (('"all"', "all"), ("2", 2)):
        (begun / "my.toml").write_text(f"freeze = {text}")
        assert parsed(begun, "--config", str(begun / "my.toml")).freeze == value


def test_a_checkpoint_of_a_size_that_cannot_be_is_refused_before_it_is_allocated(begun):
    state = json.loads((begun / "base" / "state.json").read_text())
    for name, size in (("n_embd", 1 << 60), ("n_layer", 1 << 60), ("vocab_size", 10**300)):
        with pytest.raises(InputError, match="the sizes must fit into"):
            make_model(state | {"model": state["model"] | {name: size}}, begun)
