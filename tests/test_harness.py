"""The adapter for lm-evaluation-harness: what its own class for transformers says of the same weights, ours says."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"      # before they are imported

import numpy as np
import pytest

from numpyllm import kernels
from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.evaluation import Question, answer_questions
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra eval)")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]     # theirs

TEXT = "The harness asks which of several answers follows. A whale is a mammal; naïve Ärger, 1,234 blue skies? " * 5
DOCUMENTS = [
    {"question": "A whale is a", "choices": ["mammal", "fish", "blue naïve sky"], "answer": 0},
    {"question": "Which skies? ", "choices": ["blue", "Ärger and 1,234 answers"], "answer": 1},
    {"question": "The harness\n", "choices": ["asks which of several answers follows", "skies", "a", "b"], "answer": 0},
    {"question": TEXT, "choices": ["long", "longer than the context"], "answer": 1},
    {"question": "x", "choices": ["follows.", "mammal;"], "answer": 0},
]
TASK = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
output_type: multiple_choice
test_split: test
fewshot_split: train
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
target_delimiter: " "
metric_list:
  - metric: acc
  - metric: acc_norm
  - metric: acc_bytes
"""


class Request:
    def __init__(self, *args):
        self.args = args


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights in Hugging Face's layout with their tokenizer. Biases are small: else it is one token for ever."""
    folder = tmp_path_factory.mktemp("harness") / "model"
    tokenizer = BytePairTokenizer.train(TEXT, 300)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=tokenizer.n_vocab), seed=None)
    rng = np.random.default_rng(0)
    for name in model.parameters:
        values = model.parameters[name]
        values[...] = (0.3 if values.ndim == 2 else 0.03) * rng.standard_normal(values.shape) + (values.ndim == 1 and name.endswith(".w"))
    save_pretrained(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    from numpyllm.evaluation.harness import HarnessLM
    return HarnessLM(*load_pretrained(folder, ops=kernels, dtype=np.float64), batch_size=3)


@pytest.fixture(scope="module")
def theirs(folder):
    from lm_eval.models.huggingface import HFLM
    return HFLM(pretrained=str(folder), device="cpu", dtype="float64", batch_size=3)


@pytest.fixture
def tasks(tmp_path):
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    (tmp_path / "local_choice.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    from lm_eval.tasks import TaskManager
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


@pytest.mark.parametrize("shots", [0, 2])
def test_a_local_task_scores_and_choices(ours, theirs, tasks, shots, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = []
    for model in (theirs, ours):
        result = lm_eval.simple_evaluate(model=model, tasks=["local_choice"], num_fewshot=shots, task_manager=tasks, bootstrap_iters=0)
        samples = sorted(result["samples"]["local_choice"], key=lambda sample: sample["doc_id"])
        scores = [[float(score[0][0]) for score in sample["resps"]] for sample in samples]
        found.append((scores, {name: value for name, value in result["results"]["local_choice"].items() if name.startswith("acc")}))
    for expected, got in zip(found[0][0], found[1][0], strict=True):
        assert np.abs(np.array(expected) - got).max() < 1e-9
        assert np.argmax(expected) == np.argmax(got)
    assert found[0][1] == found[1][1] and len(found[0][1]) >= 3
    if shots == 0:      # our own command reads the same documents to the same scores
        questions = [Question(document["question"], tuple(document["choices"]), document["answer"]) for document in DOCUMENTS]
        answered, cut = answer_questions(ours.model, ours.tokenizer, questions)
        assert cut == 2
        for one, expected in zip(answered, found[0][0], strict=True):
            assert np.abs(one.logprobs - expected).max() < 1e-9


def test_the_command(folder, tasks, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert tasks.all_tasks == ["local_choice"]
    command = ["eval", "harness", "--model", str(folder), "--include_path", str(tmp_path), "--json", str(tmp_path / "o.json"), "--tasks"]
    assert main([*command, "local_choice", "--resamples", "10"]) == 0
    found = json.loads((tmp_path / "o.json").read_text())["results"]["local_choice"]
    assert "local_choice" in capsys.readouterr().out and 0 <= found["acc,none"] <= 1
    assert main([*command, "local_choice,lokal"]) == 2 and "no task 'lokal'" in capsys.readouterr().err


def test_loglikelihood_of_odd_pairs(ours, theirs):
    requests = [Request("", "A whale"), Request("A whale ", "is"), Request("A whale", " is a mammal"), Request("A wh", "ale"),
                Request("", "<|endoftext|>A whale"), Request("<|endoftext|>The", " blue"), Request(TEXT, " skies " * 4)]
    for expected, got in zip(theirs.loglikelihood(requests), ours.loglikelihood(requests), strict=True):
        assert abs(expected[0] - got[0]) < 1e-9 and expected[1] == got[1]


def test_greedy_continuations_are_seen_as_such(ours, theirs):
    texts = [TEXT[:n] for n in range(3, 90)]
    written = ours.generate_until([Request(text, {"until": [], "max_gen_toks": 1}) for text in texts])
    n_tokens = [[len(ours.tokenizer.encode(text + end, allowed_special="all")) for end in ("", more)]
                for text, more in zip(texts, written, strict=True)]
    requests = [Request(text, more) for text, more, (before, after) in zip(texts, written, n_tokens, strict=True) if after > before]
    expected = [greedy for _, greedy in theirs.loglikelihood(requests)]
    assert [greedy for _, greedy in ours.loglikelihood(requests)] == expected and len(set(expected)) == 2


@pytest.mark.parametrize("length", [1, 63, 64, 65, 66, 128, 129, 200])
def test_loglikelihood_rolling_at_all_lengths(ours, theirs, length):
    text = ours.tokenizer.decode(ours.tokenizer.encode(TEXT)[:length])
    expected, got = theirs.loglikelihood_rolling([Request(text)]), ours.loglikelihood_rolling([Request(text)])
    assert abs(expected[0] - got[0]) < 1e-9


def test_settings_that_are_not_known_are_refused(ours):
    with pytest.raises(InputError, match="num_beams of a task's generation_kwargs mean nothing here"):
        ours.generate_until([Request("A", {"until": [], "num_beams": 4})])


def test_drawn_text_is_a_function_of_the_seed(ours):
    from numpyllm.evaluation.harness import HarnessLM
    requests = [Request("A whale", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 9})] * 2
    first = ours.generate_until(requests)
    assert first == ours.generate_until(requests) != HarnessLM(ours.model, ours.tokenizer, seed=1).generate_until(requests)
    assert first[0] != first[1]


@pytest.mark.parametrize("settings", [{"until": ["\n\n"], "max_gen_toks": 20}, {"until": "a", "max_new_tokens": 20},
                                      {"until": [" ", "e"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 12}, {"max_gen_toks": 40}])
def test_generate_until(ours, theirs, settings):
    requests = [Request(text, dict(settings)) for text in ("A whale is", "The harness asks", TEXT)]
    expected = theirs.generate_until([Request(text, dict(settings)) for text, _ in (request.args for request in requests)])
    assert ours.generate_until(requests) == expected and any(expected)


def test_it_is_registered_by_name(folder, ours):
    from lm_eval.api.registry import get_model
    made = get_model("numpyllm").create_from_arg_string(f"path={folder},backend=numpy", {"batch_size": "auto", "device": None})
    requests = [Request("A whale", " is a mammal")]
    assert abs(made.loglikelihood(requests)[0][0] - ours.loglikelihood(requests)[0][0]) < 1e-3


def test_float32_to_its_rounding(folder):
    from lm_eval.models.huggingface import HFLM
    from numpyllm.evaluation.harness import HarnessLM
    requests = [Request(document["question"], f" {choice}") for document in DOCUMENTS for choice in document["choices"]]
    found = HarnessLM(*load_pretrained(folder, ops=kernels)).loglikelihood(requests)
    for expected, got in zip(HFLM(pretrained=str(folder), device="cpu", dtype="float32").loglikelihood(requests), found, strict=True):
        assert abs(expected[0] - got[0]) < 1e-6 * abs(expected[0]) + 1e-6 and expected[1] == got[1]
