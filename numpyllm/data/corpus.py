"""Text to train on: the corpus that every CPython carries, or the user's files.

The embedded corpus is real English and needs no network: the topics of the language reference (pydoc_data, what
`help("lambda")` shows), and the docstrings of the standard library, module by module in alphabetical order. It depends on
nothing but the version of Python.
"""

import ast
import sysconfig
from pathlib import Path

from ..errors import InputError
from ..files import text_files

NOT_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data",
                   "__pycache__"}


def topics_text():
    """The topics of the Python language reference (about 0.5 MB), joined by blank lines in alphabetical order."""
    return "\n\n".join(reference_topics()) + "\n"


def reference_topics():
    """The same as a list."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError("this Python carries no pydoc_data, so there is no embedded corpus: give a text with --data") from None
    return [topics[name].strip() for name in sorted(topics)]


def library_files(folder=None):
    """The modules of the standard library, paths in alphabetical order."""
    folder = Path(folder or sysconfig.get_path("stdlib"))
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py")
                   if not NOT_THE_LIBRARY & set(path.relative_to(folder).parts[:-1]))
    return [path for _, path in files]


def source_text(folder=None):
    """The source of the standard library (about 10 MB), module after module: text that is not English."""
    return "".join(path.read_text("utf-8", errors="replace") for path in library_files(folder))


def docstrings_text(folder=None):
    """All docstrings of the standard library's modules (about 2 MB), each once, in the order of files and lines."""
    seen = {}       # a dict keeps the order
    for path in library_files(folder):
        seen |= dict.fromkeys(module_docstrings(path))
    return "\n\n".join(filter(None, seen)) + "\n"


def module_docstrings(path):
    """The docstrings of one file in the order of its lines, none if it cannot be parsed."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return [doc for node in nodes if (doc := ast.get_docstring(node))]


def embedded_text():
    """The embedded corpus: docstrings first, then the topics."""
    return docstrings_text() + "\n" + topics_text()


def load_text(source=None):
    """The text of a file, of all text files in a folder (by name, joined by newlines), or the embedded corpus for None.

    Raises InputError if the source is missing, empty, or no UTF-8.
    """
    if source is None:
        return embedded_text()
    if not str(source):
        raise InputError("a text must be named, got an empty name: leave --data out for the embedded corpus")
    text = "\n".join(_read(path) for path in text_files(source))
    if not text.strip():
        raise InputError(f"{source} is empty: a text is needed to learn from")
    return text


def _read(path):
    try:
        return path.read_bytes().decode("utf-8-sig")       # without a byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}): "
                         "convert it to UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def split_by_position(text, val_fraction=0.1):
    """The first part for training, the last for validation -> (train, val)."""
    cut = int(len(text) * (1 - val_fraction))
    return text[:cut], text[cut:]
