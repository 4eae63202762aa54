"""The folder of one training run: metrics.jsonl, checkpoints, `latest` and `best`, a picture. Nothing of the user's is
overwritten unasked."""

import errno
import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from .checkpoint import CHECKPOINT, checkpoints, newest_checkpoint, point, save_checkpoint, steps_of, sync

try:
    import fcntl
except ImportError:         # Windows: two runs in one folder go unnoticed there
    fcntl = None

UNFINISHED = r"\.step_\d{8}\.\d+\.(tmp|old)|\.(latest|best)\.[0-9a-f]{8}\.tmp"      # what a killed process may leave
LEFT = ("latest", "best", "metrics.jsonl", "samples.jsonl", "config.toml", "environment.json", "training.png", "report.html", "adapter", "classification.json",
        "events.out.tfevents.*")        # what a run leaves in its folder, checkpoints apart


class RunFolder:
    """A run's folder, checked at once, but created only by open().

    A folder that holds anything is refused, unless it is to be resumed (it must hold a checkpoint then) or overwritten
    (then open() removes what a run leaves there, and nothing else). Raises InputError.
    """

    def __init__(self, path, *, resume=False, overwrite=False):
        if not str(path):
            raise InputError("a run needs a folder, got an empty name: give --out_dir a name")
        self.path, self.resume, self.overwrite = Path(path), resume, overwrite
        self.metrics_path = self.path / "metrics.jsonl"
        self.samples_path = self.path / "samples.jsonl"
        self.config_path = self.path / "config.toml"
        self.environment_path = self.path / "environment.json"
        self.picture_path = self.path / "training.png"
        self._lock = None
        if resume and overwrite:
            raise InputError("--resume continues a run and --overwrite discards it: give one of them")
        if (self.path / "manifest.json").exists():
            raise InputError(f"{path} is a checkpoint, not a run: give the folder that holds it")
        existing = next((folder for folder in (self.path, *self.path.absolute().parents) if os.path.lexists(folder)), None)
        if existing is not None and not (existing.is_dir() and os.access(existing, os.W_OK)):
            raise InputError(f"{path} must be a folder or become one, but {existing} is no folder that can be written: "
                             "give another --out_dir")
        if resume:
            newest_checkpoint(self.path)
        else:
            self._refuse_contents()

    def _refuse_contents(self):
        if not self.overwrite and self.path.is_dir() and any(self.path.iterdir()):
            ways = "--resume to continue that run, --overwrite to replace it" if checkpoints(self.path) else (
                "--overwrite to replace what a run left there")
            raise InputError(f"{self.path} is not empty: give {ways}, or another --out_dir")

    def open(self, metrics_bytes=0):
        """Create or clear the folder; the metrics file is cut to the length it had at the checkpoint resumed from."""
        if not self.resume:
            self._refuse_contents()         # it may have been filled meanwhile
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock_folder()
        if not self.resume:
            for old in (*checkpoints(self.path), *(path for pattern in LEFT for path in self.path.glob(pattern))):
                _remove(old)
        for unfinished in self.path.glob(".*"):
            if re.fullmatch(UNFINISHED, unfinished.name):
                _remove(unfinished)
        self.cut_metrics(metrics_bytes)
        return self

    def cut_metrics(self, length):
        """Forget what was written after the file had so many bytes; whole lines only remain."""
        kept = self.metrics_path.read_bytes()[:length] if self.metrics_path.exists() else b""
        with open(self.metrics_path, "ab") as file:
            file.truncate(kept.rfind(b"\n") + 1)

    def _lock_folder(self):
        """One run at a time: the lock goes with the process. A raw descriptor, for it stays open to the end."""
        if fcntl is None:
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{self.path} is in use by another run: wait for it, or give another --out_dir") from None

    def close(self):
        """Let others use the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_metrics(self, step, values):
        """Append one line {"step": ..., ...}; the file is not kept open, so the line is out of our hands at once.

        InputError if it cannot be written; the file is what it was then.
        """
        with _errors_that_name(self.metrics_path, "cannot be written"):
            with open(self.metrics_path, "ab", buffering=0) as file:
                length, line = file.tell(), json.dumps({"step": step} | values).encode() + b"\n"
                if file.write(line) < len(line):
                    file.truncate(length)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read_metrics(self):
        """All lines so far, as dictionaries."""
        return [json.loads(line) for line in self.metrics_path.read_text().splitlines()]

    def save(self, step, arrays, state, tokenizer, *, keep=2, every=1, best=None):
        """Write the checkpoint of this step -> its folder.

        Once it is complete, others are removed, except the newest `keep` of those due, at multiples of `every`, and that of
        step `best`. What is later is removed too: a process that was killed left it behind, or it is damaged. InputError as
        for save_checkpoint.
        """
        folder = self.path / CHECKPOINT.format(step)
        with _errors_that_name(self.metrics_path, "cannot be brought to the disk"):
            sync(self.metrics_path)
            length = self.metrics_path.stat().st_size
        save_checkpoint(folder, arrays, state | {"metrics_bytes": length}, tokenizer)
        point(self.path, "latest", folder)
        found = {steps_of(path): path for path in checkpoints(self.path)}
        due = [steps for steps in found if steps <= step and steps % every == 0]        # oldest first
        if best in found:
            point(self.path, "best", found[best])
        self._discard(path for steps, path in found.items() if steps not in {step, best, *due[-keep:]})
        return folder

    def go_back(self, folder, metrics_bytes):
        """Forget what came after a checkpoint of this run."""
        point(self.path, "latest", folder)
        self._discard(later for later in checkpoints(self.path) if later.name > folder.name)
        self.cut_metrics(metrics_bytes)

    def _discard(self, folders):
        """Remove checkpoints: out of sight first, for removing takes time, and half a checkpoint would look damaged."""
        for folder in folders:
            hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            with _errors_that_name(folder, "the old checkpoint cannot be removed"):
                os.rename(folder, hidden)
                shutil.rmtree(hidden)


@contextmanager
def _errors_that_name(path, what):
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {what} ({error.strerror or error}): see to it, then go on with --resume") from error


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
