"""The folder of one training run: metrics.jsonl, checkpoints, a picture. Nothing of the user's is overwritten unasked."""

import json
import os
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
        self._metrics = None

    def open(self, metrics_bytes=0):
        """Create or clear the folder; the metrics file is cut to the length it had at the checkpoint resumed from."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.resume:
            for old in (*self.checkpoints(), *self.path.glob("*.png"), *self.path.glob("metrics.jsonl")):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        self._metrics = open(self.path / "metrics.jsonl", "ab")
        os.truncate(self._metrics.fileno(), min(metrics_bytes, self._metrics.seek(0, os.SEEK_END)))
        return self

    def checkpoints(self):
        return sorted(path for path in self.path.glob("step_*") if path.is_dir())

    def write_metrics(self, step, values):
        """Append one line {"step": ..., ...} and hand it to the operating system at once."""
        self._metrics.write(json.dumps({"step": step} | values).encode() + b"\n")
        self._metrics.flush()

    def read_metrics(self):
        """All lines so far, as dictionaries."""
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def save(self, step, arrays, state, tokenizer):
        """Write the checkpoint of this step, and remove older ones once it is complete -> its folder."""
        folder = self.path / f"step_{step:08d}"
        save_checkpoint(folder, arrays, state | {"metrics_bytes": self._metrics.tell()}, tokenizer)
        for old in self.checkpoints():
            if old != folder:
                shutil.rmtree(old)
        return folder

    def close(self):
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
