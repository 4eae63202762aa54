"""Is the loss of this step a spike? Rules and their sources: docs/loss_spikes.md."""

import math
from collections import deque

FLOOR = 0.01        # of the mean: the least standard deviation, or each ripple of a flat loss would be a spike


class SpikeMonitor:
    """Compares each loss with those of the last `window` steps that were no spikes.

    A loss is a spike if it lies more than `threshold` standard deviations above their mean (none before there are `window`
    of them; threshold 0: never). A loss or gradient norm that is not finite is one too, from the first step on.
    """

    def __init__(self, *, threshold, window):
        self.threshold = threshold
        self.losses = deque(maxlen=window)
        self.in_a_row = 0               # spikes without a good step between them
        self.first = None               # step of the first of these

    def z_score(self, loss):
        """Standard deviations above the mean of the window; 0 until it is full."""
        n = len(self.losses)
        if n < self.losses.maxlen:
            return 0.0
        mean = math.fsum(self.losses) / n
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in self.losses) / n)
        return (loss - mean) / max(deviation, FLOOR * abs(mean), 1e-12)

    def allows(self, loss, grad_norm):
        """Whether to update the model from this step. Changes nothing, so several threads may ask."""
        if not math.isfinite(loss + grad_norm):
            return False
        return not self.threshold or self.z_score(loss) <= self.threshold

    def record(self, step, loss, allowed):
        """Take in what became of step number `step`."""
        if allowed:
            self.losses.append(loss)
            self.in_a_row, self.first = 0, None
        else:
            self.first = step if self.in_a_row == 0 else self.first
            self.in_a_row += 1

    def state(self):
        """What json can hold; restore() takes it back to the bit."""
        return {"losses": list(self.losses), "in_a_row": self.in_a_row, "first": self.first}

    def restore(self, state):
        self.losses = deque((float(loss) for loss in state["losses"]), maxlen=self.losses.maxlen)
        self.in_a_row, self.first = state["in_a_row"], state["first"]
