"""Multiple choice: scores by the definition, examples before a question, files as GLUE and SuperGLUE publish them, bad ones."""

import numpy as np
import pytest

from numpyllm import kernels, ops
from numpyllm.errors import InputError
from numpyllm.evaluation import (TASKS, Answered, Question, answer_questions, checker, encode_pair, log_likelihoods, number, read_questions,
                                 read_task, summarise, table)
from numpyllm.evaluation.choice import _draw
from numpyllm.models import GPT, GPTConfig, LSTMConfig, LSTMLM
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer

TEXT = "Is a whale a mammal or a fish? It is a mammal. naïve Ärger, no blue sky.\n\n" * 3
TOKENIZER = BytePairTokenizer.train(TEXT, 290)
QUESTIONS = [Question("Is a whale a", ("mammal", "fish"), 0), Question("The sky is ", ("blue", "a naïve Ärger"), 0),
             Question("No fish is a\n", ("mammal", "a", "sky"), 2)]


def gpt(backend=ops, block_size=64):
    made = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=block_size, vocab_size=TOKENIZER.n_vocab), ops=backend, seed=None,
               dtype=np.float64)
    made.parameters.data[...] = 0.3 * np.random.default_rng(0).standard_normal(made.parameters.data.size)
    return made


def lstm():
    return LSTMLM(LSTMConfig(n_layer=2, n_embd=8, block_size=4, vocab_size=TOKENIZER.n_vocab), seed=1, dtype=np.float64)


def by_definition(model, context, continuation, most):
    """One token after the other, each text alone."""
    total, greedy = 0.0, True
    tokens = [*context, *continuation][-(most + 1):]
    for i in range(len(tokens) - len(continuation), len(tokens)):
        logits = model.forward(np.array([tokens[:i]]))[0][0, -1]
        total += logits[tokens[i]] - np.log(np.exp(logits).sum())
        greedy &= int(logits.argmax()) == tokens[i]
    return total, greedy


@pytest.mark.parametrize("make, most", [(gpt, 64), (lambda: gpt(kernels), 64), (lambda: gpt(block_size=9), 9), (lstm, 10**6)],
                         ids=["text", "kernels", "cut", "LSTM"])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_log_likelihoods_by_the_definition(make, most, batch_size):
    """Batches, padding, pairs that share what is read, and likeliest continuations among them change nothing."""
    model, rng = make(), np.random.default_rng(2)
    pairs = [(rng.integers(0, 290, rng.integers(1, 12)).tolist(), rng.integers(0, 290, rng.integers(1, 7)).tolist()) for _ in range(12)]
    pairs += [(pairs[0][0], pairs[0][1][:-1] + [i]) for i in (7, 8)] + [(pairs[1][0] + pairs[1][1][:-1], pairs[1][1][-1:])]
    likeliest = [int(model.forward(np.array([context[-most:]]))[0][0, -1].argmax()) for context, _ in pairs[:3]]
    pairs += [(context, [token]) for (context, _), token in zip(pairs[:3], likeliest, strict=True)]
    seen = []
    found = log_likelihoods(model, pairs, batch_size=batch_size, progress=lambda done, total: seen.append((done, total)))
    for pair, one in zip(pairs, found, strict=True):
        expected, greedy = by_definition(model, *pair, most)
        assert one.logprob == pytest.approx(expected, abs=1e-10) and one.greedy == greedy
        assert one.cut == max(0, len(pair[0]) + len(pair[1]) - most - 1)
    assert [one.greedy for one in found[-3:]] == [True] * 3 and not all(one.greedy for one in found)
    assert seen[-1][0] == seen[-1][1] < len(pairs)          # some are read once for several


