"""Records from files: what is read, how errors are placed, and that a split leaks nothing."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm.data import read_lines, read_records, split_by_content, text_field
from numpyllm.errors import InputError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


ROWS = [{"text": "a, b", "label": "x"}, {"text": "zwei", "label": "y"}]


@pytest.mark.parametrize("name, content", [
    ("a.csv", 'text,label\n"a, b",x\nzwei,y\n'),
    ("a.csv", '\ufefftext,label\r\n"a, b",x\r\n\r\nzwei,y'),
    ("a.tsv", "text\tlabel\na, b\tx\nzwei\ty\n"),
    ("a.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
    ("a.csv", 'text,label\r"a, b",x\rzwei,y\r'),
    ("a.json", json.dumps(ROWS)),
])
def test_the_same_records_from_every_kind_of_file(tmp_path, name, content):
    assert read_records(write(tmp_path, name, content), columns=("text", "label")) == ROWS


def test_a_field_may_have_lines_and_a_tsv_has_no_quotes(tmp_path):
    assert read_records(write(tmp_path, "a.csv", 'text,label\n"one\ntwo ""three""",x\n')) == [{"text": 'one\ntwo "three"', "label": "x"}]
    assert read_records(write(tmp_path, "a.tsv", 'text\tlabel\n"one" two\tx\n')) == [{"text": '"one" two', "label": "x"}]
    assert read_records(write(tmp_path, "b.tsv", "gj04\t1\n"), header=("source", "label")) == [{"source": "gj04", "label": "1"}]


@pytest.mark.parametrize("name, content, message", [
    ("a.csv", "text,tag\na,b\n", r"a\.csv:1: .*column 'label', it names 'text', 'tag'"),
    ("a.csv", "text,label,text\n", r"a\.csv:1: .*names of their own"),
    ("a.csv", "text,label\na,b\nc\n", r"a\.csv:3: must have 2 columns, .* it has 1"),
    ("a.csv", 'text,label\n"a,b\nc,d\n', r"a\.csv:2: .*quotation mark"),
    ("a.csv", 'text,label\n"a\nb",c\n"a\nb",c,d\n', r"a\.csv:4: must have 2 columns"),
    ("a.csv", 'text,label\na\rb,c\n', r"a\.csv:2: new-line character seen in unquoted field: is a"),
    ("a.tsv", b"text\tlabel\na\tb\n\xff\tc\n", r"a\.tsv:3: is no UTF-8 text \(byte 0"),
    ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', r"a\.jsonl:2: must be a JSON object in one line"),
    ("a.jsonl", "[1]\n", r"a\.jsonl:1: must be a JSON object, got \[1\]"),
    ("a.jsonl", '{"text": "a"}\n', r"a\.jsonl:1: must have a field 'label', it has 'text'"),
    ("a.jsonl", '{"text": "a", "label": null}\n', r"a\.jsonl:1: must have a field 'label'"),
    ("a.json", '[{"text": "a",\n"label": }]', r"a\.json:2: must be JSON"),
    ("a.json", '{"text": 1}', r"must hold a JSON list"),
    ("a.json", '\ufeff\n[{"text": "a,\\n]", "label":\r\n "b"}\n, 7 ]', r"a\.json:4: must be a JSON object, got 7"),
    ("a.json", b'[\n"\xe9"]', r"a\.json:2: is no UTF-8 text \(byte 1"),
    ("a.jsonl", '\n{"text": "a", "label": "b", "text": "c"}\n', r"a\.jsonl:2: keys must be distinct, got 'text' twice"),
    ("a.json", '[\n{"text": "a", "label": "b", "text": "c"}\n]', r"a\.json:2: keys must be distinct, got 'text' twice"),
    ("a.jsonl", '{"text": "a", "label": ["b", "\\ud83d"]}\n', r"a\.jsonl:1: must hold whole characters, got \\ud83d alone"),
    ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: must be a JSON object in one line: maximum recursion"),
    ("a.csv", "text,label\n", "must hold records, it holds none"),
    ("a.csv", "", "must hold records, it holds none"),
    ("a.txt", "text", r"must be of a known kind \(\.csv, .*got \.txt"),
])
def test_bad_files_are_refused_with_their_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        read_records(write(tmp_path, name, content), columns=("text", "label"))


def test_half_a_character_is_refused_and_a_pair_of_halves_is_one(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00 \\u00e9"}\n{"text": "\\ude00"}\n')
    assert read_records(path, skip_bad=True) == [{"text": "\U0001f600 \xe9"}]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="none.csv: cannot be read"):
        read_records(tmp_path / "none.csv")


def test_bad_records_can_be_skipped_and_are_counted(tmp_path):
    lines = ['{"text": "a", "label": "x"}', "{", '{"text": "  ", "label": "x"}', '{"text": 3, "label": "x"}', '{"text": " b ", "label": "y"}']
    path, skipped = write(tmp_path, "a.jsonl", "\n".join(lines)), []
    parse = lambda fields: text_field(fields, "text")
    assert read_records(path, parse, columns=("text",), skip_bad=True, skipped=skipped) == ["a", "b"]
    assert [message.split("a.jsonl:")[1].split(":")[0] for message in skipped] == ["2", "3", "4"]
    assert "text must not be empty" in skipped[1] and "text must be a text, got 3" in skipped[2]
    with pytest.raises(InputError, match="a.jsonl:2"):
        read_records(path, parse)
    with pytest.raises(InputError, match="none that can be used, and 1 that cannot"):
        read_records(write(tmp_path, "b.jsonl", "{"), parse, skip_bad=True)


@given(st.lists(st.text(max_size=12), max_size=60), st.integers(0, 3), st.randoms(use_true_random=False))
def test_nothing_held_out_was_trained_on(texts, seed, shuffled):
    """Repeats, other blanks, other case: all on one side, in whatever order and company they come."""
    texts = texts + [f"  {text.upper()} " for text in texts if text.upper().casefold() == text.casefold()]
    shuffled.shuffle(texts)
    kept, held = split_by_content(texts, 0.3, key=str, seed=seed)
    plain = lambda some: {" ".join(text.casefold().split()) for text in some}
    assert not plain(kept) & plain(held)
    assert sorted(kept + held) == sorted(texts)
    assert split_by_content(texts[:5], 0.3, key=str, seed=seed)[1] == [text for text in texts[:5] if text in held]


def test_about_the_fraction_is_held_out_and_another_seed_holds_out_others():
    texts = [f"text {i}" for i in range(4000)]
    random.Random(0).shuffle(texts)
    held = split_by_content(texts, 0.1, key=str)[1]
    assert 320 <= len(held) <= 480                                          # 4 standard deviations
    assert set(held) != set(split_by_content(texts, 0.1, key=str, seed=1)[1])


def test_lines_of_a_text(tmp_path):
    path, skipped = write(tmp_path, "a.txt", b"\xef\xbb\xbf one, two \r\n\n\xc2\xa0\nthree\tfour"), []
    assert read_lines(path) == ["one, two", "three\tfour"]

    def refuse_tabs(line):
        if "\t" in line:
            raise InputError("must have no tab")
        return len(line)

    assert read_lines(path, refuse_tabs, skip_bad=True, skipped=skipped) == [8]
    assert skipped == [f"{path}:4: must have no tab"]
    with pytest.raises(InputError, match="a.txt:4: must have no tab"):
        read_lines(path, refuse_tabs)
    for content, message in ((b"\n \n", "must hold texts, one a line, it holds none"), (b"a\n\xff", "a.txt:2: is no UTF-8 text")):
        with pytest.raises(InputError, match=message):
            read_lines(write(tmp_path, "b" + path.name, content))
