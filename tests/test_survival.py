"""A run survives: being killed or stopped anywhere, a failing disk, damaged files, batches that make no sense."""

import builtins
import errno
import io
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from test_training import flip, forge
from tiny_run import make

from numpyllm.errors import InputError
from numpyllm.training import Observer, TrainingDiverged, load_checkpoint, load_model, newest_checkpoint
from numpyllm.training.checkpoint import checkpoints, pointer
from numpyllm.training.monitor import SpikeMonitor

TINY_RUN = [sys.executable, tiny_run.__file__]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of 60 steps that nothing happened to: one spike skipped, two gone back from."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    made = make(folder)
    assert made.run() and made.rollbacks == 1 and made.skipped == [[23, 23], [35, 38]]
    return folder


def differences(run, other):
    """What is not the same to the bit at the ends of two runs, in words: arrays, steps, progress, evaluations, configuration.

    An empty list if all is. The configuration is no reason in itself, but may be the cause: threads, say.
    """
    ends = [load_checkpoint(newest_checkpoint(folder)) for folder in (run, other)]
    (a, state, _), (b, other_state, _) = ends
    found = [f"{name} is in one of them only" for name in sorted(a.keys() ^ b.keys())]
    for name in sorted(a.keys() & b.keys()):
        if a[name].tobytes() != b[name].tobytes():
            off = np.flatnonzero(a[name].view(np.uint32) != b[name].view(np.uint32))
            names = {key for key, (start, shape) in state["layout"].items() if ((off >= start) & (off < start + math.prod(shape))).any()}
            largest = np.abs(a[name].astype(float) - b[name])[off].max()
            found.append(f"{name}: {len(off)} of {a[name].size} entries, by up to {largest:.3g}, in {', '.join(sorted(names))}")
    pairs = {"step": (state["step"], other_state["step"])}
    pairs |= {key: (state["progress"].get(key), other_state["progress"].get(key)) for key in state["progress"] | other_state["progress"]}
    evaluations = [[line for line in (folder / "metrics.jsonl").read_text().splitlines() if "val/loss" in line] for folder in (run, other)]
    pairs |= {f"evaluation {i}": pair for i, pair in enumerate(itertools.zip_longest(*evaluations))}
    found += [f"{key}: {one!r} and {two!r}" for key, (one, two) in pairs.items() if one != two]
    settings = {key: (state["train"].get(key), other_state["train"].get(key)) for key in state["train"] | other_state["train"]}
    return found and found + [f"(configured {key}: {one!r} and {two!r})" for key, (one, two) in settings.items() if one != two]


class StopAfter(Observer):
    """Sends SIGINT to this process at the first line of metrics after so many steps of this life."""

    def __init__(self, steps):
        self.steps = steps

    def on_start(self, trainer):
        self.until = trainer.step + self.steps

    def on_metrics(self, trainer, values):
        if trainer.step >= self.until and "train/loss" in values:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_stopped_again_and_again_ends_with_the_same_bits(tmp_path, whole, steps):
    """After each step, or each third: mid-epoch, with dropout and accumulation, before, in and after spikes."""
    for _ in range(200):
        made = make(tmp_path / "run", log_interval=1, observers=[StopAfter(steps)])
        if made.run():
            break
        assert made.stopped_by == signal.SIGINT
    assert not differences(tmp_path / "run", whole)


def test_the_same_seed_gives_the_same_bits_and_watching_changes_none(tmp_path, whole):
    seen = []

    class Watch(Observer):
        def on_metrics(self, trainer, values):
            seen.append((trainer.step, *values))

        def on_start(self, trainer):
            seen.append(("start", trainer.step))

        def on_end(self, trainer):
            seen.append(("end", trainer.step))

    assert make(tmp_path / "run", observers=[Watch()], log_interval=1).run()
    assert not differences(tmp_path / "run", whole)
    assert seen[0] == ("start", 0) and ("start", 35) in seen and seen[-1] == ("end", 60)
    assert (35, "train/rollbacks", "train/lr_factor") in seen


