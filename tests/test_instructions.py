"""Instruction fine-tuning: templates, which tokens are asked for, packing, batches, files, the command."""

import importlib.util
import json
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm import kernels, ops
from numpyllm.cli.arguments import guarded
from numpyllm.cli.main import main
from numpyllm.data import hold_out
from numpyllm.errors import InputError
from numpyllm.finetuning import (TEMPLATES, ExampleBatches, Message, Turn, encode_answer, encode_turns, ending, generate_answers,
                                 in_order, read_instructions, spread)
from numpyllm.finetuning.packing import first_fit_decreasing
from numpyllm.interop import load_model, save_model
from numpyllm.models import GPT, LSTMLM, GPTConfig, LSTMConfig
from numpyllm.tokenizer import BytePairTokenizer

TEXT = "What is the plural of goose? ### geese\nBelow is an instruction.\n" * 4
TOKENIZER = BytePairTokenizer.train(TEXT, 280)
BARE = BytePairTokenizer.train(TEXT, 280, special_tokens=())
MARKED = BytePairTokenizer.train(TEXT, 280, special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 64, "vocab_size": TOKENIZER.n_vocab}
CHAT = [Message("system", "Be brief."), Message("user", "One?"), Message("assistant", "1"), Message("user", "Two?", "II"), Message("assistant", "2")]


def some_examples(n, seed=0, longest=9):
    """ids and targets as encode_answer gives them: first nothing is asked, then everything."""
    rng, found = np.random.default_rng(seed), []
    for length in rng.integers(2, longest + 1, n):
        ids = rng.integers(0, TOKENIZER.n_vocab, length + 1)
        targets = np.where(np.arange(length) < rng.integers(0, length), -1, ids[1:])
        found.append(SimpleNamespace(ids=ids[:-1], targets=targets))
    return found


def test_alpacas_template_to_the_letter():
    """Taori et al. 2023, as their data set's text column has it."""
    alpaca = TEMPLATES["alpaca"]
    assert alpaca.prompt("Say hi.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay hi.\n\n### Response:\n")
    assert alpaca.prompt("Make it plural.", "goose") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\nMake it plural.\n\n### Input:\ngoose\n\n### Response:\n")


def test_what_a_conversation_looks_like():
    assert TEMPLATES["chat"].turns(CHAT) == [
        Turn("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n", "1"),
        Turn("\n<|im_start|>user\nTwo?\n\nII<|im_end|>\n<|im_start|>assistant\n", "2")]
    assert TEMPLATES["plain"].turns(CHAT) == [Turn("Be brief.\n\n### One?\n###\n", "1"), Turn("\n### Two?\nII\n###\n", "2")]
    assert [turn.prompt[:12] for turn in TEMPLATES["alpaca"].turns(CHAT)] == ["Be brief.\n\n#", "\n\n### Instru"]
    assert TEMPLATES["plain"].prompt("{input} {0}", "{x}") == "### {input} {0}\n{x}\n###\n"     # braces are text


@pytest.mark.parametrize("roles, message", [
    (["user"], "the last message must be the assistant's"), ([], "the last message must be"),
    (["assistant"], "message 1 must be of system or user, got assistant"),
    (["user", "user", "assistant"], "message 2 must be of assistant, got user"),
    (["user", "system", "assistant"], "message 2 must be of assistant, got system"),
    (["user", "assistant", "assistant"], "message 3 must be of user"),
    (["user", "tool", "assistant"], "a role must be system, user or assistant, got 'tool' in message 2")])
