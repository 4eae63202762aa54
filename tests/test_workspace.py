"""The arena, and that a training step on the kernels lives in it."""

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import numpyllm
from numpyllm import kernels, ops, workspace
from numpyllm.backend import load_backend
from numpyllm.kernels import _jit
from numpyllm.models import GPT, GPTConfig
from numpyllm.random import Draws
from numpyllm.training import AdamW
from numpyllm.training.replicas import Replicas
from numpyllm.workspace import Workspace, empty, mark, release

CONFIG = GPTConfig(n_layer=2, n_head=4, n_embd=64, block_size=64, vocab_size=300)


def batch(config=CONFIG, B=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, config.vocab_size, (2, B, config.block_size))


def test_without_a_workspace_empty_is_an_ordinary_allocation():
    height = mark()
    a = empty((2, 3), np.float32)
    assert height is None and a.shape == (2, 3) and a.base is None
    assert release(height, keep=a) is a


def test_arrays_are_aligned_apart_and_reused_after_release():
    with Workspace().activate() as space:
        a, b = empty((3, 5), np.float32), empty((7,), np.float64)
        assert a.ctypes.data % 64 == b.ctypes.data % 64 == 0 and not np.shares_memory(a, b)
        a[...], b[...] = 1, 2
        assert (a == 1).all()
        height = mark()
        c = empty((11,), np.float32)
        release(height)
        assert np.shares_memory(c, empty((11,), np.float32))
        assert space.high_water == 64 + 64 + 64
    assert mark() is None


def test_release_moves_what_is_kept_to_the_bottom():
    for poison in (False, True):
        with Workspace(poison=poison).activate():
            height = mark()
            empty((1000,), np.float32)
            kept = empty((500,), np.float32)
            kept[...] = np.arange(500)
            moved = release(height, keep=kept)
            assert (moved == np.arange(500)).all()
            assert mark() == height + 2048
            assert (release(height, keep=moved) == np.arange(500)).all()        # nothing to move


def test_growth_over_several_blocks_ends_in_one(monkeypatch):
    monkeypatch.setattr(workspace, "BLOCK", 256)
    space = Workspace()
    for _ in range(2):
        with space.activate():
            arrays = [empty((n,), np.float32) for n in (10, 100, 20, 300, 5)]
            for i, a in enumerate(arrays):
                a[...] = i
            assert all((a == i).all() for i, a in enumerate(arrays))
    assert len(space._blocks) == 1 and space._blocks[0][0].size == space.high_water


def test_poison_shows_a_use_after_release():
    with Workspace(poison=True).activate():
        height = mark()
        a = empty((4,), np.float32)
        a[...] = 1
        release(height)
        assert np.isnan(a).all()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_poisoned_workspace_changes_nothing(recompute, dropout):
    """Loss and gradients with and without an arena, to the bit: nothing is read after its release."""
    config = GPTConfig(**(vars(CONFIG) | {"dropout": dropout}))
    model = GPT(config, ops=kernels, seed=1, recompute=recompute)
    ids, targets = batch()
    draws = Draws(0) if dropout else None
    found = []
    for space in (None, Workspace(poison=True)):
        model.parameters.clear_gradients()
        if space is None:
            found.append((model.loss_and_gradients(ids, targets, draws=draws), model.loss(ids, targets)))
        else:
            with space.activate():
                found.append((model.loss_and_gradients(ids, targets, draws=draws), model.loss(ids, targets)))
        found[-1] += (model.parameters.grad.tobytes(),)
    assert found[0] == found[1]


@pytest.mark.parametrize("backend", [ops, kernels])
def test_recomputing_blocks_gives_the_same_bits_in_less_memory(backend):
    config = GPTConfig(n_layer=6, n_head=4, n_embd=64, block_size=64, vocab_size=300, dropout=0.1)
    ids, targets = batch(config)
    found, heights = [], []
    for recompute in (False, True):
        model, space = GPT(config, ops=backend, seed=1, recompute=recompute), Workspace()
        with space.activate():
            loss, _ = model.loss_and_gradients(ids, targets, draws=Draws(3))
        found.append((float(loss), model.parameters.grad.tobytes()))
        heights.append(space.high_water)
    assert found[0] == found[1]
    assert backend is ops or heights[1] < 0.5 * heights[0]


@pytest.mark.parametrize("n", [1, 2])
def test_a_step_after_the_first_allocates_no_array_over_64_kb(n):
    """All that a thread allocates in a step is less than that together; the activations are about 6 MB."""
    model = GPT(CONFIG, ops=kernels)
    optimizer = AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.99, weight_decay=0.1)
    replicas, micro_batch = Replicas(model, n), batch()

    def step():
        replicas.step([micro_batch], optimizer, lr=1e-3, grad_clip=1.0, draws=lambda micro, row: None)

    step(), step()
    tracemalloc.start()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 65_536 * n
    assert replicas.workspaces[0].high_water > 2_000_000


def run(code, **environment):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120)


def test_importing_is_quick_and_leaves_numba_alone():
    done = run("import sys, time; t = time.perf_counter(); import numpyllm; s = time.perf_counter() - t\n"
               "import numpyllm.ops, numpyllm.models, numpyllm.training, numpyllm.tokenizer, numpyllm.cli.main\n"
               "print(s < 0.3, 'numba' in sys.modules)")
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_without_numba_the_text_does_the_work_with_one_line_of_warning():
    done = run("import sys; sys.modules['numba'] = None\n"
               "from numpyllm.backend import load_backend\nfrom numpyllm import ops\nprint(load_backend('numba') is ops)")
    assert done.stdout.split() == ["True"] and "Numba is not installed" in done.stderr
    assert load_backend("numpy") is ops and load_backend("numba") is kernels


def test_the_cache_falls_back_to_the_users_folder_and_then_to_none(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    writable = _jit._writable
    monkeypatch.setattr(_jit, "_writable", lambda folder: _jit.HERE not in folder.parents and writable(folder))
    assert _jit._cache_folder().is_relative_to(tmp_path)
    monkeypatch.setattr(_jit, "_writable", lambda folder: False)
    with pytest.warns(UserWarning, match="compiled anew in each process"):
        assert _jit._cache_folder() is None


@pytest.mark.thorough
def test_several_processes_may_compile_at_once(tmp_path):
    """A fresh copy of the package, so nothing is compiled yet; three processes; then a fourth loads what they made."""
    shutil.copytree(Path(numpyllm.__file__).parent, tmp_path / "numpyllm", ignore=shutil.ignore_patterns("__pycache__"))
    code = ("import time, numpy as np\nt = time.perf_counter()\n"
            "from numpyllm import kernels\nfrom numpyllm.models import GPT, GPTConfig\n"
            "from numpyllm.training.compile import compile_kernels\n"
            "model = GPT(GPTConfig(n_layer=1, n_embd=32, vocab_size=50), ops=kernels)\n"
            "compile_kernels(model)\nids = np.ones((2, 9), int)\nprint(model.loss_and_gradients(ids, ids)[0], time.perf_counter() - t)")
    command, environment = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": str(tmp_path)}
    together = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) for _ in range(3)]
    losses = [process.communicate(timeout=300)[0].split()[-2] for process in together]
    last = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert "compiling" not in last.stdout and {*losses, last.stdout.split()[-2]} == {losses[0]}
    assert float(last.stdout.split()[-1]) < 2
