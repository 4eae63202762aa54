"""Imports point one way: a module may import from its own group and from those below it."""

import ast
import subprocess
import sys
from pathlib import Path

import numpyllm

ROOT = Path(numpyllm.__file__).parent
RUN_TIME = {"numpy", "numba", "llvmlite", "regex", "threadpoolctl"}      # llvmlite is the half of Numba that knows LLVM

# Each group with the groups that it may import. What is missing here is not allowed.
FOUNDATION = {"errors", "config", "random", "extras", "blas", "files", "progress", "shards"}
BELOW = {
    "errors": set(), "config": {"errors", "files"}, "random": set(), "extras": {"errors"}, "gradcheck": set(),
    "blas": set(), "files": {"errors"}, "progress": set(), "shards": {"errors", "files"},
    "ops": set(),
    "parameters": {"random"},
    "workspace": {"parameters"},
    "kernels": {"ops", "workspace", "blas"},
    "backend": {"ops", "kernels"},
    "layers": {"ops", "parameters", "workspace"},
    "models": {"ops", "layers", "parameters", "workspace"} | FOUNDATION,
    "tokenizer": {"backend", "kernels", "errors", "extras", "files", "shards"},
    "data": {"random", "errors", "files", "progress", "shards", "tokenizer"},
    "training": {"ops", "kernels", "models", "parameters", "workspace", "data", "tokenizer", "<version>"} | FOUNDATION,
    "inference": {"ops", "kernels", "models", "random", "workspace"} | FOUNDATION,
    "finetuning": {"ops", "layers", "models", "training", "inference", "interop", "tokenizer", "data", "parameters", "workspace"} | FOUNDATION,
    "evaluation": {"ops", "backend", "models", "training", "inference", "data", "interop"} | FOUNDATION,
    "interop": {"ops", "models", "training", "inference", "tokenizer", "parameters"} | FOUNDATION,
    "serve": {"inference"} | FOUNDATION,
    "bench": {"ops", "backend", "models", "training", "inference", "finetuning", "tokenizer"} | FOUNDATION,
    "checks": {"ops", "layers", "models", "parameters", "random", "gradcheck"},
    "doctor": {"ops", "kernels", "models", "training", "bench", "checks", "gradcheck"} | FOUNDATION,
}
UPWARDS = {("models/gpt.py", "interop")}     # from_pretrained and save_pretrained, names that users expect on the model itself
TOP = {"cli", "__main__", "<version>"}      # may import everything


def group(parts):
    return parts[0] if parts and parts[0] else "<version>"


def imports(path):
    """Yield ('numpyllm', group) or ('other', top-level package) for each import in a file, wherever in it it stands."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                parts = name.name.split(".")
                yield ("numpyllm", group(parts[1:])) if parts[0] == "numpyllm" else ("other", parts[0])
        elif isinstance(node, ast.ImportFrom):
            base = list(package[:len(package) - node.level]) if node.level else None
            module = node.module.split(".") if node.module else []
            if base is None and module[0] != "numpyllm":
                yield "other", module[0]
                continue
            full = base + module if base is not None else module[1:]
            for name in node.names:
                where = full or ([name.name] if (ROOT / name.name).is_dir() or (ROOT / f"{name.name}.py").is_file() else [])
                yield "numpyllm", group(where)


def test_imports_point_one_way():
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = group(path.relative_to(ROOT).with_suffix("").parts)
        for kind, target in imports(path):
            allowed = own in TOP | {"__init__"} or target in BELOW[own] | {own} or (path.relative_to(ROOT).as_posix(), target) in UPWARDS
            if kind == "numpyllm" and not allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert not wrong, wrong


def test_what_is_imported_upwards_is_so_only_when_it_is_called():
    script = "import sys, numpyllm.models; sys.exit(any(name.startswith('numpyllm.interop') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_ops_import_numpy_and_the_standard_library_only():
    found = {target for path in (ROOT / "ops").rglob("*.py") for kind, target in imports(path) if kind == "other"}
    assert found - set(sys.stdlib_module_names) == {"numpy"}


def test_the_package_needs_only_its_run_time_dependencies():
    """Optional packages come in through numpyllm.extras alone."""
    found = {(target, path.parent.name) for path in ROOT.rglob("*.py") for kind, target in imports(path) if kind == "other"}
    found = {(target, folder) for target, folder in found if target not in sys.stdlib_module_names}
    assert {target for target, _ in found - {("torch", "bench"), ("transformers", "bench")}} <= RUN_TIME     # peers of benchmarks


def test_the_rule_sees_a_forbidden_import(tmp_path, monkeypatch):
    (tmp_path / "ops").mkdir()
    (tmp_path / "layers").mkdir()
    (tmp_path / "ops" / "bad.py").write_text("def f():\n    from ..layers import Layer\n    import numba\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert set(imports(tmp_path / "ops" / "bad.py")) == {("numpyllm", "layers"), ("other", "numba")}
