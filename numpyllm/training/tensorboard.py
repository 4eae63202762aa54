"""TensorBoard's event files (extra `tensorboard`): every metric under its name, samples, and histograms on request."""

from pathlib import Path

from ..extras import load_extra
from .observer import Observer


class TensorBoard(Observer):
    """Writes event files into a folder: `tensorboard --logdir FOLDER` shows them.

    histogram_interval  steps between histograms of weights and gradients, 0 for none; a multiple of log_interval (they come with its lines)
    Raises InputError where tensorboardX is missing.
    """

    def __init__(self, folder, *, histogram_interval=0):
        self.folder, self.histogram_interval = Path(folder), histogram_interval
        self.writer_class = load_extra("tensorboardX", "tensorboard").SummaryWriter
        self.writer = None

    def on_start(self, trainer):
        """A new file. A reader drops what earlier ones have of the steps from purge_step on: the run goes on before them."""
        self.on_end(trainer)
        number = len(list(self.folder.glob("events.out.tfevents.*")))       # two files of one second must not have one name
        self.writer = self.writer_class(str(self.folder), purge_step=trainer.step + 1 if number else None, flush_secs=30,
                                        filename_suffix=f".{number:04d}")

    def on_metrics(self, trainer, values):
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, trainer.step)
        if self.histogram_interval and "train/grad_norm" in values and trainer.step % self.histogram_interval == 0:
            parameters = trainer.model.parameters
            for name in parameters:
                tag = name.replace(".", "/")
                self.writer.add_histogram(f"weights/{tag}", parameters[name], trainer.step)
                if parameters.gradient(name) is not None:
                    self.writer.add_histogram(f"gradients/{tag}", parameters.gradient(name), trainer.step)

    def on_sample(self, trainer, text):
        indented = "\n".join("    " + line for line in text.splitlines())       # Markdown's verbatim text
        self.writer.add_text("sample", indented, trainer.step)

    def on_end(self, trainer):
        if self.writer is not None:
            self.writer.close()
            self.writer = None
