"""What the model wrote at each evaluation, kept in samples.jsonl: {"step": 250, "text": "..."} a line."""

import json

from ..errors import InputError
from ..files import read_bytes, replacing
from .observer import Observer


class SampleLog(Observer):
    def __init__(self, path):
        self.path = path

    def on_start(self, trainer):
        """A run that goes on forgets what was written after the checkpoint it goes on from."""
        kept = [line for line in read_lines(self.path) if line.get("step", 0) <= trainer.step] if self.path.exists() else []
        with replacing(self.path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())

    def on_sample(self, trainer, text):
        with open(self.path, "ab") as file:
            file.write(json.dumps({"step": trainer.step, "text": text}).encode() + b"\n")


def read_lines(path):
    """The JSON objects in the lines of a file, but for a last line that was cut off. Raises InputError for other faults."""
    lines = read_bytes(path).split(b"\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):       # what follows the last newline is empty, or was cut off
        try:
            found.append(json.loads(line))
            found[-1].items()
        except (ValueError, AttributeError, RecursionError):
            raise InputError(f"{path}: line {number} must be a JSON object, got {line[:60]!r}") from None
    return found
