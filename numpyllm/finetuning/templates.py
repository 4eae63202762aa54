"""How an instruction is written down for a model, and where its answer begins and ends: the same in
training and afterwards.

    prompt | answer, end | prompt of the next question | answer, end | ...

Prompt and answer are encoded apart from each other, so no token lies across the border: a model that continues the
ids of a prompt stands where it stood in training. docs/instruction_tuning.md says why.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import InputError

STOP = "\n###"
ROLES = ("system", "user", "assistant")


class Message(NamedTuple):
    """What somebody said."""

    role: str               # of ROLES
    content: str
    input: str = ""         # what a user's instruction is about, if that is given apart


class Turn(NamedTuple):
    """An answer, and all that is new to the model before it."""

    prompt: str
    answer: str


class Ending(NamedTuple):
    """What follows an answer."""

    ids: list
    token: int | None       # the same where it is one token that is no text: generation ends there
    stops: tuple            # else the text


@dataclass(frozen=True)
class Template:
    """Texts in which {instruction}, {input} and {content} are replaced.

    An answer ends with the special token spelt like `stop`; if the tokenizer has none, with <|endoftext|>; without
    that, with `stop` as text.
    """

    question: str
    question_with_input: str
    answer: str             # what comes right before an answer
    stop: str = STOP
    between: str = "\n"     # between the end of an answer and the next question
    system: str = "{content}\n\n"
    opening: str = ""       # comes first, unless there is a system message
    opening_with_input: str = ""

    def prompt(self, instruction, input=""):
        """What a model is to continue with an answer."""
        return self.turns([Message("user", instruction, input), Message("assistant", "")])[0].prompt

    def turns(self, messages):
        """Messages -> a Turn for each answer. InputError for roles, or an order of them, that a conversation
        with answers has not."""
        check_order(messages)
        turns, prompt = [], ""
        for message in messages:
            if message.role == "system":
                prompt = self.system.format(content=message.content)
            elif message.role == "assistant":
                turns.append(Turn(prompt + self.answer, message.content))
                prompt = self.between
            else:
                opening, question = ((self.opening_with_input, self.question_with_input) if message.input
                                     else (self.opening, self.question))
                prompt = (prompt or opening) + question.format(instruction=message.content, input=message.input)
        return turns


TASK = "Below is an instruction that describes a task"
WRITE = "Write a response that appropriately completes the request.\n\n"

TEMPLATES = {
    # few tokens: for small models
    "plain": Template(question="### {instruction}\n", question_with_input="### {instruction}\n{input}\n",
                      answer="###\n"),
    # Taori et al. 2023, to the letter
    "alpaca": Template(opening=f"{TASK}. {WRITE}",
                       opening_with_input=f"{TASK}, paired with an input that provides further context. {WRITE}",
                       question="### Instruction:\n{instruction}\n\n", answer="### Response:\n", between="\n\n",
                       question_with_input="### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"),
    # OpenAI's ChatML; its markers are tokens where the tokenizer has such
    "chat": Template(system="<|im_start|>system\n{content}<|im_end|>\n",
                     question="<|im_start|>user\n{instruction}<|im_end|>\n",
                     question_with_input="<|im_start|>user\n{instruction}\n\n{input}<|im_end|>\n",
                     answer="<|im_start|>assistant\n", stop="<|im_end|>"),
}


def check_order(messages):
    """InputError unless questions and answers alternate, after one system message at most, and
    an answer is the last."""
    expected = ("system", "user")
    for number, (role, *_) in enumerate(messages, 1):
        if role not in ROLES:
            raise InputError(f"a role must be {', '.join(ROLES[:-1])} or {ROLES[-1]}, got {role!r} in message {number}")
        if role not in expected:
            raise InputError(f"message {number} must be of {' or '.join(expected)}, got {role}: questions and "
                             "answers take turns")
        expected = ("assistant",) if role == "user" else ("user",)
    if not messages or messages[-1].role != "assistant":
        raise InputError("the last message must be the assistant's: it is what is learnt")


def ending(tokenizer, stop=STOP):
    """The Ending of answers for this tokenizer and a template's `stop`."""
    token = tokenizer.special_tokens.get(stop, tokenizer.eot_token)
    return Ending(tokenizer.encode_ordinary(stop), None, (stop,)) if token is None else Ending([token], token, ())


def encode_answer(prompt, answer, tokenizer, block_size, *, stop=STOP, truncate=False):
    """One prompt and its answer -> ids (T), targets (T): as encode_turns."""
    return encode_turns([Turn(prompt, answer)], tokenizer, block_size, stop=stop, truncate=truncate)


def encode_turns(turns, tokenizer, block_size, *, stop=STOP, truncate=False):
    """Turns -> ids (T), targets (T), int64: the target of a token is the next one if that belongs to an
    answer or its end, else -1.

    In prompts special tokens are recognised, in answers there must be none. InputError for empty texts, an answer
    that contains what ends it, and more than block_size tokens; with `truncate` these are cut off instead, with
    the end of the answer, so that nobody learns to end there, but some answer must be left.
    """
    ids, asked = [], []
    end = ending(tokenizer, stop)
    for prompt, answer in turns:
        if not prompt or not answer:
            raise InputError(f"prompt and answer must not be empty, got {prompt!r} and {answer!r}")
        if any(text in answer for text in end.stops):
            raise InputError(f"an answer must not contain {stop!r}, with which it ends, as the tokenizer has no token for that")
        before = tokenizer.encode(prompt, allowed_special="all", begin=not ids)
        said = tokenizer.encode(answer, begin=False) + end.ids
        ids += before + said
        asked += [False] * len(before) + [True] * len(said)
    if len(ids) - 1 > block_size:
        if not truncate:
            raise InputError(f"prompt and answer must fit into the context of {block_size} tokens, they have "
                             f"{len(ids) - 1}: shorten them, or have them truncated or skipped")
        ids, asked = ids[:block_size + 1], asked[:block_size + 1]
        if not any(asked):
            raise InputError(f"the prompt alone has more than the {block_size} tokens of the context: nothing of "
                             "the answer is left")
    ids = np.array(ids, np.int64)
    return ids[:-1], np.where(asked, ids, -1)[1:]
