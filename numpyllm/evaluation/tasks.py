"""Tasks of GLUE (Wang et al. 2018) and SuperGLUE (Wang et al. 2019): their files as they are published, asked as multiple choice.

GLUE comes as .tsv without quoting, where CoLA has no header; SuperGLUE as .jsonl. The files of the test parts have no labels. The
words of the questions are ours: another wording gives another figure.
"""

from typing import Callable, NamedTuple

from ..data import read_records, text_field
from ..errors import InputError
from ..files import short
from .choice import Question
from .metrics import accuracy, f1, macro_f1, matthews, pearson, spearman

NO_YES = ("no", "yes")
ENTAILMENT = {"not_entailment": 0, "entailment": 1}


class Task(NamedTuple):
    columns: tuple          # that a record must have
    question: Callable      # fields -> Question
    metrics: dict           # {name: function of right answers and predictions}
    kind: str = ".tsv"
    header: tuple | None = None     # names of the columns where the file has none
    scale: bool = False     # the answer is a score, predicted as Answered.expected


def read_task(name, path, *, check=lambda question: None, skip_bad=False, skipped=None):
    """Questions from a file of a task. check, skip_bad, skipped and errors: those of read_questions; InputError, too, for answers
    that are all the same: no metric means anything then."""
    task = TASKS[name]

    def parse(fields):
        question = task.question(fields)
        check(question)
        return question
    questions = read_records(path, parse, columns=task.columns, header=task.header, kind=task.kind, skip_bad=skip_bad, skipped=skipped)
    answers = {question.answer for question in questions}
    if len(answers) == 1:
        [only] = answers
        what = only if task.scale else repr(questions[0].choices[only])
        raise InputError(f"{path}: must have answers of at least two kinds, all {len(questions)} are {what}")
    return questions


def _label(fields, known, name="label"):
    """The number of a label, by {label: number}. InputError for any other."""
    value = fields[name]
    value = value.strip() if isinstance(value, str) else value
    for label, number in known.items():
        if value == label and type(value) is type(label):       # in Python 1 == True
            return number
    raise InputError(f"{name} must be one of {', '.join(map(repr, known))}, got {short(value)}")


def _sst2(fields):
    return Question(f"{text_field(fields, 'sentence')}\nIs this review negative or positive? Answer:", ("negative", "positive"),
                    _label(fields, {"0": 0, "1": 1}))


def _cola(fields):
    return Question(f"{text_field(fields, 'sentence')}\nIs this sentence good English? Answer:", NO_YES, _label(fields, {"0": 0, "1": 1}))


def _mrpc(fields):
    return Question(f"{text_field(fields, '#1 String')}\n{text_field(fields, '#2 String')}\nDo both sentences say the same? Answer:",
                    NO_YES, _label(fields, {"0": 0, "1": 1}, "Quality"))


def _qnli(fields):
    return Question(f"{text_field(fields, 'sentence')}\nDoes this answer the question: {text_field(fields, 'question')} Answer:",
                    NO_YES, _label(fields, ENTAILMENT))


def _entails(premise, hypothesis):
    def question(fields):
        return Question(f"{text_field(fields, premise)}\nDoes it follow that: {text_field(fields, hypothesis)} Answer:", NO_YES,
                        _label(fields, ENTAILMENT))
    return question


def _stsb(fields):
    try:
        score = float(fields["score"])
    except ValueError:
        score = float("nan")
    if not 0 <= score <= 5:
        raise InputError(f"score must be a number from 0 to 5, got {short(fields['score'])}")
    return Question(f"{text_field(fields, 'sentence1')}\n{text_field(fields, 'sentence2')}\nHow alike are they, from 0 to 5? Answer:",
                    tuple("012345"), score)


def _boolq(fields):
    return Question(f"{text_field(fields, 'passage')}\nQuestion: {text_field(fields, 'question')}?\nAnswer:", NO_YES,
                    _label(fields, {False: 0, True: 1}))


def _cb(fields):
    return Question(f"{text_field(fields, 'premise')}\nDoes it follow that: {text_field(fields, 'hypothesis')} Yes, no, or unknown? Answer:",
                    ("yes", "no", "unknown"), _label(fields, {"entailment": 0, "contradiction": 1, "neutral": 2}))


def _copa(fields):
    word = ("because", "so")[_label(fields, {"cause": 0, "effect": 1}, "question")]
    choices = tuple(choice[0].lower() + choice[1:] for choice in (text_field(fields, "choice1"), text_field(fields, "choice2")))
    return Question(f"{text_field(fields, 'premise').rstrip('.')} {word}", choices, _label(fields, {0: 0, 1: 1}))


def _wic(fields):
    return Question(f"{text_field(fields, 'sentence1')}\n{text_field(fields, 'sentence2')}\nDoes \"{text_field(fields, 'word')}\" mean the "
                    "same in both sentences? Answer:", NO_YES, _label(fields, {False: 0, True: 1}))


ACCURACY = {"accuracy": accuracy}
TASKS = {
    "sst2": Task(("sentence", "label"), _sst2, ACCURACY),
    "cola": Task(("label", "sentence"), _cola, {"matthews": matthews} | ACCURACY, header=("source", "label", "mark", "sentence")),
    "mrpc": Task(("Quality", "#1 String", "#2 String"), _mrpc, ACCURACY | {"f1": f1}),
    "qnli": Task(("question", "sentence", "label"), _qnli, ACCURACY),
    "rte": Task(("sentence1", "sentence2", "label"), _entails("sentence1", "sentence2"), ACCURACY),
    "stsb": Task(("sentence1", "sentence2", "score"), _stsb, {"pearson": pearson, "spearman": spearman}, scale=True),
    "boolq": Task(("question", "passage", "label"), _boolq, ACCURACY, ".jsonl"),
    "cb": Task(("premise", "hypothesis", "label"), _cb, ACCURACY | {"macro_f1": macro_f1}, ".jsonl"),
    "copa": Task(("premise", "choice1", "choice2", "question", "label"), _copa, ACCURACY, ".jsonl"),
    "superglue_rte": Task(("premise", "hypothesis", "label"), _entails("premise", "hypothesis"), ACCURACY, ".jsonl"),
    "wic": Task(("word", "sentence1", "sentence2", "label"), _wic, ACCURACY, ".jsonl"),
}