def test_no_logits_for_more_than_a_few_rows_at_once(monkeypatch):
    from numpyllm.evaluation import loglikelihood
    pairs = [([1, 2], list(range(40)))]
    likeliest = [int(gpt().forward(np.array([[1, 2, 3, 4]]))[0][0, -1].argmax())]
    pairs.append(([1, 2], [3, 4, *likeliest]))              # the last is the likeliest, the others are not
    whole = log_likelihoods(gpt(), pairs)
    for rows in 7, 1:
        monkeypatch.setattr(loglikelihood, "ROWS", rows)
        for one, expected in zip(log_likelihoods(gpt(), pairs), whole, strict=True):
            assert one.logprob == pytest.approx(expected.logprob, abs=1e-12) and not one.greedy and not expected.greedy


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(InputError, match="at most block_size=9 tokens, this one has 10"):
        log_likelihoods(gpt(block_size=9), [([1], [2] * 10)])
    broken = gpt()
    broken.parameters.data[...] = np.nan
    with pytest.raises(InputError, match="no finite numbers"):
        log_likelihoods(broken, [([1], [2])])


def test_a_text_is_cut_where_the_context_ends():
    """Blanks go to the continuation, both are encoded together, special tokens are text, and nothing at all is <|endoftext|>."""
    whole = TOKENIZER.encode("a whale a mammal")
    assert encode_pair(TOKENIZER, "a whale ", "a mammal") == encode_pair(TOKENIZER, "a whale", " a mammal")
    before, after = encode_pair(TOKENIZER, "a whale", " a mammal")
    assert before + after == whole and TOKENIZER.decode(after) == " a mammal"
    before, after = encode_pair(TOKENIZER, "a whale\n\n", "a")
    assert TOKENIZER.decode(before) == "a whale" and TOKENIZER.decode(after) == "\n\na"
    assert encode_pair(TOKENIZER, "", "fish") == ([TOKENIZER.eot_token], TOKENIZER.encode("fish"))
    assert encode_pair(TOKENIZER, "<|endoftext|>", " a")[0] == TOKENIZER.encode_ordinary("<|endoftext|>")
    assert encode_pair(TOKENIZER, "", "<|endoftext|>fish", allowed_special="all") == encode_pair(TOKENIZER, "", "fish")
    with pytest.raises(InputError, match="no <|endoftext|> to stand for it"):
        encode_pair(CharacterTokenizer.train("abc "), "", "a")
    with pytest.raises(InputError, match="at least one token"):
        encode_pair(TOKENIZER, "a whale", "")


def test_choices_by_sum_and_by_bytes():
    question = Question("?", ("aaaa", "b", "ää"), 0)
    one = Answered(question, np.array([-4.0, -3.0, -3.5]))
    assert (one.raw, one.by_bytes) == (1, 2)                # 3.5 / 4 bytes < 4 / 4 < 3 / 1
    assert Answered(question, np.log([0.1, 0.3, 0.6]) - 700).expected == pytest.approx(0.3 + 1.2)


def test_answers_are_log_likelihoods_of_a_blank_and_the_choice():
    model = gpt()
    answered, cut = answer_questions(model, TOKENIZER, QUESTIONS, batch_size=2)
    assert cut == 0
    for question, one in zip(QUESTIONS, answered, strict=True):
        expected = [by_definition(model, *encode_pair(TOKENIZER, question.context, f" {choice}"), 64)[0] for choice in question.choices]
        assert one.question is question and one.logprobs == pytest.approx(expected, abs=1e-10)


def test_examples_come_before_a_question():
    model = gpt()
    pool = [Question("Example 1?", ("no", "yes"), 1), Question("Example 2?", ("no", "yes"), 0)]
    [one], _ = answer_questions(model, TOKENIZER, QUESTIONS[:1], shots=2, pool=pool, seed=0)
    contexts = [f"Example {a}? {x}\n\nExample {b}? {y}\n\nIs a whale a" for a, x, b, y in ((1, "yes", 2, "no"), (2, "no", 1, "yes"))]
    expected = [[by_definition(model, *encode_pair(TOKENIZER, context, f" {choice}"), 64)[0] for choice in ("mammal", "fish")]
                for context in contexts]
    assert any(one.logprobs == pytest.approx(either, abs=1e-10) for either in expected)
    _, cut = answer_questions(gpt(block_size=16), TOKENIZER, QUESTIONS[:1], shots=2, pool=pool, seed=0)
    assert cut == 2