def test_conversations_out_of_order_are_refused(roles, message):
    with pytest.raises(InputError, match=message):
        TEMPLATES["chat"].turns([Message(role, "text") for role in roles])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BARE, MARKED], ids=["end of text", "no special token", "chat's tokens"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_targets_are_the_answers_and_their_ends(tokenizer, name):
    template = TEMPLATES[name]
    turns = template.turns(CHAT)
    ids, targets = encode_turns(turns, tokenizer, 1000, stop=template.stop)
    end = ending(tokenizer, template.stop)
    whole = [part for turn in turns for part in (tokenizer.encode(turn.prompt, allowed_special="all"), tokenizer.encode(turn.answer) + end.ids)]
    assert [*ids, targets[-1]] == sum(whole, [])
    assert [i for i in targets if i != -1] == whole[1] + whole[3]
    assert all(target in (-1, after) for target, after in zip(targets[:-1], ids[1:], strict=True))
    if tokenizer is BARE:
        assert (end.token, end.stops) == (None, (template.stop,)) and tokenizer.decode(end.ids) == template.stop
    else:
        known = "<|im_end|>" if name == "chat" and tokenizer is MARKED else "<|endoftext|>"
        assert end == ([tokenizer.special_tokens[known]], tokenizer.special_tokens[known], ())


def test_what_is_too_long_empty_or_ends_itself():
    prompt, answer = "### goose?\n###\n", "geese"
    needed = len(encode_answer(prompt, answer, TOKENIZER, 1000)[0])
    ids, targets = encode_answer(prompt, answer, TOKENIZER, needed)
    with pytest.raises(InputError, match=f"context of {needed - 1} tokens, they have {needed}"):
        encode_answer(prompt, answer, TOKENIZER, needed - 1)
    shorter = encode_answer(prompt, answer, TOKENIZER, needed - 1, truncate=True)
    assert np.array_equal(shorter[0], ids[:-1]) and np.array_equal(shorter[1], targets[:-1])    # without the end of the answer
    with pytest.raises(InputError, match="nothing of the answer is left"):
        encode_answer(prompt, answer, TOKENIZER, 3, truncate=True)
    with pytest.raises(InputError, match="must not be empty"):
        encode_answer(prompt, "", TOKENIZER, 99)
    with pytest.raises(InputError, match="must not contain the special token"):
        encode_answer(prompt, "a<|endoftext|>", TOKENIZER, 99)
    with pytest.raises(InputError, match="with which it ends"):
        encode_answer(prompt, "a\n### b", BARE, 99)
    encode_answer(prompt, "a\n### b", TOKENIZER, 99)


@given(st.lists(st.integers(1, 30), max_size=80))
def test_first_fit_decreasing_is_what_it_says(lengths):
    """Against the definition, item by item."""
    rows = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((row for row in rows if sum(lengths[j] for j in row) + lengths[i] <= 30), None)
        rows.append([i]) if row is None else row.append(i)
    assert first_fit_decreasing(lengths, 30) == rows


def test_nothing_longer_than_a_row_is_packed():
    with pytest.raises(InputError, match="at most 5 tokens, number 1 has 6"):
        first_fit_decreasing([5, 6], 5)


def gradients(model, batches):
    model.parameters.clear_gradients()
    loss = sum(model.loss_and_gradients(*batch, scale=1.0)[0] for batch in batches)
    model.parameters.settle_gradients()
    return loss, model.parameters.grad.copy()


@pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "kernels"])
@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_packed_and_padded_batches_have_the_gradients_of_single_examples(backend, position):
    examples = some_examples(13)
    model = GPT(GPTConfig(**SIZES, position=position), ops=backend, dtype=np.float64)
    loss, grad = gradients(model, [(example.ids[None], example.targets[None]) for example in examples])
    sizes = {"batch_size": 3, "block_size": 16}
    for batches in (in_order(examples, **sizes), in_order(examples, **sizes, pack=False)):
        found, batch_grad = gradients(model, batches)
        assert abs(found - loss) < 1e-12 * abs(loss)
        assert np.abs(batch_grad - grad).max() < 1e-12 * np.abs(grad).max()
    assert len(in_order(examples, **sizes)) < len(in_order(examples, **sizes, pack=False)) == 5


def test_the_loss_is_the_sum_over_answer_tokens_by_hand():
    """Softmax of the logits after each prefix that ends before a token of the answer, one by one."""
    turns = [Turn("### goose?\n###\n", "geese"), Turn("\n### mouse?\n###\n", "mice")]
    model = GPT(GPTConfig(**SIZES), dtype=np.float64, seed=2)
    so_far, expected, count = [], 0.0, 0
    for prompt, answer in turns:
        so_far += TOKENIZER.encode(prompt)
        for token in [*TOKENIZER.encode(answer), TOKENIZER.eot_token]:
            logits = model.forward(np.array([so_far]))[0][0, -1]
            expected -= logits[token] - np.log(np.exp(logits).sum())
            so_far.append(token)
            count += 1
    ids, targets = encode_turns(turns, TOKENIZER, 64)
    loss, counted = model.loss(ids[None], targets[None])
    assert counted == count and abs(loss - expected) < 1e-12 * expected


