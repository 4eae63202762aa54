"""Rollouts: answers that are drawn from a model while it is trained by their rewards (reinforce.py), and
what is to be said of them.

Shapes: B sampled answers, each behind its prompt: ids, targets (B, T), reference (B, T), advantages (B).
"""

from typing import NamedTuple

import numpy as np

from ..data.permutation import shuffled
from ..errors import InputError
from .answers import sample_answers
from .packing import filled_up
from .reinforce import BASELINES, advantages


class AnswerMeans(NamedTuple):
    """Means of what was measured of some answers."""

    reward: float
    kl: float               # nats an answer: k3's estimate of KL(model || reference), summed over its tokens
    entropy: float          # nats a token: minus the log-probability of what was drawn
    tokens: float           # of an answer, its end among them
    ended: float            # share that came to an end by themselves

    def __str__(self):
        return (f"reward {self.reward:.4f}, KL {self.kl:.3f} nats an answer, entropy {self.entropy:.3f} nats a token, "
                f"{self.tokens:.1f} tokens, {self.ended:.0%} ended")

    def metrics(self, prefix):
        return {f"{prefix}/{name}": value for name, value in self._asdict().items()}


class Rollouts:
    """Batches for a Trainer that are made by asking the model, as it is now: source(step, micro) -> ids, targets,
    reference, advantages. A function of seed, step and parameters.

    model, reference    the model that is trained, and the one to stay near (not the same arrays)
    prompts             a list of Prompt; each step takes the next ones of a shuffled row
    reward              (prompts, answers), two lists of texts -> (N) numbers
    form                how they are written for this model (prompts.Form)
    batch_size          answers in a batch: batch_size / answers_each prompts
    baseline            one of BASELINES (see advantages)
    Raises InputError for sizes that do not fit together, and for rewards that are no numbers.
    """

    def __init__(self, model, reference, prompts, reward, form, *, batch_size, seed, answers_each=4, max_new_tokens=32,
                 baseline="leave_one_out", micro_batches=1):
        if baseline not in BASELINES:
            raise InputError(f"baseline must be one of {', '.join(BASELINES)}, got {baseline!r}")
        if answers_each < 1 or batch_size % answers_each:
            raise InputError(f"batch_size counts answers, {answers_each} to a prompt: it must be a multiple of "
                             f"that, got {batch_size}")
        if baseline == "leave_one_out" and answers_each == 1:
            raise InputError("the baseline leave_one_out needs at least 2 answers to a prompt, got 1: ask for "
                             "more, or for the baseline mean")
        if max_new_tokens < 1 or max(len(prompt.ids) for prompt in prompts) + max_new_tokens > model.config.block_size:
            raise InputError("max_new_tokens must be at least 1, and behind the longest prompt, of "
                             f"{max(len(p.ids) for p in prompts)} tokens, fit into "
                             f"block_size={model.config.block_size}, got {max_new_tokens}")
        self.model, self.reference, self.prompts, self.reward, self.form = model, reference, prompts, reward, form
        self.batch_size, self.seed, self.answers_each = batch_size, seed, answers_each
        self.max_new_tokens, self.baseline, self.micro_batches = max_new_tokens, baseline, micro_batches
        self.measured = None        # of the last batch

    def __call__(self, step, micro=0):
        n = self.batch_size // self.answers_each
        places = shuffled((step * self.micro_batches + micro) * n, n, len(self.prompts), self.seed, "prompts")
        asked = [self.prompts[place] for place in np.repeat(places, self.answers_each)]
        ids, targets, reference, rewards = self._ask(asked, f"{self.seed}/answers/{step}/{micro}")
        return ids, targets, reference, advantages(rewards, self.answers_each, self.baseline).astype(reference.dtype)

    def evaluate(self, kl):
        """RolloutEvaluation: an answer to each prompt, with the same draws each time; kl is the
        weight of the penalty."""
        total = np.zeros(len(AnswerMeans._fields))
        for first in range(0, len(self.prompts), self.batch_size):
            self._ask(self.prompts[first:first + self.batch_size], f"{self.seed}/evaluation/{first}")
            total += np.array(self.measured) * len(self.prompts[first:first + self.batch_size])
        return RolloutEvaluation(AnswerMeans(*(total / len(self.prompts)).tolist()), kl)

    def metrics(self):
        """Of the last batch, for the log."""
        return self.measured.metrics("train")

    def _ask(self, prompts, seed):
        """-> ids, targets, reference (B, T), rewards (B): of an answer to each prompt."""
        answers = sample_answers(self.model, prompts, self.form, self.max_new_tokens, seed=seed)
        rewards = np.asarray(self.reward([prompt.text for prompt in prompts], [answer.text for answer in answers]),
                             np.float64)
        if rewards.shape != (len(answers),) or not np.isfinite(rewards).all():
            raise InputError(f"a reward must give a finite number for each of {len(answers)} answers, got {rewards}")
        ids, targets = answer_rows(answers)
        reference, logprobs = self.reference.logprobs(ids, targets), self.model.logprobs(ids, targets)
        counted, log_ratio = targets != -1, (reference - logprobs).astype(np.float64)
        with np.errstate(over="ignore"):
            kl = float((np.expm1(log_ratio) - log_ratio).sum()) / len(answers)
        self.measured = AnswerMeans(reward=float(rewards.mean()), kl=kl,
                                    entropy=float(-logprobs.sum(dtype=np.float64) / counted.sum()),
                                    tokens=float(counted.sum() / len(answers)),
                                    ended=float(np.mean([answer.ended for answer in answers])))
        return ids, targets, reference, rewards


class RolloutEvaluation(NamedTuple):
    measured: AnswerMeans
    kl: float               # weight of the penalty

    @property
    def loss(self):
        """What training is to make small: minus the reward, and the penalty."""
        return self.kl * self.measured.kl - self.measured.reward

    def __str__(self):
        return f"held-out prompts: {self.measured}"

    def metrics(self):
        return {"val/loss": self.loss} | self.measured.metrics("val")


def answer_rows(answers):
    """SampledAnswers -> ids, targets (B, T): all that the model chose is asked for, the end
    too where it chose that."""
    return (filled_up([[*answer.prompt, *answer.tokens][:-1] for answer in answers], 0),
            filled_up([[-1] * (len(answer.prompt) - 1) + answer.tokens for answer in answers], -1))
