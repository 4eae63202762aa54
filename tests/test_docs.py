"""The documentation holds together: links lead somewhere, commands and their options exist, tables are whole, pictures are small and
have a script that draws them."""

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from numpyllm.cli.main import main as numpyllm

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def anchors(page):
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def commands(page):
    """The command lines of numpyllm and of the examples on a page, as lists of words: those in blocks, and those between backticks."""
    blocks = re.findall(r"^(?:    |\$ )?(numpyllm [^#|\n]*|python examples/\w+\.py[^#|\n]*)", page.read_text(), re.MULTILINE)
    quoted = re.findall(r"`(numpyllm [^`|]*|(?:python )?examples/\w+\.py[^`|]*)`", page.read_text())
    return [shlex.split(line) for line in blocks + quoted]


@cache
def flags(*words):
    """What `words --help` prints, and all the flags in it."""
    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout.write", written.append)
        patch.syspath_prepend(ROOT / "examples")        # one of them imports another
        try:
            code = numpyllm([*words[1:], "--help"]) if words[0] == "numpyllm" else importlib.import_module(words[0]).main(["--help"])
        except SystemExit as end:
            code = end.code
    assert not code, words
    text = "".join(written)
    return text, {*re.findall(r"--(\w+)", text), *(f"no_{name}" for name in re.findall(r"--(\w+) \[true\|false\]", text))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_and_have_these_options(page):
    for line in commands(page):
        program = "numpyllm" if line[0] == "numpyllm" else next(Path(word).stem for word in line if word.endswith(".py"))
        words, rest = [program], [word for word in line if not word.endswith(f"{program}.py")][line[0] in ("numpyllm", "python"):]
        while program == "numpyllm" and rest and re.match(r"usage: numpyllm[ a-z]* (COMMAND|TASK) ", flags(*words)[0]):
            words.append(rest.pop(0))                   # main refuses one that does not exist
        known = flags(*words)[1] | ({"version"} if words == ["numpyllm"] else set())
        unknown = [word for word in rest if word.startswith("--") and word[2:].partition("=")[0] not in known]
        assert not unknown, (line, unknown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_whole(page):
    """Each has a header with a rule below it, and all its rows have as many cells."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = table.splitlines()
        assert re.fullmatch(r"[|\s:-]+", rows[1]), rows[0]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, rows[0]


def test_every_page_is_in_the_table_of_contents():
    listed = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and page.name != "README.md" and f"({page.name})" not in listed] == []


@pytest.mark.parametrize("script, prefix, kind", [("make_training_pictures.py", "", "png"), ("make_sampling_pictures.py", "sampling_", "svg")])
def test_pictures_are_small_shown_and_drawn_by_the_script(script, prefix, kind):
    pictures = {path.stem: path for path in (ROOT / "docs" / "pictures").glob(f"*.{kind}")}
    shown = {name for page in PAGES for name in re.findall(rf"!\[[^\]]+\]\(pictures/(\w+)\.{kind}\)", page.read_text())}
    parsed = ast.parse((ROOT / "docs" / script).read_text())
    [table] = [node.value for node in ast.walk(parsed) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PICTURES"]
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")} & set(pictures)         # an example draws what is named after it
    assert set(pictures) == shown == {prefix + key.value for key in table.keys} | examples
    assert all(path.stat().st_size < 80_000 for path in pictures.values())