@pytest.mark.oracle
def test_the_loss_is_that_of_torch_with_labels_of_minus_100():
    """transformers' way: labels beside the ids, -100 where nothing is asked, shifted by one, the mean."""
    torch = pytest.importorskip("torch")
    ids, targets = encode_answer("### goose?\n###\n", "geese", TOKENIZER, 64)
    model = GPT(GPTConfig(**SIZES), dtype=np.float64, seed=2)
    logits = torch.tensor(model.forward(ids[None])[0])
    whole = torch.tensor([*ids, targets[-1]])
    labels = whole.clone()
    labels[:len(TOKENIZER.encode("### goose?\n###\n"))] = -100
    expected = torch.nn.functional.cross_entropy(logits[0], labels[1:], ignore_index=-100)
    loss, count = model.loss(ids[None], targets[None])
    assert abs(loss / count - float(expected)) < 1e-10


def content(example):
    return example.ids.tobytes(), example.targets.tobytes()


def taken_apart(batch):
    """The examples in a batch."""
    ids, targets, starts = batch
    found = []
    for row in range(len(ids)):
        for begin in np.unique(starts[row]):
            here = starts[row] == begin
            if (targets[row][here] != -1).any():
                found.append((ids[row][here].tobytes(), targets[row][here].tobytes()))
    return found


def test_each_epoch_has_each_example_once_and_packs_them_anew():
    examples = some_examples(40)
    batches = ExampleBatches(examples, batch_size=1, block_size=16, seed=3)
    epochs = [[sorted(taken_apart(batches(step))) for step in range(first, first + batches.n_rows)] for first in (0, batches.n_rows)]
    for epoch in epochs:
        assert sorted(sum(epoch, [])) == sorted(map(content, examples))
    assert epochs[0] != epochs[1] and sorted(epochs[0]) != sorted(epochs[1])        # another order, and other companions
    assert batches.epoch(batches.n_rows) == 1
    padded = ExampleBatches(examples, batch_size=4, block_size=16, seed=3, pack=False)
    ids, targets = padded(0)
    assert len(ids) == 4 and padded.n_rows == 40 and ((targets != -1).sum(axis=1) > 0).all()
    lengths = [[len(examples[i].ids) for [i] in map(padded.row, range(first, first + 40))] for first in (0, 40)]
    assert lengths[0] != lengths[1] and sorted(lengths[0]) == sorted(lengths[1])        # rows are shuffled


def test_a_batch_is_a_function_of_seed_and_step_alone():
    make = lambda seed=3: ExampleBatches(some_examples(30), batch_size=2, block_size=16, seed=seed, micro_batches=2)
    one, other = make(), make()
    forward = [one(step, micro) for step in range(9) for micro in range(2)]
    backward = [other(step, micro) for step in reversed(range(9)) for micro in reversed(range(2))][::-1]
    assert all(np.array_equal(a, b) for x, y in zip(forward, backward, strict=True) for a, b in zip(x, y, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one(0), make(seed=4)(0), strict=True) if a.shape == b.shape)
    assert not np.array_equal(one.row(0), one.row(1))
    plain = ExampleBatches(some_examples(30), batch_size=2, block_size=16, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(one(3, 1), plain(7), strict=True))      # micro-batches follow each other


def write(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else "".join(json.dumps(line) + "\n" for line in content))
    return path


ALPACA = [{"instruction": "Plural?", "input": "goose", "output": "geese"}, {"instruction": "Six times seven?", "input": "", "output": "42"}]
CHATS = [{"messages": [{"role": "user", "content": "Six times seven?"}, {"role": "assistant", "content": "42"}]}]


def read(path, tokenizer=TOKENIZER, template="plain", block_size=64, **settings):
    return read_instructions(path, TEMPLATES[template], tokenizer, block_size, **settings)


