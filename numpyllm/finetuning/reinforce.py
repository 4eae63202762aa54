"""REINFORCE (Williams 1992): answers are drawn from the model, what earned more than expected becomes likelier. With a baseline, and
a penalty for moving away from the model that training began with: what RLHF does, small enough to watch.

Shapes: B sampled answers, each behind its prompt: ids, targets (B, T), reference (B, T), advantages (B). Derivation:
docs/policy_gradient.md.
"""

from typing import NamedTuple

import numpy as np

from ..data import read_records, text_field
from ..data.permutation import shuffled
from ..errors import InputError
from ..inference import Continuation, Sampling, TextStream, continue_many, make_decoder
from ..ops import policy_gradient_backward, policy_gradient_forward
from ..workspace import mark, release
from .packing import filled_up

BASELINES = ("leave_one_out", "mean", "none")


class Prompt(NamedTuple):
    text: str
    ids: list


class Reinforce:
    """What a Trainer minimises (Replicas says what that must have). kl: weight of the penalty. One step on each batch: an answer is of
    use only to the model that it was drawn from. Dropout should be 0, for answers are drawn without it."""

    def __init__(self, model, *, kl=0.0):
        if not 0 <= kl < np.inf:
            raise InputError(f"the weight of the KL penalty must be at least 0, got {kl!r}")
        self.model, self.kl = model, kl

    @property
    def parameters(self):
        return self.model.parameters

    def replica(self, parameters):
        return Reinforce(self.model.replica(parameters), kl=self.kl)

    def count(self, ids, targets, reference, advantages):
        """Answers: an estimate for each of them is averaged, whatever its length."""
        return len(ids)

    def loss(self, ids, targets, reference, advantages):
        """-> sum of a loss whose gradient alone has a meaning (ops/preference.py), answers."""
        logprobs = self.model.logprobs(ids, targets)
        return policy_gradient_forward(logprobs, reference, advantages, targets != -1, kl=self.kl)[0], len(ids)

    def loss_and_gradients(self, ids, targets, reference, advantages, *, scale=None, draws=None):
        """As loss, and contributes scale * its gradient to parameters.grad; scale None is 1 / answers."""
        height, scale = mark(), 1 / len(ids) if scale is None else scale
        logprobs, cache = self.model.logprobs_forward(ids, targets, draws=draws)                                        # (1)
        loss, c_policy = policy_gradient_forward(logprobs, reference, advantages, targets != -1, kl=self.kl)            # (2)
        self.model.logprobs_backward(policy_gradient_backward(scale, c_policy), cache)                                  # (2) (1)
        release(height)
        return loss, len(ids)


def read_prompts(path, form, most, *, skip_bad=False, skipped=None):
    """The prompts of a file with a field `prompt` (others are not read): a list of Prompt, each only once.

    most: tokens that a prompt may have, as it is written. skip_bad, skipped, and InputError with the line of the file: as
    data.read_records.
    """
    def parse(fields):
        prompt = text_field(fields, "prompt")
        ids = form.prompt_ids(prompt)
        if len(ids) > most:
            raise InputError(f"a prompt must leave room for an answer: it may have {most} tokens, it has {len(ids)}")
        return Prompt(prompt, ids)

    return list({prompt.text: prompt for prompt in read_records(path, parse, columns=("prompt",), skip_bad=skip_bad, skipped=skipped)}.values())


class Answer(NamedTuple):
    """What a model drew."""

    prompt: list            # ids
    tokens: list            # ids, the end among them if it was reached
    text: str               # without the end
    ended: bool             # False: it was cut off


def sample_answers(model, prompts, form, max_new_tokens, *, seed, **sampling):
    """An Answer to each of these Prompts, drawn side by side; by default from the model itself: temperature 1, nothing left out.

    Answer i draws as index i of the seed. sampling: the fields of Sampling.
    """
    end, tokenizer = form.ending, form.tokenizer
    texts = [Continuation(prompt.ids, max_new_tokens, seed=seed, index=i, stop_token=end.token, n_vocab=tokenizer.n_vocab,
                          sampling=Sampling(**sampling)) for i, prompt in enumerate(prompts)]
    streams, said = [TextStream(tokenizer, end.stops) for _ in texts], [""] * len(texts)

    def over(i):
        said[i] += streams[i].feed(texts[i].tokens[-1])
        return streams[i].stopped

    with make_decoder(model, sequences=len(texts)) as decoder:
        continue_many(decoder, texts, over=over)
    return [Answer(text.prompt, text.tokens + ([end.token] if text.finish_reason == "stop" and end.token is not None else []),
                   begun + stream.flush(), text.finish_reason == "stop")
            for text, begun, stream in zip(texts, said, streams, strict=True)]


