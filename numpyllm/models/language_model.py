"""What every model that predicts the next token has, whatever its trunk is made of: losses, gradients,
log-probabilities, decoding.

    ids (B, T) -> trunk (B, T, C) -> head (B, T, V)
"""

import numpy as np

from ..errors import InputError
from ..workspace import mark, release
from .trunk import check_range


class LanguageModel:
    """What a Trunk has besides if its `head` (layers.Head) predicts the next token. A model inherits from
    both and adds, to decode,

        past(sequences=1)       what is to be remembered of so many sequences, before their first token
        trunk_step(ids, past)   everything below the head for ids (B, T), the next T tokens of each sequence, however
                                many fit into the model -> h (B, T, C). past takes them in: its lengths grow by T

    ids (B, T); targets (B, T), -1 where nothing is asked; starts (B, T) as for Trunk.
    """

    def forward(self, ids, draws=None, starts=None):
        """ids (B, T) -> logits (B, T, V), cache. Dropout acts only when Draws are given."""
        h, cache = self._trunk(ids, draws, starts)
        logits, c_head = self.head.forward(h)
        return logits, cache._replace(head=c_head)

    def backward(self, dlogits, cache):
        """dlogits (B, T, V) -> nothing; contributes to parameters.grad, as loss_and_gradients does."""
        self._trunk_backward(self.head.backward(dlogits, cache.head), cache)

    def loss(self, ids, targets, starts=None):
        """-> sum of the loss in nats, number of counted targets."""
        targets, height = self._checked_targets(ids, targets), mark()
        loss = self.head.loss(self._hidden(ids, starts), targets)
        release(height)
        return loss

    def count(self, ids, targets, starts=None):
        """How many targets are counted: what the sum of the loss is divided by."""
        return int((targets != -1).sum())

    def logprobs(self, ids, targets, starts=None):
        """-> log-probabilities of the targets (B, T), in nats, 0 where a target is -1."""
        targets, height = self._checked_targets(ids, targets), mark()
        logprobs = self.head.logprobs(self._hidden(ids, starts), targets)
        release(height)
        return logprobs

    def logprobs_forward(self, ids, targets, starts=None, *, draws=None):
        """As logprobs -> logprobs (B, T), cache."""
        targets = self._checked_targets(ids, targets)
        h, cache = self._trunk(ids, draws, starts)
        logprobs, c_head = self.head.logprobs_forward(h, targets)
        return logprobs, cache._replace(head=c_head)

    def logprobs_backward(self, dlogprobs, cache):
        """dlogprobs (B, T) -> nothing; contributes to parameters.grad."""
        self._trunk_backward(self.head.logprobs_backward(dlogprobs, cache.head), cache)

    def loss_and_gradients(self, ids, targets, starts=None, *, scale=None, draws=None):
        """As loss, and contributes scale * d(sum)/d(parameters) to parameters.grad; scale None
        is 1 / count, the mean's.

        A step begins with parameters.clear_gradients() and ends with settle_gradients(): in between the first
        contribution to a gradient overwrites, later ones add.

        What is returned is the loss alone, what is differentiated is `objective`: the same, but
        with a mixture of experts.
        """
        targets = self._checked_targets(ids, targets)
        if scale is None:
            scale = 1 / max(1, self.count(ids, targets))
        h, cache = self._trunk(ids, draws, starts)
        loss, count, dh = self.head.loss_forward_backward(h, targets, scale)
        self._trunk_backward(dh, cache, scale)
        return loss, count

    def objective(self, ids, targets):
        """Of what loss_and_gradients gives the gradients, times scale: the sum of the loss, and
        what blocks add to it."""
        return self.loss(ids, targets)[0]

    def step(self, ids, past):
        """ids (B, T), the next T tokens of each sequence -> logits (B, T, V), those that `forward`
        gives for whole sequences.

        past, of B sequences, takes the tokens in. Raises InputError where they would not fit into the model.
        """
        return self.head.step(self.trunk_step(ids, past), None)

    def toy_batch(self):
        """A batch for `loss` of a model that knows at least two tokens: for who wants its kernels compiled."""
        ids = np.ones((2, 3), np.int64)
        return ids, ids

    def _checked_targets(self, ids, targets):
        targets = np.asarray(targets)
        if targets.shape != np.shape(ids) or not np.issubdtype(targets.dtype, np.integer):
            raise InputError(f"targets must be integers shaped like ids {np.shape(ids)}, got {targets.dtype} of "
                             f"shape {targets.shape}")
        check_range("targets", targets, -1, self.config.vocab_size)
        return targets