def test_the_same_examples_from_every_kind_of_file(tmp_path):
    expected = read(write(tmp_path, "a.jsonl", ALPACA))
    assert [(example.question, example.turns) for example in expected] == [
        ("Plural?\ngoose", [Turn("### Plural?\ngoose\n###\n", "geese")]), ("Six times seven?", [Turn("### Six times seven?\n###\n", "42")])]
    for name, text in (("a.json", json.dumps(ALPACA)), ("a.csv", "output,instruction,input\ngeese,Plural?,goose\n42,Six times seven?,\n"),
                       ("a.tsv", "instruction\tinput\toutput\nPlural?\tgoose\tgeese\nSix times seven?\t\t42\n")):
        found = read(write(tmp_path, name, text))
        assert all(np.array_equal(a.ids, b.ids) and np.array_equal(a.targets, b.targets) for a, b in zip(found, expected, strict=True))
    [chat] = read(write(tmp_path, "b.jsonl", CHATS))
    assert np.array_equal(chat.ids, expected[1].ids)
    assert read(write(tmp_path, "c.jsonl", [{**ALPACA[0], "input": None, "source": "me"}]))[0].question == "Plural?"


@pytest.mark.parametrize("record, message", [
    ({"instruction": "a"}, "must have a field 'output', or 'messages', it has 'instruction'"),
    ({"output": "a"}, "must have a field 'instruction'"),
    ({"instruction": "a", "output": " "}, "output must not be empty"),
    ({"instruction": "", "output": "a"}, "instruction must not be empty"),
    ({"instruction": "a", "input": 3, "output": "a"}, "input must be a text, got 3"),
    ({"instruction": "a", "output": "b " * 99}, "must fit into the context of 64 tokens, they have"),
    ({"instruction": "a <|endoftext|>", "output": "b"}, "the text of the user must not contain '<|endoftext|>'"),
    ({"instruction": "a", "output": "b<|endoftext|>"}, "the text of the assistant must not contain"),
    ({"messages": "hello"}, 'messages must be a list, got "hello"'),
    ({"messages": []}, "the last message must be the assistant's"),
    ({"messages": ["hello"]}, "message 1 must be an object with role and content"),
    ({"messages": [{"role": "user", "content": " "}]}, "message 1: content must not be empty"),
    ({"messages": [{"role": "user", "content": "a"}]}, "the last message must be the assistant's"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}, "got 'tool' in message 2"),
])
def test_bad_examples_are_named_by_line_or_skipped(tmp_path, record, message):
    path = write(tmp_path, "a.jsonl", [ALPACA[0], record])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:2: ") and message in str(caught.value) and "\n" not in str(caught.value)
    skipped = []
    assert len(read(path, skip_bad=True, skipped=skipped)) == 1 and [str(caught.value)] == skipped


def test_a_column_that_is_missing_and_an_example_that_is_truncated(tmp_path):
    with pytest.raises(InputError, match="a.csv:1: the first line must name the column 'output', it names 'instruction', 'answer'"):
        read(write(tmp_path, "a.csv", "instruction,answer\na,b\n"))
    [example] = read(write(tmp_path, "a.jsonl", [{"instruction": "a", "output": "b " * 99}]), truncate=True)
    assert len(example.ids) == 64 and TOKENIZER.eot_token not in example.targets


def test_no_question_is_on_both_sides(tmp_path):
    """Other case, other blanks, another answer, further turns, a system message: the same question."""
    same = lambda i: [{"instruction": f"Question {i}?", "output": "a"}, {"instruction": f" question  {i}?", "output": "b"},
                      {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"QUESTION {i}?"},
                                    {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]}]
    examples = read(write(tmp_path, "a.jsonl", [record for i in range(60) for record in same(i)]))
    learnt, held_out = hold_out(examples, 0.2, key=lambda conversation: conversation.question)
    sides = [{example.question.casefold().split()[1] for example in side} for side in (learnt, held_out)]
    assert not sides[0] & sides[1] and len(learnt) + len(held_out) == 180
    assert all(len(side) % 3 == 0 for side in (learnt, held_out)) and 0 < len(held_out) < 90
    with pytest.raises(InputError, match="makes 3 and 0: give more examples or another val_fraction"):
        hold_out(examples[:3], 0.001, key=lambda conversation: conversation.question)


def test_examples_are_shown_from_all_parts_of_a_file():
    assert [spread(list(range(10)), n) for n in (0, 1, 3, 20)] == [[], [0], [0, 4, 9], list(range(10))]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BARE, MARKED], ids=["end of text", "no special token", "chat's tokens"])