def advantages(rewards, answers_each, baseline):
    """rewards (B), the answers to one prompt side by side -> (B): rewards less what was to be expected.

    leave_one_out: the mean reward of the other answers to the same prompt (Kool et al. 2019). mean: the mean of the whole batch.
    none: 0. Only a baseline that an answer has no part in leaves the estimate unbiased; `mean` shrinks it by 1 - 1 / B.
    """
    if baseline == "none":
        return rewards
    if baseline == "mean":
        return rewards - rewards.mean()
    groups = rewards.reshape(-1, answers_each)
    others = (groups.sum(axis=1, keepdims=True) - groups) / (answers_each - 1)
    return (groups - others).reshape(-1)


class Measured(NamedTuple):
    """Of some answers, means."""

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
    """Batches for a Trainer that are made by asking the model, as it is now: source(step, micro) -> ids, targets, reference,
    advantages. A function of seed, step and parameters.

    model, reference    the model that is trained, and the one to stay near (not the same arrays)
    prompts             a list of Prompt; each step takes the next ones of a shuffled row
    reward              (prompts, answers), two lists of texts -> (N) numbers
    form                how they are written for this model (preferences.Form)
    batch_size          answers in a batch: batch_size / answers_each prompts
    baseline            one of BASELINES (see advantages)
    Raises InputError for sizes that do not fit together, and for rewards that are no numbers.
    """

    def __init__(self, model, reference, prompts, reward, form, *, batch_size, seed, answers_each=4, max_new_tokens=32,
                 baseline="leave_one_out", micro_batches=1):
        if baseline not in BASELINES:
            raise InputError(f"baseline must be one of {', '.join(BASELINES)}, got {baseline!r}")
        if answers_each < 1 or batch_size % answers_each:
            raise InputError(f"batch_size counts answers, {answers_each} to a prompt: it must be a multiple of that, got {batch_size}")
        if baseline == "leave_one_out" and answers_each == 1:
            raise InputError("the baseline leave_one_out needs at least 2 answers to a prompt, got 1: ask for more, or for the baseline mean")
        if max_new_tokens < 1 or max(len(prompt.ids) for prompt in prompts) + max_new_tokens > model.config.block_size:
            raise InputError(f"max_new_tokens must be at least 1, and behind the longest prompt, of {max(len(p.ids) for p in prompts)} tokens, fit "
                             f"into block_size={model.config.block_size}, got {max_new_tokens}")
        self.model, self.reference, self.prompts, self.reward, self.form = model, reference, prompts, reward, form
        self.batch_size, self.seed, self.answers_each, self.max_new_tokens = batch_size, seed, answers_each, max_new_tokens
        self.baseline, self.micro_batches = baseline, micro_batches
        self.measured = None        # of the last batch

    def __call__(self, step, micro=0):
        n = self.batch_size // self.answers_each
        places = shuffled((step * self.micro_batches + micro) * n, n, len(self.prompts), self.seed, "prompts")
        asked = [self.prompts[place] for place in np.repeat(places, self.answers_each)]
        ids, targets, reference, rewards = self._ask(asked, f"{self.seed}/answers/{step}/{micro}")
        return ids, targets, reference, advantages(rewards, self.answers_each, self.baseline).astype(reference.dtype)

    def evaluate(self, kl):
        """Evaluation: an answer to each prompt, with the same draws each time; kl is the weight of the penalty."""
        total = np.zeros(len(Measured._fields))
        for first in range(0, len(self.prompts), self.batch_size):
            self._ask(self.prompts[first:first + self.batch_size], f"{self.seed}/evaluation/{first}")
            total += np.array(self.measured) * len(self.prompts[first:first + self.batch_size])
        return Evaluation(Measured(*(total / len(self.prompts)).tolist()), kl)

    def metrics(self):
        """Of the last batch, for the log."""
        return self.measured.metrics("train")

    def _ask(self, prompts, seed):
        """-> ids, targets, reference (B, T), rewards (B): of an answer to each prompt."""
        answers = sample_answers(self.model, prompts, self.form, self.max_new_tokens, seed=seed)
        rewards = np.asarray(self.reward([prompt.text for prompt in prompts], [answer.text for answer in answers]), np.float64)
        if rewards.shape != (len(answers),) or not np.isfinite(rewards).all():
            raise InputError(f"a reward must give a finite number for each of {len(answers)} answers, got {rewards}")
        ids, targets = answer_rows(answers)
        reference, logprobs = self.reference.logprobs(ids, targets), self.model.logprobs(ids, targets)
        counted, log_ratio = targets != -1, (reference - logprobs).astype(np.float64)
        with np.errstate(over="ignore"):
            kl = float((np.expm1(log_ratio) - log_ratio).sum()) / len(answers)
        self.measured = Measured(float(rewards.mean()), kl,
                                 float(-logprobs.sum(dtype=np.float64) / counted.sum()), float(counted.sum() / len(answers)),
                                 float(np.mean([answer.ended for answer in answers])))
        return ids, targets, reference, rewards


class Evaluation(NamedTuple):
    measured: Measured
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
    """Answers -> ids, targets (B, T): all that the model chose is asked for, the end too where it chose that."""
    return (filled_up([[*answer.prompt, *answer.tokens][:-1] for answer in answers], 0),
            filled_up([[-1] * (len(answer.prompt) - 1) + answer.tokens for answer in answers], -1))