@pytest.mark.parametrize("optimizer, names", [("sgd", {"sgd_u"}), ("adam", {"adam_m", "adam_v"})])
def test_every_optimizer_resumes_with_the_same_bits(tmp_path, optimizer, names):
    changes = {"optimizer": optimizer, "max_iters": 8, "batch_warmup_iters": 6, "schedule": "wsd"}
    assert make(tmp_path / "whole", **changes).run()
    assert make(tmp_path / "parts", **changes | {"lr_decay_iters": 8, "max_iters": 5}).run()
    assert make(tmp_path / "parts", **changes).run() and not differences(tmp_path / "parts", tmp_path / "whole")
    assert load_checkpoint(newest_checkpoint(tmp_path / "parts"))[0].keys() == {"params"} | names
    with pytest.raises(InputError, match=f"holds the state of the optimizer {optimizer}, got adamw"):
        make(tmp_path / "parts")


def test_a_difference_is_named(tmp_path, whole):
    """A run with another seed's dropout, and one entry of one array with another last bit."""
    assert not differences(whole, whole)
    assert make(tmp_path / "other", seed=1338).run()
    found = differences(tmp_path / "other", whole)
    assert [line.split(":")[0] for line in found][:3] == ["adam_m", "adam_v", "params"] and "blocks.0.mlp.up.w" in found[2]
    assert any(line.startswith("monitor: ") for line in found) and any(line.startswith("evaluation 5: '{") for line in found)
    assert found[-1] == "(configured seed: 1338 and 1337)"
    shutil.copytree(whole, tmp_path / "bit")
    state = load_checkpoint(newest_checkpoint(whole))[1]
    start, _ = state["layout"]["norm.b"]
    params = np.load(newest_checkpoint(whole) / "params.npy")
    params.view(np.uint32)[start] ^= 1
    forge(tmp_path / "bit", arrays=[("params.npy", params)])
    [line] = differences(tmp_path / "bit", whole)
    assert line.startswith(f"params: 1 of {params.size} entries, by up to ") and line.endswith(" in norm.b")


def kill_and_resume(folder, kills, seed, max_iters):
    """Let a process train in a folder, kill it at a random moment, check what is there, and again -> processes killed."""
    rng, killed, command = random.Random(seed), 0, [*TINY_RUN, str(folder), f"max_iters={max_iters}"]
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if killed < kills:
            if rng.random() < 0.9:              # else somewhere in the imports
                while (line := process.stdout.readline()) and line != "ready\n":
                    pass
            time.sleep(rng.random() * 0.3)
            process.kill()
        output, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL and killed < kills, errors
        killed += 1
        if checkpoints(folder):                 # the first life may have been too short for one
            model, _, state = load_model(folder)
            assert np.isfinite(model.parameters.data).all() and 0 <= state["step"] <= max_iters
        else:
            assert killed < 5


def test_a_killed_run_ends_with_the_same_bits(tmp_path, whole):
    assert kill_and_resume(tmp_path / "run", kills=3, seed=0, max_iters=60) >= 1
    assert not differences(tmp_path / "run", whole)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(8))