@pytest.mark.parametrize("name", ["plain", "chat"])
def test_a_model_that_has_learnt_answers_says_them_and_ends(tokenizer, name):
    """Training, packing and decoding meet at the same border: what was learnt by heart comes out, to the letter."""
    from numpyllm.training import TrainConfig, Trainer
    template = TEMPLATES[name]
    pairs = [("goose?", "geese"), ("is it?", "It is an instruction."), ("What?", "the plural")]
    examples = [SimpleNamespace(ids=ids, targets=targets) for ids, targets in
                (encode_answer(template.prompt(question), answer, tokenizer, 160, stop=template.stop) for question, answer in pairs)]
    model = GPT(GPTConfig(**SIZES | {"block_size": 160, "n_embd": 32, "n_layer": 1, "vocab_size": tokenizer.n_vocab}), seed=1, ops=kernels)
    config = TrainConfig(batch_size=1, max_iters=80, learning_rate=2e-2, warmup_iters=5, weight_decay=0.0, eval_interval=200, threads=1)
    batches = ExampleBatches(examples, batch_size=1, block_size=160, seed=0)
    trainer = Trainer(model, config, batches, batches, tokenizer, log=lambda line: None)
    for _ in range(config.max_iters):
        trainer.train_step()
    prompts = [template.prompt(question) for question, _ in pairs]
    assert generate_answers(model, tokenizer, prompts, 30, stop=template.stop) == [answer for _, answer in pairs]


FLAGS = ["--batch_size", "2", "--max_iters", "4", "--eval_interval", "2", "--log_interval", "1", "--threads", "2", "--warmup_iters", "1",
         "--val_fraction", "0.3", "--show", "1", "--answer_tokens", "5"]


@pytest.fixture
def begun(tmp_path):
    """A model's folder and a file of examples, two of them bad."""
    save_model(tmp_path / "base", GPT(GPTConfig(**SIZES)), TOKENIZER)
    records = [{"instruction": f"What is {i}?", "output": f"It is {i}."} for i in range(20)]
    write(tmp_path, "bad.jsonl", [{"instruction": "a"}, *records, {"instruction": "a", "output": ""}])
    return write(tmp_path, "data.jsonl", records).parent


def instruct(folder, *flags, data="data.jsonl"):
    return guarded(main, ["finetune", "instruct", "--model", str(folder / "base"), "--data", str(folder / data), "--out_dir", str(folder / "run"),
                          *FLAGS, *flags])


