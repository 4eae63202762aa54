"""The folder of one training run: metrics.jsonl, checkpoints, a picture. Nothing of the user's is overwritten unasked."""

import json
import shutil
from pathlib import Path

from ..errors import InputError
from .checkpoint import newest_checkpoint, save_checkpoint


class RunFolder:
    """A run's folder, checked at once, but created only by open().

    A folder that holds anything is refused, unless it is to be resumed (it must hold a checkpoint then) or overwritten
    (then open() removes what a run leaves there, and nothing else).
    """

    def __init__(self, path, *, resume=False, overwrite=False):
        self.path, self.resume = Path(path), resume
        if resume and overwrite:
            raise InputError("--resume continues a run and --overwrite discards it: give one of them")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{path} is a file: choose another folder for the run")
        if resume:
            newest_checkpoint(self.path)
        elif not overwrite and self.path.is_dir() and any(self.path.iterdir()):
            raise InputError(f"{path} is not empty: give --resume to continue that run, --overwrite to replace it, "
                             "or another --out_dir")
        self.metrics_path = self.path / "metrics.jsonl"

    def open(self, metrics_bytes=0):
        """Create or clear the folder; the metrics file is cut to the length it had at the checkpoint resumed from."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.resume:
            for old in (*self.checkpoints(), *self.path.glob("*.png"), *self.path.glob(self.metrics_path.name)):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        with open(self.metrics_path, "ab") as file:
            file.truncate(min(metrics_bytes, file.tell()))
        return self

    def checkpoints(self):
        return sorted(path for path in self.path.glob("step_*") if path.is_dir())

    def write_metrics(self, step, values):
        """Append one line {"step": ..., ...}; the file is not kept open, so the line is out of our hands at once."""
        with open(self.metrics_path, "ab") as file:
            file.write(json.dumps({"step": step} | values).encode() + b"\n")

    def read_metrics(self):
        """All lines so far, as dictionaries."""
        return [json.loads(line) for line in self.metrics_path.read_text().splitlines()]

    def save(self, step, arrays, state, tokenizer):
        """Write the checkpoint of this step, and remove older ones once it is complete -> its folder."""
        folder = self.path / f"step_{step:08d}"
        save_checkpoint(folder, arrays, state | {"metrics_bytes": self.metrics_path.stat().st_size}, tokenizer)
        for old in self.checkpoints():
            if old != folder:
                shutil.rmtree(old)
        return folder
