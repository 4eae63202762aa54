"""No file that is read may become code: no pickle, eval, exec or shell in the package, wherever they might stand."""

import ast
from pathlib import Path

import pytest

import numpyllm

ROOT = Path(numpyllm.__file__).parent
MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "code", "pty"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def dangers(source):
    """Yield what a module should not have, as text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            names = {alias.name for alias in node.names}
            full = {f"{module}.{name}" for name in names}
            if {name.split(".")[0] for name in (names if isinstance(node, ast.Import) else {module})} & MODULES or full & SHELLS:
                yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in SHELLS:
            yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id
        elif isinstance(node, ast.Call):
            said = {keyword.arg: getattr(keyword.value, "value", "unknown") for keyword in node.keywords}
            loads = ast.unparse(node.func) in {"np.load", "numpy.load", "np.lib.format.read_array"}
            if said.get("shell", False) is not False or said.get("allow_pickle", not loads and False) is not False:
                yield ast.unparse(node)
            elif loads and "allow_pickle" not in said:
                yield ast.unparse(node)


def test_nothing_that_is_read_becomes_code():
    paths = sorted(ROOT.rglob("*.py"))
    found = [f"{path.relative_to(ROOT)}: {what}" for path in paths for what in dangers(path.read_text("utf-8"))]
    assert len(paths) > 50 and not found


@pytest.mark.parametrize("source", [
    "import pickle", "import os, joblib", "from cloudpickle import loads", "from marshal import loads as f", "import shelve as s",
    "def f():\n    import dill", "eval('1')", "f = exec", "compile(x, y, z)", "__import__('pickle')", "os.system('ls')",
    "from os import popen", "run = os.popen", "subprocess.run(x, shell=True)", "subprocess.Popen(x, shell=flag)",
    "np.load(path)", "numpy.load(path, mmap_mode='r')", "np.load(path, allow_pickle=True)", "read_array(f, allow_pickle=flag)"])
def test_each_danger_is_seen(source):
    assert list(dangers(source))


@pytest.mark.parametrize("source", [
    "re.compile('a')", "model.eval()", "subprocess.run(x)", "subprocess.run(x, shell=False)", "np.load(f, allow_pickle=False)",
    "from .pickle_free import load", "json.load(f)"])
def test_what_is_harmless_passes(source):
    assert not list(dangers(source))