def test_the_command_trains_shows_answers_and_resumes_to_the_same_bits(begun, capsys):
    assert instruct(begun) == 0
    printed = capsys.readouterr().out
    assert "step 4/4" in printed and printed.count("  | > What is ") == 3 and "held-out loss" in printed.splitlines()[-2]
    whole, tokenizer = load_model(begun / "run")
    assert tokenizer.sha256 == TOKENIZER.sha256
    samples = [json.loads(line) for line in (begun / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in samples] == [0, 2, 4] and samples[-1]["text"].startswith("> What is ")
    assert instruct(begun, "--overwrite", "--max_iters", "2", "--lr_decay_iters", "4") == 0
    assert guarded(main, ["finetune", "instruct", "--out_dir", str(begun / "run"), "--resume", "--max_iters", "4"]) == 0
    assert load_model(begun / "run")[0].parameters.data.tobytes() == whole.parameters.data.tobytes()
    capsys.readouterr()
    assert guarded(main, ["generate", "--model", str(begun / "run"), "--template", "plain", "--prompt", "What is 3?\n", "--temperature", "0",
                          "--max_new_tokens", "5"]) == 0
    said = generate_answers(whole, TOKENIZER, [TEMPLATES["plain"].prompt("What is 3?")], 5)[0]
    assert capsys.readouterr().out == f"What is 3?\n{said}\n"


@pytest.mark.parametrize("flags", [["--no_packing"], ["--lora_rank", "2"], ["--freeze", "1"], ["--template", "chat", "--truncate"]], ids=str)
def test_the_command_with_other_choices(begun, capsys, flags):
    assert instruct(begun, *flags) == 0
    assert (begun / "run" / "adapter").exists() == ("--lora_rank" in flags)


def test_bad_examples_on_the_command_line(begun, capsys):
    assert instruct(begun, data="bad.jsonl") == 2
    errors = capsys.readouterr().err
    assert f"{begun / 'bad.jsonl'}:1: must have a field 'output'" in errors and len(errors.splitlines()) == 1 and not (begun / "run").exists()
    assert instruct(begun, "--skip_bad", data="bad.jsonl") == 0
    assert f"skipped 2 of 22 examples, the first: {begun / 'bad.jsonl'}:1" in capsys.readouterr().out


def test_an_lstm_learns_from_rows_of_its_own(begun, capsys):
    save_model(begun / "lstm", LSTMLM(LSTMConfig(n_layer=1, n_embd=8, block_size=64, vocab_size=TOKENIZER.n_vocab)), TOKENIZER)
    flags = ["--model", str(begun / "lstm")]
    assert instruct(begun, *flags) == 2 and "give --no_packing" in capsys.readouterr().err
    assert instruct(begun, *flags, "--no_packing") == 0


def test_beams_need_a_token_to_end_at(tmp_path, capsys):
    save_model(tmp_path / "bare", GPT(GPTConfig(**SIZES | {"vocab_size": BARE.n_vocab})), BARE)
    command = ["generate", "--model", str(tmp_path / "bare"), "--template", "plain", "--prompt", "a", "--max_new_tokens", "3"]
    assert guarded(main, command) == 0
    assert guarded(main, [*command, "--prompt", " "]) == 2 and "--template needs an instruction" in capsys.readouterr().err
    assert guarded(main, [*command, "--beams", "2"]) == 2 and "leave out --beams or --template" in capsys.readouterr().err


def test_alpaca_style_data_as_it_is(data_dir):
    """Every record of the file is read, most share a row, and every token of every answer is asked for."""
    path = data_dir / "instruction-data.json"
    records = json.loads(path.read_text())
    examples = read(path, template="alpaca", block_size=1024)
    assert len(examples) == len(records) == 1100
    for record, example in zip(records, examples, strict=True):
        answer = example.targets[example.targets != -1]
        assert TOKENIZER.decode(answer) == record["output"].strip() + "<|endoftext|>"
        assert TOKENIZER.decode(example.ids).startswith("Below is an instruction that describes a task" + ", paired" * bool(record["input"]))
    assert ExampleBatches(examples, batch_size=1, block_size=1024, seed=0).n_rows < 700


@pytest.fixture
def example():
    """examples/finetune_instruct.py as a module."""
    path = Path(__file__).parent.parent / "examples" / "finetune_instruct.py"
    spec = importlib.util.spec_from_file_location("finetune_instruct", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_questions_come_from_source(tmp_path, example):
    source = '''
def wrap(text, width=70, *more, fix=True, **rest):
    """Wrap a
    single paragraph. And more.

    Even more."""
def _hidden(): pass
class Wrapper:
    """Short."""
    def fill(self):
        """fill() -> a text and some words."""
    async def indent(self):
        """Put blanks before every line"""
'''
    (tmp_path / "pack").mkdir()
    (tmp_path / "_own").mkdir()
    paths = [tmp_path / name for name in ("pack/__init__.py", "pack/more.py", "_own/a.py")]
    for path, text in zip(paths, (source, "def wrap(): pass\n", source), strict=True):
        path.write_text(text)
    found = {record["instruction"]: record["output"] for record in example.instructions(example.definitions(paths, tmp_path))}
    assert found == {"What does pack.wrap do?": "Wrap a single paragraph.", "Which module has Wrapper?": "pack",
                     "What are the arguments of pack.wrap?": "text, width, *more, fix, **rest",
                     "What does pack.Wrapper.indent do?": "Put blanks before every line"}


def test_the_example_from_source_to_answers(begun, capsys, monkeypatch, example):
    folder = Path(sysconfig.get_path("stdlib"))
    monkeypatch.setattr(example, "library_files", lambda: [folder / name for name in ("fnmatch.py", "shutil.py", "textwrap.py")])
    command = ["--model", str(begun / "base"), "--out_dir", str(begun / "run"), *FLAGS, "--skip_bad", "--truncate"]
    assert guarded(example.main, command) == 0
    printed = capsys.readouterr().out
    for part in ("step 4/4", "held-out loss", "what it does: ", "its arguments: ", "its module: ", "answers exactly right", "(right: "):
        assert part in printed
    assert (begun / "instructions.jsonl").exists() and load_model(begun / "run")