def test_examples_are_drawn_by_seed_and_never_the_question_itself():
    pool = [Question(f"Question {i}?", ("no", "yes"), i % 2) for i in range(8)]
    keys = [example.context.casefold() for example in pool]
    drawn = {(seed, i): [example.context for example in _draw(question, pool, keys, 3, seed, i)]
             for seed in range(20) for i, question in enumerate(pool)}
    assert drawn == {(seed, i): [example.context for example in _draw(question, pool, keys, 3, seed, i)]
                     for seed in range(20) for i, question in enumerate(pool)}
    assert all(len(set(found)) == 3 and f"Question {i}?" not in found for (_, i), found in drawn.items())
    assert len({tuple(_draw(QUESTIONS[0], pool, keys, 3, 0, i)) for i in range(9)}) > 5      # each question has examples of its own
    twin = Question("  QUESTION 3? ", ("no", "yes"), 0)     # the same but for upper case and blanks
    assert all(_draw(twin, pool, keys, 7, seed, 0) and "Question 3?" not in [e.context for e in _draw(twin, pool, keys, 7, seed, 0)]
               for seed in range(9))
    with pytest.raises(InputError, match="8 examples were asked for, there are 7 besides the question itself"):
        _draw(pool[0], pool, keys, 8, 0, 0)


GLUE = {        # the first lines of a file of each task, in the form in which it is published, and the answers
    "sst2": ("train.tsv", "sentence\tlabel\nhide new secretions from the units \t0\nit 's \"charming\" \t1\n", [0, 1]),
    "cola": ("dev.tsv", "gj04\t1\t\tThe sailors rode the breeze clear of the rocks.\nks08\t0\t*\tThey \"made him angry.\n", [1, 0]),
    "mrpc": ("msr_paraphrase_train.txt", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t702876\t702977\tAmrozi accused \"the witness\" .\t"
             "He accused \"the witness .\r\n0\t2108705\t2108831\tYucaipa owned it .\tIt was sold .\r\n", [1, 0]),
    "qnli": ("dev.tsv", "index\tquestion\tsentence\tlabel\n0\tWhat came?\tThe \"day\" came.\tentailment\n1\tWho?\tNobody.\tnot_entailment\n", [1, 0]),
    "rte": ("dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\tDana died.\tChristopher died.\tnot_entailment\n1\tA.\tB.\tentailment\n", [0, 1]),
    "stsb": ("dev.tsv", "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
             "0\tmain-captions\tMSRvid\t2012test\t0000\tnone\tnone\tA man dances.\tA man is dancing.\t5.000\n"
             "1\tmain-news\theadlines\t2013\t0002\tnone\tnone\tA child rides.\tA dog eats.\t1.250\n", [5.0, 1.25]),
    "boolq": ("val.jsonl", '{"question": "is it so", "passage": "It is -- so.", "idx": 0, "label": true}\n'
              '{"question": "is it", "passage": "No.", "idx": 1, "label": false}\n', [1, 0]),
    "cb": ("val.jsonl", '{"premise": "Valence.", "hypothesis": "so", "label": "contradiction", "idx": 0}\n'
           '{"premise": "P.", "hypothesis": "h", "label": "neutral", "idx": 1}\n'
           '{"premise": "P2.", "hypothesis": "h", "label": "entailment", "idx": 2}\n', [1, 2, 0]),
    "copa": ("val.jsonl", '{"premise": "The man turned on the faucet.", "choice1": "The toilet filled with water.", "choice2": '
             '"Water flowed.", "question": "effect", "label": 1, "idx": 0}\n{"premise": "The girl wept.", "choice1": "She fell.", '
             '"choice2": "She won.", "question": "cause", "label": 0, "idx": 1}\n', [1, 0]),
    "superglue_rte": ("val.jsonl", '{"premise": "Dana died.", "hypothesis": "C. died.", "label": "not_entailment", "idx": 0}\n'
                      '{"premise": "A.", "hypothesis": "B.", "label": "entailment", "idx": 1}\n', [0, 1]),
    "wic": ("val.jsonl", '{"word": "board", "sentence1": "Room and board.", "sentence2": "He nailed boards.", "idx": 0, "label": false, '
            '"start1": 9, "start2": 10, "end1": 14, "end2": 16, "version": 1.1}\n'
            '{"word": "go", "sentence1": "Go.", "sentence2": "I go.", "idx": 1, "label": true, "start1": 0, "start2": 2, "end1": 2, '
            '"end2": 4, "version": 1.1}\n', [0, 1]),
}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode("utf-8"))
    return path