def test_thirty_kills(tmp_path, seed):
    """240 in all."""
    assert make(tmp_path / "whole", max_iters=1500).run()
    killed = kill_and_resume(tmp_path / "run", kills=30, seed=seed, max_iters=1500)
    assert killed == 30 and not differences(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_saves_and_the_second_ends_at_once(tmp_path, number, code):
    """Two processes that fall asleep for a second in step 3, which is thus not finished when the signals come."""
    runs = [tmp_path / "once", tmp_path / "twice"]
    processes = [subprocess.Popen([*TINY_RUN, str(run), "sleep_at=3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for run in runs]
    for process, run in zip(processes, runs, strict=True):
        while process.stdout.readline() != "asleep\n":
            assert process.poll() is None
        process.send_signal(number)
        if run.name == "twice":
            while not process.stdout.readline().startswith("finishing this step and saving"):
                pass
            process.send_signal(number)
    ends = [(process.communicate(timeout=60), process.returncode) for process in reversed(processes)]
    assert [returncode for _, returncode in ends] == [code, code], ends
    assert newest_checkpoint(runs[0]).name == "step_00000004" and newest_checkpoint(runs[1]).name == "step_00000000"


class Faults:
    """Counts calls of open, write, fsync and rename, and lets one of them fail, or this one and all that follow."""

    def __init__(self, monkeypatch, kind, at=None, *, lasting=False):
        self.kind, self.at, self.lasting, self.calls = kind, at, lasting, 0
        real_open = open

        def faulty_open(file, mode="r", *args, **settings):
            if mode[0] in "wxa":
                self.count("open")
                return Faulty(real_open(file, mode, *args, **settings), self)
            return real_open(file, mode, *args, **settings)

        monkeypatch.setattr(builtins, "open", faulty_open)
        monkeypatch.setattr(io, "open", faulty_open)
        for kind, names in (("fsync", ["fsync"]), ("rename", ["rename", "replace"])):
            for name in names:
                monkeypatch.setattr(os, name, self.counted(kind, getattr(os, name)))

    def counted(self, kind, function):
        def call(*args, **settings):
            self.count(kind)
            return function(*args, **settings)
        return call

    def count(self, kind):
        if kind == self.kind:
            self.calls += 1
            if self.at is not None and (self.calls == self.at or self.lasting and self.calls > self.at):
                raise OSError(errno.EIO, "Input/output error")


class Faulty:
    def __init__(self, file, faults):
        self.file, self.faults = file, faults

    def write(self, data):
        self.faults.count("write")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("kind", ["open", "write", "fsync", "rename"])
def test_a_failure_at_any_call_is_an_error_and_the_old_checkpoint_intact(tmp_path, kind, lasting):
    """Each call of this kind that a save makes fails in turn: at first nothing may change, at last the new one is complete."""
    run = tmp_path / "run"
    made = make(run, spikes=(), keep_checkpoints=1, keep_best=False, max_iters=500)
    made.save()
    at = completed = 0
    while True:
        at += 1
        made.train_step()
        made.config = tiny_run.replace(made.config, eval_interval=made.step)        # so that this one is due, no other
        before, old = files(run), newest_checkpoint(run)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, kind, at, lasting=lasting)
            try:
                made.save()
            except InputError as error:
                assert "Input/output error" in str(error) and "\n" not in str(error)
            else:
                assert faults.calls == at - 1       # it makes no more calls of this kind
                break
        now = newest_checkpoint(run)                # whole, and no warning
        if (made_now := run / f"step_{made.step:08d}").exists():
            load_checkpoint(made_now)               # it is whole, even where `latest` does not name it yet
        if now == old:
            left = {path: data for path, data in files(run).items() if path in before or not path.parts[0].startswith(".")}
            assert {path: data for path, data in left.items() if path.parts[0] != made_now.name} == before
            assert lasting or files(run).keys() - before.keys() <= {Path(made_now.name) / name.name for name in old.iterdir()}
        else:
            completed += 1
            assert load_checkpoint(now)[1]["step"] == made.step
        made.save()                                 # the disk is well again
        assert newest_checkpoint(run).name == f"step_{made.step:08d}"
    assert at > 3 or kind == "rename" and at > 2, (at, completed)


def test_a_full_disk_and_a_read_only_folder_are_errors_and_the_old_checkpoint_intact(tmp_path):
    run = tmp_path / "run"
    made = make(run, spikes=())
    made.save()
    made.train_step()
    before, soft = files(run), resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 5000):                    # bytes that a file may have
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, soft[1]))
        try:
            with pytest.raises(InputError, match="the checkpoint cannot be written .File too large.; those before it are"):
                made.save()
            if limit < 5000:
                with pytest.raises(InputError, match="metrics.jsonl: cannot be written .(File too large|No space left)"):
                    for _ in range(3):
                        made.run_folder.write_metrics(1, {"train/loss": 1.0} | {f"grad_norm/{i}": 1.0 for i in range(99)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, soft)
        assert files(run) == before
    with pytest.MonkeyPatch.context() as patch:     # root may write anywhere, so the permissions alone would not do
        def read_only(*args, **settings):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        patch.setattr(os, "mkdir", read_only)
        with pytest.raises(InputError, match="cannot be written .Read-only file system"):
            made.save()
    assert files(run) == before
    if os.geteuid() != 0:
        run.chmod(0o500)
        with pytest.raises(InputError, match="cannot be written .Permission denied"):
            made.save()
        run.chmod(0o700)
        assert files(run) == before


def test_a_folder_that_vanished_is_an_error(tmp_path):
    made = make(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("a file in its place")
    with pytest.raises(InputError, match="Not a directory"):
        made.run_folder.write_metrics(1, {})
    with pytest.raises(InputError, match="Not a directory"):
        made.save()


def damages(folder, flips, seed=0, every=1000):
    """Yield after each damage to one of a checkpoint's files; it is undone then."""
    names = sorted(path.name for path in folder.iterdir())
    whole = {name: (folder / name).read_bytes() for name in names}
    places = [(name, i) for name in names for i in range(len(whole[name]))]
    for name in names:
        for length in {*range(0, len(whole[name]), every), len(whole[name]) - 1}:
            (folder / name).write_bytes(whole[name][:length])
            yield f"{name} cut to {length} bytes"
        (folder / name).write_bytes(whole[name])
    rng = random.Random(seed)
    for _ in range(flips):
        name, i = rng.choice(places)
        damaged = bytearray(whole[name])
        damaged[i] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(damaged)
        yield f"{name}, byte {i}: {whole[name][i]:#x} became {damaged[i]:#x}"
        (folder / name).write_bytes(whole[name])


@pytest.mark.parametrize("flips", [300, pytest.param(5000, marks=pytest.mark.thorough)])
def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(tmp_path, whole, flips):
    folder = newest_checkpoint(whole)
    for what in damages(folder, flips):
        with pytest.raises(InputError):
            load_checkpoint(folder)
            pytest.fail(what)
    load_checkpoint(folder)


def test_the_newest_whole_checkpoint_is_taken_and_it_says_so(tmp_path, whole):
    made = make(tmp_path / "run", max_iters=40, lr_decay_iters=60, spikes=(), keep_checkpoints=3)
    assert made.run()
    run = tmp_path / "run"
    assert [path.name[-2:] for path in checkpoints(run)] == ["30", "35", "40"] and pointer(run, "latest") == "step_00000040"
    flip(run / "step_00000040" / "params.npy")
    with pytest.warns(UserWarning, match="step_00000040/params.npy is damaged .*; the newest whole checkpoint is .*step_00000035"):
        second = make(run, spikes=(), keep_checkpoints=3)
    assert second.step == 35
    second.run_folder.close()
    (run / "step_00000035" / "manifest.json").write_text("[")
    with pytest.warns(UserWarning, match="step_00000040/params.npy is damaged"):
        assert newest_checkpoint(run).name == "step_00000030"
    with pytest.warns(UserWarning):
        again = make(run, spikes=(), keep_checkpoints=3)
    assert again.run() and make(tmp_path / "other", spikes=()).run() and not differences(run, tmp_path / "other")
    assert [path.name[-2:] for path in checkpoints(run)] == ["50", "55", "60"]
    for folder in checkpoints(run):
        flip(folder / "state.json")
    with pytest.raises(InputError, match="step_00000060/state.json is damaged"):
        newest_checkpoint(run)


def test_latest_and_best_say_which(tmp_path):
    run = tmp_path / "run"
    losses = iter([3.0, 2.0, 2.5, 2.25, 1.5, 1.75])
    made = make(run, spikes=(), max_iters=25, keep_checkpoints=1)
    evaluate = made.evaluate
    made.evaluate = lambda: evaluate()._replace(loss=next(losses))
    made.config = tiny_run.replace(made.config, max_iters=15)
    made.run_folder.close = lambda: None
    assert made.run()
    assert [path.name[-2:] for path in checkpoints(run)] == ["05", "15"]
    assert pointer(run, "latest") == "step_00000015" and pointer(run, "best") == "step_00000005"
    (run / "latest").write_text("step_00000005\n")
    assert newest_checkpoint(run).name == "step_00000005"       # whoever writes it decides
    for nonsense in (b"step_00000099\n", b"\xff", b""):
        (run / "latest").write_bytes(nonsense)
        assert newest_checkpoint(run).name == "step_00000015"
    made.config = tiny_run.replace(made.config, max_iters=25, keep_best=False)
    assert made.run() and made.best == [1.5, 20]
    assert [path.name[-2:] for path in checkpoints(run)] == ["25"]


def test_what_a_killed_process_leaves_is_cleared_away_and_nothing_else(tmp_path, whole):
    run = tmp_path / "run"
    assert make(run, max_iters=5).run()
    for name in (".step_00000005.12.tmp", ".step_00000005.12.old", ".mine.tmp"):
        (run / name).mkdir()
    for name in (".latest.0123abcd.tmp", ".latest.mine"):
        (run / name).write_text("")
    make(run)
    assert {path.name for path in run.glob(".*")} == {".mine.tmp", ".latest.mine"}


def test_a_checkpoint_of_version_1_goes_on(tmp_path):
    """It says nothing about skipped data: there was none."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert make(whole, spikes=()).run()
    assert make(parts, spikes=(), max_iters=20, lr_decay_iters=60).run()
    forge(parts, state=[("version", "gone"), ("progress", "gone")])
    state = json.loads((newest_checkpoint(parts) / "state.json").read_text())
    assert "progress" not in state and make(parts, spikes=()).run()
    a, b = (load_model(folder)[0].parameters.data for folder in (whole, parts))
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("change, words", [
    ({"version": 3}, "must be of version 1 to 2, got 3: use the numpyllm that wrote it"),
    ({"progress": {}}, "describes no run of this version"), ({"progress": None}, "describes no run of this version"),
    ({"progress": {"updates": "many"}}, "describes no run of this version")])
def test_states_of_other_versions_are_refused(tmp_path, change, words):
    assert make(tmp_path / "run", max_iters=1).run()
    forge(tmp_path / "run", state=change.items())
    with pytest.raises(InputError, match=words):
        make(tmp_path / "run")


def test_the_monitor_measures_in_standard_deviations_of_the_window():
    monitor = SpikeMonitor(threshold=3.0, window=4)
    for step, loss in enumerate((9.0, 2.0, 4.0, 2.0, 4.0)):
        assert monitor.z_score(99.0) == 0.0 or step == 4
        assert monitor.allows(loss, 1.0)
        monitor.record(step, loss, True)
    assert monitor.z_score(6.0) == 3.0 and monitor.z_score(0.0) == -3.0         # of 2, 4, 2, 4: mean 3, deviation 1
    assert monitor.allows(6.0, 1.0) and not monitor.allows(6.01, 1.0)
    monitor.record(5, 7.0, False)
    monitor.record(6, 7.0, False)
    assert (monitor.in_a_row, monitor.first, monitor.z_score(6.0)) == (2, 5, 3.0)       # spikes are not in the window
    again = SpikeMonitor(threshold=3.0, window=4)
    again.restore(json.loads(json.dumps(monitor.state())))
    assert again.state() == monitor.state() and again.z_score(5.0) == monitor.z_score(5.0)
    monitor.record(7, 3.0, True)
    assert (monitor.in_a_row, monitor.first) == (0, None)
    off = SpikeMonitor(threshold=0.0, window=4)
    off.restore(monitor.state())
    assert off.allows(99.0, 1.0) and not off.allows(math.nan, 1.0) and not off.allows(1.0, math.inf)
    flat = SpikeMonitor(threshold=3.0, window=2)
    flat.losses.extend((2.0, 2.0))
    assert flat.allows(2.05, 1.0) and not flat.allows(2.07, 1.0)                # a hundredth of the mean counts as deviation


def test_each_rule_can_be_switched_off(tmp_path):
    """Skipping; going back; the lower learning rate. Without a folder there is nothing to go back to."""
    never = make(tmp_path / "never", spike_zscore=0.0)
    assert never.run() and never.skipped == [] and never.optimizer.steps == 60
    same = make(tmp_path / "same", spike_lr_factor=1.0)
    assert same.run() and same.rollbacks == 1 and same.lr_factor == 1.0
    only = make(tmp_path / "only", spike_patience=3)
    assert only.run() and only.skipped == [[23, 23], [37, 38]] and only.rollbacks == 0 and only.optimizer.steps == 57
    with pytest.raises(TrainingDiverged, match="2 spikes in a row from step 37 on, after going back 0 times"):
        make(tmp_path / "given up", spike_rollbacks=0).run()
    with pytest.raises(TrainingDiverged, match="no run folder with a checkpoint to go back to: try a lower --learning_rate"):
        make().run()


def test_parameters_that_are_no_numbers_are_not_saved(tmp_path):
    made = make(tmp_path / "run")
    made.save()
    made.train_step()
    made.model.parameters.data[3] = np.inf
    with pytest.raises(TrainingDiverged, match="after step 1 are no numbers, so they were not saved"):
        made.save()
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step_00000000"]
