"""What wants to know how a run goes: TensorBoard, say. An observer is told, and changes nothing."""


class Observer:
    """Subclass it and define what is of interest. trainer.step is the number of steps taken; its model and, after a step,
    model.parameters.grad (summed, before clipping) may be read, not written."""

    def on_start(self, trainer):
        """The run begins or goes on from trainer.step: what was told of later steps is void."""

    def on_metrics(self, trainer, values):
        """A line of metrics.jsonl: {"train/loss": 2.5, ...}, all floats."""

    def on_sample(self, trainer, text):
        """A text that the model made, at an evaluation."""

    def on_end(self, trainer):
        """The run ends, well or not."""