def test_a_sample_for_every_task():
    assert GLUE.keys() == TASKS.keys()


@pytest.mark.parametrize("name", GLUE)
def test_files_of_tasks_are_read_as_they_are_published(tmp_path, name):
    file, content, answers = GLUE[name]
    questions = read_task(name, write(tmp_path, file, content))
    assert [question.answer for question in questions] == answers
    for question in questions:
        assert len(question.choices) > max(answers) and len(set(question.choices)) == len(question.choices)
        assert question.context == question.context.strip() and "None" not in question.context
    assert len({question.context for question in questions}) == len(questions)


def test_questions_are_asked_in_words(tmp_path):
    def first(name):
        return read_task(name, write(tmp_path, GLUE[name][0], GLUE[name][1]))[0]
    assert first("copa").context == "The man turned on the faucet so"
    assert first("copa").choices == ("the toilet filled with water.", "water flowed.")
    assert first("mrpc").context == 'Amrozi accused "the witness" .\nHe accused "the witness .\nDo both sentences say the same? Answer:'
    assert first("boolq").context == "It is -- so.\nQuestion: is it so?\nAnswer:" and first("boolq").choices == ("no", "yes")
    assert first("cb").choices[first("cb").answer] == "no"


@pytest.mark.parametrize("name, content, message", [
    ("sst2", "index\tsentence\n0\tno label in a test part\n", r":1: .*column 'label'"),
    ("sst2", "sentence\tlabel\ngood\t1\nbad\t2\n", r":3: label must be one of '0', '1', got \"2\""),
    ("sst2", "sentence\tlabel\ngood\t1\n \t0\n", r":3: sentence must not be empty"),
    ("sst2", "sentence\tlabel\ngood\t1\nbetter\t1\n", r": must have answers of at least two kinds, all 2 are 'positive'"),
    ("sst2", "sentence\tlabel\ngood 1\n", r":2: must have 2 columns"),
    ("sst2", "sentence\tlabel\n", "must hold records, it holds none"),
    ("cola", "gj04\t1\tno mark\n", r":1: must have 4 columns"),
    ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tneutral\n", r":2: label must be one of 'not_entailment', 'entailment'"),
    ("stsb", GLUE["stsb"][1].replace("5.000", "5.5"), r":2: score must be a number from 0 to 5, got \"5.5\""),
    ("stsb", GLUE["stsb"][1].replace("1.250", "nan"), r":3: score must be a number from 0 to 5"),
    ("stsb", GLUE["stsb"][1].replace("1.250", "5.0"), r"at least two kinds, all 2 are 5.0"),
    ("boolq", GLUE["boolq"][1].replace("true", "1"), r":1: label must be one of False, True, got 1"),
    ("boolq", GLUE["boolq"][1].replace('"idx": 1, "label": false', '"idx": 1'), r":2: must have a field 'label'"),
    ("copa", GLUE["copa"][1].replace('"label": 0', '"label": false'), r":2: label must be one of 0, 1, got false"),
    ("copa", GLUE["copa"][1].replace("effect", "result"), r":1: question must be one of 'cause', 'effect', got \"result\""),
    ("wic", GLUE["wic"][1].replace('"word": "go",', '"word": "go"'), r":2: must be a JSON object in one line"),
    ("wic", GLUE["wic"][1].replace('"word": "go",', '"word": 7,'), r":2: word must be a text, got 7"),
])
def test_bad_files_of_tasks_are_refused_with_their_line(tmp_path, name, content, message):
    path = write(tmp_path, GLUE[name][0], content)
    with pytest.raises(InputError, match=message) as error:
        read_task(name, path)
    assert str(error.value).startswith(str(path))


