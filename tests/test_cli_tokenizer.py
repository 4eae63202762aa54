"""numpyllm tokenizer: each command, clean pipes, one line for what is wrong, and nothing half-written."""

import io
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from tokenizer_strings import with_bytes

from numpyllm.cli import tokenizer as command
from numpyllm.cli.main import main
from numpyllm.shards import open_shard
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer, load

EOT = "<|endoftext|>"
TOKENIZER = BytePairTokenizer(with_bytes(b"th", b"the"), special_tokens={EOT: 258, "<|x|>": 262})
TEXT = "the cat, the \u00e9\u20ac\U0001f600\r\n\ttheatre \0"


@pytest.fixture
def run(capfdbinary, monkeypatch):
    """Run `numpyllm tokenizer ...` -> exit code, standard output as bytes, standard error as text."""
    def run(*argv, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = main(["tokenizer", *map(str, argv)])
        except SystemExit as stop:
            code = stop.code
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()
    return run


@pytest.fixture
def vocabulary(tmp_path):
    TOKENIZER.save(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_bytes(TEXT.encode())
    return tmp_path / "text.txt"


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_has_examples(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0 and out.decode().startswith(f"usage: numpyllm tokenizer {name}")
    assert f"examples:\n  numpyllm tokenizer {name}" in out.decode() or f"| numpyllm tokenizer {name}" in out.decode()


def test_commands(run):
    code, out, _ = run()
    assert code == 0 and all(name in out.decode() for name in command.COMMANDS)
    assert run("trian") == (2, b"", "numpyllm: error: trian is no command: did you mean train?\n")
    assert run("x")[2] == "numpyllm: error: x is no command: there are train, encode, decode, info, convert\n"


class TestEncodeAndDecode:
    def test_in_one_line(self, run, vocabulary, text):
        ids = TOKENIZER.encode(TEXT)
        expected = 0, (" ".join(map(str, ids)) + "\n").encode(), ""
        assert run("encode", text, "--vocabulary", vocabulary) == expected
        assert run("encode", "-", "--vocabulary", vocabulary, stdin=TEXT.encode()) == expected
        assert run("encode", "--vocabulary", vocabulary, stdin=b"") == (0, b"\n", "")
        assert run("decode", "--vocabulary", vocabulary, stdin=expected[1]) == (0, TEXT.encode(), "")
        assert run("decode", "--vocabulary", vocabulary, stdin=b" \n") == (0, b"", "")

    def test_long_lines(self, run, vocabulary, monkeypatch):
        monkeypatch.setattr(command, "IDS_AT_ONCE", 3)
        for n in (1, 2, 3, 4, 6, 7):
            assert run("encode", "--vocabulary", vocabulary, stdin=b"x" * n) == (0, b" ".join([b"120"] * n) + b"\n", "")
            assert run("decode", "--vocabulary", vocabulary, stdin=b"120 " * n) == (0, b"x" * n, "")

    def test_shards(self, run, vocabulary, text, tmp_path):
        shard = tmp_path / "text.bin"
        code, out, err = run("encode", text, "--vocabulary", vocabulary, "--out", shard)
        ids, header = open_shard(shard, verify=True)
        assert (code, out, err) == (0, b"", f"{shard}: {len(ids)} tokens\n")
        assert ids.tolist() == TOKENIZER.encode(TEXT) and ids.dtype == np.uint16
        assert (header["n_vocab"], header["tokenizer"], header["sources"]) == (263, TOKENIZER.sha256, [str(text)])
        assert run("decode", shard, "--vocabulary", vocabulary) == (0, TEXT.encode(), "")
        assert run("decode", shard, "--vocabulary", vocabulary, "--out", tmp_path / "back.txt") == (0, b"", "")
        assert (tmp_path / "back.txt").read_bytes() == TEXT.encode()
        BytePairTokenizer(with_bytes(b"the", b"th")).save(tmp_path / "other.json")
        code, out, err = run("decode", shard, "--vocabulary", tmp_path / "other.json")
        shard.write_bytes(bytes(shard.stat().st_size))
        assert run("decode", shard, "--vocabulary", vocabulary) == (
            2, b"", f"numpyllm: error: {shard}: is damaged (its SHA-256 must be the header's): make it anew\n")
        assert code == 2 and out == b"" and f"{shard} was made with another tokenizer, of SHA-256 {TOKENIZER.sha256}" in err

    def test_bytes_that_are_no_text_come_out_as_they_are(self, run, vocabulary):
        assert run("decode", "--vocabulary", vocabulary, stdin=b"255 0 10 13 192") == (0, b"\xff\0\n\r\xc0", "")

    def test_special_tokens(self, run, vocabulary):
        data = f"a{EOT}".encode()
        assert run("encode", "--vocabulary", vocabulary, stdin=data) == (
            2, b"", f"numpyllm: error: standard input must not contain the special token {EOT}, found at character 1: --on_special "
            "encode makes it that token, --on_special ordinary takes it as text\n")
        assert run("encode", "--vocabulary", vocabulary, "--on_special", "encode", stdin=data) == (0, b"97 258\n", "")
        as_text = " ".join(map(str, [97, *EOT.encode()])) + "\n"
        assert run("encode", "--vocabulary", vocabulary, "--on-special", "ordinary", stdin=data) == (0, as_text.encode(), "")
        assert run("decode", "--vocabulary", vocabulary, stdin=b"97 258") == (0, data, "")

    def test_characters(self, run, tmp_path):
        CharacterTokenizer("abc").save(tmp_path / "tokenizer.json")
        assert run("encode", "--vocabulary", tmp_path, stdin=b"cab") == (0, b"2 0 1\n", "")

    def test_what_a_file_of_ranks_does_not_hold(self, run, tmp_path):
        TOKENIZER.save(tmp_path / "x.tiktoken", "tiktoken")
        beside = ["--vocabulary", tmp_path / "x.tiktoken", "--pattern", "gpt2", "--special_token", f"{EOT}=258"]
        assert run("encode", *beside, "--on_special", "encode", stdin=f"the{EOT}".encode()) == (0, b"257 258\n", "")
        code, _, err = run("encode", *beside[:4], "--special_token", "x")
        assert code == 2 and err.endswith("argument --special_token: must be NAME=ID, got 'x'\n")

    @pytest.mark.parametrize(("argv", "stdin", "message"), [
        (["encode", "nothing.txt", "--vocabulary", "V"], b"", "nothing.txt: cannot be read: No such file or directory"),
        (["encode", "--vocabulary", "nothing.json"], b"", "nothing.json: cannot be read: No such file or directory"),
        (["encode", "--vocabulary", "."], b"", ".: holds no tokenizer"),
        (["encode", "--vocabulary", "V"], b"ab\xff", "standard input is no UTF-8 text (byte 2 is 0xff): convert it to UTF-8"),
        (["encode", "--vocabulary", "V", "--out", "nowhere/x.bin"], b"", "nowhere/x.bin cannot be written: "),
        (["decode", "--vocabulary", "V"], b"97 263", "ids must be from 0 to 262, got 263 at position 1; was this sequence"),
        (["decode", "--vocabulary", "V"], b"-1", "ids must be from 0 to 262, got -1 at position 0"),
        (["decode", "--vocabulary", "V"], b"1,2", "standard input must hold ids, whole numbers between white space, got b'1,2'"),
        (["decode", "--vocabulary", "V"], b"1.5", "standard input must hold ids, whole numbers between white space, got b'1.5'"),
        (["decode", "--vocabulary", "V"], b"260", "ids must be those of tokens, got 260 at position 0"),
        (["decode", "x.bin", "--vocabulary", "V"], b"", "x.bin: there is no such token shard"),
    ])
    def test_bad_input(self, run, vocabulary, tmp_path, monkeypatch, argv, stdin, message):
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        code, out, err = run(*[vocabulary if arg == "V" else arg for arg in argv], stdin=stdin)
        assert (code, out) == (2, b"") and err.startswith(f"numpyllm: error: {message}") and err.count("\n") == 1
        assert os.listdir() == []

    def test_the_old_output_survives(self, run, vocabulary, text, tmp_path):
        shard, back = tmp_path / "text.bin", tmp_path / "back.txt"
        run("encode", text, "--vocabulary", vocabulary, "--out", shard)
        back.write_text("old")
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert run("encode", "--vocabulary", vocabulary, "--out", shard, stdin=f"new{EOT}".encode())[0] == 2
        assert run("encode", "--vocabulary", vocabulary, "--out", shard, stdin=b"\xff")[0] == 2
        assert run("decode", "--vocabulary", vocabulary, "--out", back, stdin=b"97 9999")[0] == 2
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestTrain:
    def test_files_folders_and_standard_input(self, run, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a.txt").write_text("the cat the cat ")
        out = tmp_path / "tokenizer.json"
        code, printed, err = run("train", tmp_path / "folder", "-", "--vocab_size", 262, "--out", out, stdin=b"the dog " * 9)
        assert (code, printed, err) == (0, b"", f"{out}: 262 tokens, pattern gpt2, format huggingface\n")
        assert load(out) == BytePairTokenizer.train(["the cat the cat ", "the dog " * 9], 262)

    def test_options(self, run, tmp_path):
        out = tmp_path / "x.tiktoken"
        code, _, err = run("train", "-", "--vocab-size", 260, "--pattern", r"\S+|\s+", "--special_token", "<a b>", "--special_token",
                           "<b>", "--min_frequency", 2, "--out", out, stdin=b"the the the cat")
        assert code == 0 and err == (f"{out}: 260 tokens, pattern \\S+|\\s+, format tiktoken\nit holds ranks alone: read it with "
                                     "--pattern '\\S+|\\s+' --special_token '<a b>=258' --special_token '<b>=259'\n")
        expected = BytePairTokenizer.train("the the the cat", 260, pattern=r"\S+|\s+", special_tokens=("<a b>", "<b>"))
        assert load(out, pattern=r"\S+|\s+", special_tokens={"<a b>": 258, "<b>": 259}) == expected
        code, printed, err = run("train", "-", "--vocab_size", 257, "--no_special_tokens", "--format", "huggingface", "--out", "-",
                                 stdin=b"the the the cat")
        assert code == 0 and json.loads(printed)["added_tokens"] == []
        assert err == "vocabulary: 257 tokens, pattern gpt2, format huggingface\n"

    def test_too_little_text_is_a_note(self, run, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            code, _, err = run("train", "-", "--out", tmp_path / "t.json", stdin=b"abab")
        assert code == 0 and err.startswith("numpyllm: note: the vocabulary has 259 tokens instead of 8192: no pair is left")

    @pytest.mark.parametrize(("argv", "message"), [
        (["--vocab_size", "256"], "vocab_size (bytes, merges and special tokens) must be at least 257, got 256"),
        (["--special_token", "a"], "a special token must not be spelt like an ordinary one, got 'a'"),
        (["--special_token", "a", "--no_special_tokens"], "--special_token names some and --no_special_tokens none"),
        (["--pattern", "gtp2"], "pattern must be one of ['cl100k', 'gpt2', 'llama3', 'o200k'] or a regular expression, got 'gtp2'"),
        (["--out", "x"], "x must be called *.json, vocab.json or *.tiktoken, or --format must say what it is to be"),
        (["--out", "nowhere/t.json"], "nowhere/t.json cannot be written: "),
        (["--out", "-", "--format", "gpt2"], "GPT-2's are two files and cannot go to standard output"),
        (["nothing.txt"], "nothing.txt: cannot be read: No such file or directory"),
    ])
    def test_bad_input_leaves_the_old_file(self, run, vocabulary, argv, message, monkeypatch):
        monkeypatch.chdir(vocabulary.parent)
        before = vocabulary.read_bytes()
        code, out, err = run("train", *([] if argv[0] == "nothing.txt" else ["-"]), "--out", vocabulary, *argv, stdin=b"the cat")
        assert (code, out) == (2, b"") and err.startswith(f"numpyllm: error: {message}") and err.count("\n") == 1
        assert vocabulary.read_bytes() == before and os.listdir() == ["tokenizer.json"]


class TestInfo:
    def test_as_json(self, run, vocabulary, text):
        code, out, _ = run("info", vocabulary, "--data", text, "--longest", 2, "--json")
        found = json.loads(out)
        n_tokens, n_bytes = len(TOKENIZER.encode(TEXT)), len(TEXT.encode())
        assert code == 0 and found == {
            "format": "huggingface", "n_vocab": 263, "ordinary_tokens": 258, "special_tokens": {EOT: 258, "<|x|>": 262},
            "begins_with": None, "pattern": "gpt2", "unicode_version": TOKENIZER.unicode_version, "dtype": "uint16", "sha256": TOKENIZER.sha256,
            "longest": ["the", "th"], "bytes": n_bytes, "tokens": n_tokens, "bytes_per_token": n_bytes / n_tokens}

    def test_as_text(self, run, vocabulary, tmp_path):
        code, out, _ = run("info", vocabulary, "--data", "-", "--longest", 1, stdin=b"the the")
        assert code == 0 and out.decode().splitlines() == [
            "format           huggingface", "tokens           263: 258 ordinary, 2 special, 3 free",
            f"special token    {EOT} 258", "special token    <|x|> 262", "pattern          gpt2",
            f"letters of       {TOKENIZER.unicode_version}", "ids are          uint16", f"sha256           {TOKENIZER.sha256}",
            "long token       'the'", "bytes per token  2.333 (7 bytes, 3 tokens)"]
        CharacterTokenizer("abc").save(tmp_path / "characters.json")
        code, out, _ = run("info", tmp_path / "characters.json")
        assert code == 0 and out.decode().startswith("format           character\ntokens           3: 3 ordinary, 0 special\nids are")

    def test_an_empty_text(self, run, vocabulary):
        assert run("info", vocabulary, "--data", "-") == (
            2, b"", "numpyllm: error: standard input is empty: give a text to measure on\n")

    def test_a_broken_vocabulary(self, run, vocabulary):
        vocabulary.write_bytes(vocabulary.read_bytes()[:-100])
        code, out, err = run("info", vocabulary)
        assert (code, out) == (2, b"") and err.startswith(f"numpyllm: error: {vocabulary}: must be JSON") and err.count("\n") == 1


class TestConvert:
    def test_from_each_to_each(self, run, vocabulary, tmp_path):
        folder = tmp_path / "gpt2"
        folder.mkdir()
        beside = ["--pattern", "gpt2", "--special_token", f"{EOT}=258", "--special_token", "<|x|>=262"]
        for source, target in ((vocabulary, folder / "vocab.json"), (folder, tmp_path / "x.tiktoken"),
                               (tmp_path / "x.tiktoken", tmp_path / "y.json")):
            code, out, err = run("convert", source, "--out", target, *(beside if source.suffix == ".tiktoken" else []))
            assert (code, out) == (0, b"") and err.startswith(f"{target}: 263 tokens, pattern gpt2, format ")
        assert (tmp_path / "y.json").read_bytes() == vocabulary.read_bytes()
        code, out, _ = run("convert", vocabulary, "--out", "-", "--format", "tiktoken")
        assert code == 0 and out == (tmp_path / "x.tiktoken").read_bytes()

    def test_bad_input_leaves_the_old_file(self, run, vocabulary, tmp_path):
        BytePairTokenizer(with_bytes(b"cats")).save(tmp_path / "stranded.json")
        (tmp_path / "vocab.json").write_text("old")
        (tmp_path / "merges.txt").write_text("old")
        code, _, err = run("convert", tmp_path / "stranded.json", "--out", tmp_path / "vocab.json")
        assert code == 2 and "GPT-2's files need merges that make each token, none make b'cats'" in err and err.count("\n") == 1
        assert (tmp_path / "vocab.json").read_text() == (tmp_path / "merges.txt").read_text() == "old"
        CharacterTokenizer("abc").save(tmp_path / "characters.json")
        code, _, err = run("convert", tmp_path / "characters.json", "--out", tmp_path / "x.json")
        assert code == 2 and "a vocabulary of characters has no other format" in err and not (tmp_path / "x.json").exists()


def test_a_pipe_that_is_closed_is_no_traceback(vocabulary, tmp_path):
    """Such as `numpyllm tokenizer encode ... | head`."""
    (tmp_path / "long.txt").write_text("the cat " * 200_000)
    process = subprocess.Popen([sys.executable, "-m", "numpyllm", "tokenizer", "encode", tmp_path / "long.txt", "--vocabulary",
                                vocabulary], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(8) == b"257 32 9"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_encode_into_decode(vocabulary):
    """Through real pipes: bytes go in and come out."""
    script = "%s -m numpyllm tokenizer encode - --vocabulary {0} | %s -m numpyllm tokenizer decode - --vocabulary {0}"
    script = (script % (sys.executable, sys.executable)).format(vocabulary)
    done = subprocess.run(["sh", "-c", script], input=TEXT.encode(), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT.encode(), b"")


def test_a_text_without_end(vocabulary):
    """Ids come while the text still comes, and `head` ends it all."""
    script = f"yes the | {sys.executable} -m numpyllm tokenizer encode --vocabulary {vocabulary} | head -c 14"
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"257 10 257 10 ", b"")
