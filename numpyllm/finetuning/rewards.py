"""Rewards that are functions of the answer, for rollouts.py: what is asked for can be seen at a glance,
and so can how it is met.

A reward is called with prompts and answers, two lists of texts, and gives a number for each, (N) float64.
These here look at one answer at a time, and at nothing but its letters: a model may learn to please them
without saying anything.
"""

import difflib
import keyword

import numpy as np

from ..errors import InputError


def lower_case(answer):
    """The share of letters that are small."""
    letters = [c for c in answer if c.isalpha()]
    return sum(c.islower() for c in letters) / len(letters) if letters else 0.0


def full_stop(answer):
    """1 if it ends in a full stop."""
    return float(answer.rstrip().endswith("."))


def identifier(answer):
    """1 if it is a name that Python would take."""
    name = answer.strip()
    return float(name.isidentifier() and not keyword.iskeyword(name))


def length(answer, target):
    """1 for that many characters, less by one for each `target` that it is longer or shorter."""
    return 1 - abs(len(answer.strip()) - target) / target


def contains(answer, word):
    """1 if this is in it, in small letters or large ones."""
    return float(word.casefold() in answer.casefold())


PLAIN = {"lower_case": lower_case, "full_stop": full_stop, "identifier": identifier}
WITH_ARGUMENT = {"length": (length, int), "contains": (contains, str)}
NAMES = (*PLAIN, *(f"{name}:{'N' if kind is int else 'WORD'}" for name, (_, kind) in WITH_ARGUMENT.items()))


class FunctionReward:
    """A reward from a function of one answer: answer -> a number."""

    def __init__(self, function):
        self.function = function

    def __call__(self, prompts, answers):
        return np.array([self.function(answer) for answer in answers], np.float64)


def reward_function(name):
    """The reward of this name, one of NAMES: lower_case, length:40, contains:return. InputError for others."""
    stem, colon, argument = name.partition(":")
    if stem in PLAIN and not colon:
        return FunctionReward(PLAIN[stem])
    if stem in WITH_ARGUMENT:
        function, kind = WITH_ARGUMENT[stem]
        valid = argument.isdecimal() and int(argument) > 0 if kind is int else argument
        if not valid:
            what = "a positive number of characters" if kind is int else "a word"
            raise InputError(f"the reward {stem} must be told {what}, such as "
                             f"{stem}:{40 if kind is int else 'return'}, got {name!r}")
        value = kind(argument)
        return FunctionReward(lambda answer: function(answer, value))
    near = difflib.get_close_matches(stem, (*PLAIN, *WITH_ARGUMENT), n=1)
    raise InputError(f"{name} is no reward: "
                     + (f"did you mean {near[0]}?" if near
                        else f"there are {', '.join(NAMES)}, or a reward model's folder"))
