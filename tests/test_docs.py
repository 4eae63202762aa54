"""The documentation holds together: links lead somewhere, pictures are small and have a script that draws them."""

import ast
import re
from pathlib import Path

import pytest

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