CHOICE = '{"question": "A whale is a", "choices": ["mammal", "fish"], "answer": 0}\n'


@pytest.mark.parametrize("line, message", [
    ('{"question": "q", "choices": ["a", "b"]}', "must have a field 'answer'"),
    ('{"question": "", "choices": ["a", "b"], "answer": 0}', "question must not be empty"),
    ('{"question": "q", "choices": ["a"], "answer": 0}', "at least two texts"),
    ('{"question": "q", "choices": ["a", " "], "answer": 0}', "none empty"),
    ('{"question": "q", "choices": "ab", "answer": 0}', "must be a list"),
    ('{"question": "q", "choices": ["a", "a "], "answer": 0}', "choices must differ"),
    ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "from 0 to 1, or be one of them, got 2"),
    ('{"question": "q", "choices": ["a", "b"], "answer": -1}', "got -1"),
    ('{"question": "q", "choices": ["a", "b"], "answer": true}', "got true"),
    ('{"question": "q", "choices": ["a", "b"], "answer": "c"}', 'got "c"'),
    ('{"question": "q", "choices": ["a", "b"], "answer": 0', "must be a JSON object in one line"),
    ('{"question": "q", "choices": ["a", "' + "xyz" * 30 + '"], "answer": 0}', "at most block_size=9 tokens"),
])
def test_bad_questions_are_refused_with_their_line_or_skipped(tmp_path, line, message):
    path = write(tmp_path, "q.jsonl", CHOICE + line + "\n" + CHOICE.replace("0}", '"fish"}'))
    check = checker(gpt(block_size=9), TOKENIZER)
    with pytest.raises(InputError, match=f"q.jsonl:2: .*{message}"):
        read_questions(path, check=check)
    skipped = []
    assert [question.answer for question in read_questions(path, check=check, skip_bad=True, skipped=skipped)] == [0, 1]
    assert len(skipped) == 1 and f"{path}:2: " in skipped[0]


def test_summary_and_table():
    def answer(right, *logprobs):
        return Answered(Question("?", ("no", "yes", "yesyes"), right), np.array(logprobs))
    answered = [answer(0, -1, -2, -3), answer(0, -1, -2, -3), answer(1, -3, -1, -5), answer(2, -2, -1, -1.5)]
    found = summarise(answered)
    assert found["raw"]["accuracy"]["value"] == 0.75 and found["by_bytes"]["accuracy"]["value"] == 1
    assert found["raw"]["accuracy"]["baseline"] == 0.5 == found["by_bytes"]["accuracy"]["baseline"]
    assert 0 <= found["raw"]["accuracy"]["low"] < 0.75 < found["raw"]["accuracy"]["high"] <= 1
    assert "0.7500" in table(found).splitlines()[1] and "accuracy, by bytes" in table(found)
    scored = [Answered(Question("?", tuple("012"), score), np.log(p)) for score, p in ((0.5, [0.6, 0.3, 0.1]), (2.0, [0.1, 0.1, 0.8]))]
    found = summarise(scored, TASKS["stsb"].metrics, scale=True)
    assert found.keys() == {"raw"} and found["raw"]["spearman"]["value"] == 1
    assert number(float("nan")) == "undefined"


def test_a_window_much_shorter_than_the_text():
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=200, vocab_size=11, attention="window", window=8), dtype=np.float64)
    ids = np.arange(151) % 11
    [found] = log_likelihoods(model, [(ids[:140].tolist(), ids[140:].tolist())])
    expected = model.logprobs(ids[None, :-1], ids[None, 1:])[0, 139:].sum()
    assert abs(found.logprob - expected) < 1e-9
