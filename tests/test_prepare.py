"""Texts to folders of shards: what is a document, where it goes, the same bytes whatever happens; and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer_strings import with_bytes

import numpyllm.data.documents as documents_module
from numpyllm.cli import data as command
from numpyllm.cli.main import main
from numpyllm.data import Reading, open_data, prepare
from numpyllm.data.corpus import library_files, module_docstrings, reference_topics
from numpyllm.data.documents import Piece, documents, pieces
from numpyllm.errors import InputError
from numpyllm.shards import ShardWriter, header_path
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer, load

prepare_module = sys.modules["numpyllm.data.prepare"]
EOT = "<|endoftext|>"
TOKENIZER = BytePairTokenizer(with_bytes(b"th", b"the"), special_tokens={EOT: 258}, backend="numpy")
OTHER = BytePairTokenizer(with_bytes(b"th", b"he"), special_tokens={EOT: 258}, backend="numpy")


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def documents_of(row, tokenizer=TOKENIZER):
    """The texts in a row of tokens, each of which must end with the end-of-text token."""
    ids = row.read(0, len(row))
    ends = np.flatnonzero(ids == tokenizer.eot_token)
    assert ends[-1] == len(ids) - 1
    return [tokenizer.decode(ids[start:end]) for start, end in zip([0, *ends[:-1] + 1], ends)]


@pytest.fixture
def corpus(tmp_path):
    """A folder of texts, JSON lines beside it, and all documents in order."""
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    texts = {"a.txt": "the cat\r\nand \U0001f600", "b.md": "", "sub/c.rst": "\ufeffthe" + "x" * 3000, "z.jsonl": None, "skip.bin": "no"}
    lines = [f"line {i}, the " + "\u00e9" * i for i in range(40)] + [f"a {EOT} in a text", "lone \ud800", ""]
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_bytes(text.encode())
    (folder / "z.jsonl").write_text("\n\n".join(json.dumps({"id": 1, "text": line}) for line in lines) + "\r\n")
    found = [texts["a.txt"], texts["sub/c.rst"].removeprefix("\ufeff"), *lines[:-2], "lone \ufffd"]
    return folder, found


@pytest.fixture
def run(capfd):
    """Run `numpyllm data ...` -> exit code, standard output, standard error."""
    def run(*argv):
        try:
            code = main(["data", *map(str, argv)])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()
    return run


@pytest.fixture
def vocabulary(tmp_path):
    TOKENIZER.save(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


class TestDocuments:
    @given(text=st.text(alphabet="ab\n", max_size=60), separator=st.sampled_from(["\n", "\n\n", "a", "ab", "aba", "bab\n"]),
           span=st.integers(1, 70), block=st.integers(1, 9))
    @example(text="aaa\n\n\nb", separator="\n\n", span=6, block=9)
    @example(text="ab", separator="aba", span=1, block=9)
    def test_spans_hold_whole_documents(self, tmp_path_factory, text, separator, span, block):
        path = tmp_path_factory.getbasetemp() / "cut.txt"
        path.write_bytes(text.encode())
        reading = Reading(separator=separator)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(documents_module, "BLOCK", block)
            cut = list(pieces(str(path), reading, span))
            found = [file.read().decode() for piece in cut for _, file in documents(piece, reading)]
        assert [piece.start for piece in cut[1:]] == [piece.stop for piece in cut[:-1]]
        assert cut[0].start == 0 and cut[-1].stop == len(text) and all(piece.size >= span for piece in cut[:-1])
        assert [part for part in found if part] == [part for part in text.split(separator) if part]

    def test_a_folder(self, corpus):
        folder, expected = corpus
        cut = list(pieces(str(folder), Reading(), 300))
        assert [Path(piece.path).name for piece in cut if piece.start == 0] == ["a.txt", "b.md", "c.rst", "z.jsonl"]
        assert len(cut) > 6
        found = [file.read().decode() for piece in cut for _, file in documents(piece, Reading())]
        assert [text for text in found if text] == expected

    def test_what_python_carries(self):
        source = list(pieces("python:source", Reading(), 1))
        assert len(source) == len(library_files()) > 100 and all(piece.kind == "source" for piece in source)
        assert [file.read() for _, file in documents(source[0], Reading())] == [Path(source[0].path).read_bytes()]
        english = list(pieces("python:english", Reading(), 1))
        json_module = next(piece for piece in english if piece.path.endswith("json/__init__.py"))
        [(_, file)] = documents(json_module, Reading())
        assert file.read().decode() == "\n\n".join(module_docstrings(json_module.path)) and json_module.size > 1000
        assert [file.read().decode() for _, file in documents(english[-1], Reading())] == reference_topics()

    @pytest.mark.parametrize(("name", "data", "message"), [
        ("a.jsonl", b'{"text": "x"}\n{"tex": "x"}\n', "a.jsonl, what begins at byte 14, must be a JSON object with a string 'text', it "
         "has tex: name the --field"),
        ("a.jsonl", b'{"text": 5}', "a string 'text', it has text"),
        ("a.jsonl", b"[1]", "it has list"),
        ("a.jsonl", b'{"text": "x"', "what begins at byte 0, must be a JSON object in one line: Expecting"),
        ("a.jsonl", b"[" * 100_000, "must be a JSON object in one line"),
        ("a.jsonl", b'{"text": "\xff"}', "what begins at byte 0, is no UTF-8 text (byte 10 is 0xff)"),
        ("a.txt", b"ab\xff", "a.txt is no UTF-8 text (byte 2 is 0xff): convert it to UTF-8, or give --errors replace"),
        ("nothing.txt", None, "nothing.txt: cannot be read: No such file"),
        ("folder", "", "folder holds no texts (.jsonl .md"),
    ])
    def test_unusable(self, tmp_path, name, data, message):
        path = tmp_path / name
        if data == "":
            path.mkdir()
        elif data is not None:
            path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            prepare([str(path)], TOKENIZER, tmp_path / "out", val_fraction=0)
        assert message in str(caught.value) and "\n" not in str(caught.value)

    def test_replaced_bytes(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"a\xffb")
        prepare([str(tmp_path / "a.txt")], TOKENIZER, tmp_path / "out", val_fraction=0, reading=Reading(errors="replace"))
        assert documents_of(open_data(tmp_path / "out").train) == ["a\ufffdb"]

    def test_a_file_that_shrinks(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"a,b,c")
        with pytest.raises(InputError, match="a.txt: has become shorter than it was, at byte 5"):
            list(documents(Piece("separated", str(tmp_path / "a.txt"), 0, 9), Reading(separator=",")))


class TestPrepare:
    def test_every_document_once(self, corpus, tmp_path):
        folder, expected = corpus
        header = prepare([str(folder)], TOKENIZER, tmp_path / "out", val_fraction=0.3, seed=5, shard_bytes=500)
        data = open_data(tmp_path / "out", verify=True)
        for_validation = [prepare_module.is_validation(text.encode(), 5, 0.3) for text in expected]
        assert documents_of(data.train) == [text for text, val in zip(expected, for_validation) if not val]
        assert documents_of(data.val) == [text for text, val in zip(expected, for_validation) if val]
        assert 5 < sum(for_validation) < 20
        assert header == data.header == json.loads((tmp_path / "out" / "data.json").read_text())
        assert header["train"]["documents"] + header["val"]["documents"] == len(expected)
        assert header["train"]["bytes"] + header["val"]["bytes"] == sum(len(text.encode()) for text in expected)
        assert header["train"]["tokens"] == len(data.train) and header["val"]["tokens"] == len(data.val)
        assert header["sources"] == [{"source": str(folder), "files": 4, "bytes": sum(
            (folder / name).stat().st_size for name in ("a.txt", "sub/c.rst", "z.jsonl"))}]
        assert (header["dtype"], header["n_vocab"], header["tokenizer"]) == ("uint16", 259, TOKENIZER.sha256)
        assert load(tmp_path / "out" / "tokenizer.json") == TOKENIZER == data.load_tokenizer()
        shard = header_path(tmp_path / "out" / "train_00001.bin")
        assert json.loads(shard.read_text())["sources"] == [str(folder)] and len(header["train"]["shards"]) > 3
        assert {path.split("_")[0] for path in files(tmp_path / "out")} == {"data.json", "tokenizer.json", "train", "val"}

    def test_large_documents_are_read_bit_by_bit(self, corpus, tmp_path, monkeypatch):
        folder, _ = corpus
        settings = {"val_fraction": 0.3, "shard_bytes": 500}
        prepare([str(folder)], TOKENIZER, tmp_path / "whole", **settings)
        monkeypatch.setattr(prepare_module, "BLOCK", 1000)      # c.rst is larger
        monkeypatch.setattr(prepare_module, "HASHED", 1000)
        prepare([str(folder)], TOKENIZER, tmp_path / "parts", **settings)
        whole, parts = open_data(tmp_path / "whole"), open_data(tmp_path / "parts")
        assert sorted(documents_of(whole.train) + documents_of(whole.val)) == sorted(documents_of(parts.train) + documents_of(parts.val))
        assert whole.header["train"]["bytes"] + whole.header["val"]["bytes"] == sum(
            parts.header[name]["bytes"] for name in ("train", "val"))

    def test_the_split_is_of_the_text_alone(self):
        texts = [f"document {i}".encode() for i in range(4000)]
        chosen = [prepare_module.is_validation(text, 1, 0.1) for text in texts]
        assert 320 < sum(chosen) < 480
        smaller = [prepare_module.is_validation(text, 1, 0.05) for text in texts]
        assert all(c for c, s in zip(chosen, smaller) if s)         # a larger fraction keeps what a smaller one chose
        assert chosen != [prepare_module.is_validation(text, 2, 0.1) for text in texts]
        assert not any(prepare_module.is_validation(text, 1, 0.0) for text in texts)
        long = b"x" * prepare_module.HASHED
        assert prepare_module.is_validation(long, 1, 0.5) == prepare_module.is_validation(long + b"y", 1, 0.5)

    def test_workers_change_nothing(self, corpus, tmp_path):
        folder, _ = corpus
        settings = {"val_fraction": 0.3, "shard_bytes": 300}
        prepare([str(folder)], TOKENIZER, tmp_path / "one", **settings)
        seen = []
        prepare([str(folder)], TOKENIZER, tmp_path / "two", **settings, workers=2, progress=lambda *state: seen.append(state))
        assert files(tmp_path / "one") == files(tmp_path / "two")
        assert seen[-1] == (total := sum(s["bytes"] for s in open_data(tmp_path / "one").header["sources"]), total)
        assert sorted(seen) == seen

    def test_an_error_in_a_worker(self, corpus, tmp_path):
        folder, _ = corpus
        (folder / "zz.txt").write_bytes(b"\xff")
        with pytest.raises(InputError, match=r"zz.txt is no UTF-8 text \(byte 0 is 0xff\)"):
            prepare([str(folder)], TOKENIZER, tmp_path / "out", shard_bytes=300, workers=2)
        assert not any(name.endswith(".tmp") for name in files(tmp_path / "out"))

    @pytest.mark.parametrize("after", [0, 1, 3, 6])
    def test_an_interrupt_and_on(self, corpus, tmp_path, monkeypatch, after):
        folder, _ = corpus
        settings = {"val_fraction": 0.3, "shard_bytes": 300}
        prepare([str(folder)], TOKENIZER, tmp_path / "whole", **settings)
        out, calls = tmp_path / "out", []

        def interrupt(done, total):
            calls.append(done)
            if len(calls) > after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare([str(folder)], TOKENIZER, out, **settings, progress=interrupt)
        assert not any(name.endswith(".tmp") for name in files(out)) and "data.json" not in files(out)
        finished = {name: (out / name).stat().st_mtime_ns for name in files(out) if "_" in name}
        assert len(finished) >= 4 * after
        with pytest.raises(InputError, match="is not finished: go on with"):
            open_data(out)
        (out / ".train_00001.bin.0123abcd.tmp").write_text("left by a killed process")
        header = prepare([str(folder)], TOKENIZER, out, **settings, resume=True)
        assert files(out) == files(tmp_path / "whole")
        assert all((out / name).stat().st_mtime_ns == changed for name, changed in finished.items() if "train" in name or after == 0)
        assert prepare([str(folder)], TOKENIZER, out, **settings, resume=True) == header        # nothing left to do

    def test_what_is_there_is_not_lost_unasked(self, corpus, tmp_path):
        folder, _ = corpus
        out = tmp_path / "out"
        settings = {"val_fraction": 0.3}
        prepare([str(folder)], TOKENIZER, out, **settings)
        (out / "notes.txt").write_text("mine")
        before = files(out)
        for more, message in (({}, "is not empty: give --overwrite"),
                              ({"resume": True, "seed": 1}, "was begun with other seed: give the same"),
                              ({"resume": True, "overwrite": True}, "give one of them"),
                              ({"workers": 0}, "must be at least 1")):
            with pytest.raises(InputError, match=message):
                prepare([str(folder)], TOKENIZER, out, **settings | more)
            assert files(out) == before
        prepare([str(folder)], OTHER, out, **settings, overwrite=True)
        assert files(out)["notes.txt"] == b"mine" and open_data(out, verify=True).header["tokenizer"] == OTHER.sha256
        with pytest.raises(InputError, match="holds nothing that was begun"):
            prepare([str(folder)], TOKENIZER, tmp_path / "new", **settings, resume=True)

    def test_a_source_that_changed_is_not_gone_on_with(self, corpus, tmp_path):
        folder, _ = corpus
        with pytest.raises(InputError, match="none fell to validation"):
            prepare([str(folder)], TOKENIZER, tmp_path / "out", val_fraction=1e-9)
        os.utime(folder / "a.txt", ns=(1, 1))
        with pytest.raises(InputError, match="was begun with other files"):
            prepare([str(folder)], TOKENIZER, tmp_path / "out", val_fraction=1e-9, resume=True)

    @pytest.mark.parametrize(("settings", "message"), [
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1, got 1.0"),
        ({"val_fraction": float("nan")}, "got nan"),
        ({"shard_bytes": 0}, "must be at least 1, got 0 and 1"),
        ({"reading": Reading(separator="")}, "got an empty one"),
        ({"val_fraction": 0.0, "reading": Reading(separator="the cat")}, None),
    ])
    def test_settings(self, corpus, tmp_path, settings, message):
        if message is None:
            header = prepare([str(corpus[0])], TOKENIZER, tmp_path / "out", **settings)
            assert header["val"]["documents"] == 0 and open_data(tmp_path / "out").val is None
            return
        with pytest.raises(InputError, match=message):
            prepare([str(corpus[0])], TOKENIZER, tmp_path / "out", **settings)

    def test_tokenizers(self, corpus, tmp_path):
        with pytest.raises(InputError, match=r"must have <\|endoftext\|>, which goes between documents"):
            prepare([str(corpus[0])], CharacterTokenizer("abc"), tmp_path / "out")
        with pytest.raises(InputError, match="a.txt: every character must be in the vocabulary of 3"):
            prepare([str(corpus[0])], CharacterTokenizer("abc", (EOT,)), tmp_path / "out")
        (tmp_path / "a.txt").write_text("abcba")
        prepare([str(tmp_path / "a.txt")], CharacterTokenizer("abc", (EOT,)), tmp_path / "ok", val_fraction=0)
        assert open_data(tmp_path / "ok").train.read(0, 6).tolist() == [0, 1, 2, 1, 0, 3]

    def test_one_process_at_a_time(self, corpus, tmp_path):
        fcntl = pytest.importorskip("fcntl")
        (tmp_path / "out").mkdir()
        held = os.open(tmp_path / "out", os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is in use by another process"):
            prepare([str(corpus[0])], TOKENIZER, tmp_path / "out")
        os.close(held)


def raw(path, ids, dtype="<u2"):
    path.write_bytes(np.array(ids, dtype).tobytes())
    return path


def llm_c(path, ids, magic=20240520, version=1, count=None, dtype="<u2"):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + np.array(ids, dtype).tobytes())
    return path


class TestOtherFormats:
    def test_nanogpt(self, tmp_path):
        raw(tmp_path / "train.bin", [5, 65_535, 7])
        raw(tmp_path / "val.bin", [1, 2])
        data = open_data(tmp_path)
        assert (data.format, data.train.read(0, 3).tolist(), data.val.read(0, 2).tolist()) == ("nanoGPT", [5, 65_535, 7], [1, 2])
        assert open_data(tmp_path / "val.bin").train.read(0, 2).tolist() == [1, 2]

    @pytest.mark.parametrize(("magic", "version", "dtype", "largest"), [(20240520, 1, "<u2", 50_256), (20240801, 7, "<u4", 128_001)])
    def test_llm_c(self, tmp_path, magic, version, dtype, largest):
        for i in (1, 2):
            llm_c(tmp_path / f"edu_fineweb_train_00000{i}.bin", [i, largest], magic, version, dtype=dtype)
        llm_c(tmp_path / "edu_fineweb_val_000000.bin", [9], magic, version, dtype=dtype)
        data = open_data(tmp_path)
        assert data.format == "llm.c" and data.train.read(0, 4).tolist() == [1, largest, 2, largest]
        assert data.val.read(0, 1).tolist() == [9]

    def test_shards_without_a_folder(self, tmp_path):
        for name in ("train", "val"):
            with ShardWriter(tmp_path / f"{name}.bin", np.uint16, {"n_vocab": 259, "tokenizer": TOKENIZER.sha256}) as shard:
                shard.append([1, 2, 3])
        data = open_data(tmp_path)
        data.check(TOKENIZER)
        assert len(data.train) == len(data.val) == 3
        raw(tmp_path / "train2.bin", [1])
        with pytest.raises(InputError, match="must be of one format and one tokenizer, they are of 2"):
            open_data(tmp_path)

    @pytest.mark.parametrize(("make", "message"), [
        (lambda path: raw(path, [1, 2], "u1").write_bytes(b"abc"), "must be ids of two bytes each, as nanoGPT's are, it has 3 bytes"),
        (lambda path: path.write_bytes(b""), "it has 0 bytes"),
        (lambda path: llm_c(path, [1, 2], count=3), "must be 1030 bytes for 3 ids, as its header says, it has 1028: truncated"),
        (lambda path: llm_c(path, [1, 2]).write_bytes(path.read_bytes()[:900]), "must be 1028 bytes for 2 ids, as its header says, it has 900"),
        (lambda path: llm_c(path, [1, 2], version=7), "must be of version 1 with at least one id, as its magic number 20240520"),
        (lambda path: llm_c(path, [], count=0), "got version 1, 0 ids"),
        (lambda path: None, "must be a folder of tokens, or a file of them called *.bin"),
    ])
    def test_refused(self, tmp_path, make, message):
        make(tmp_path / "x.bin")
        with pytest.raises(InputError) as caught:
            open_data(tmp_path / "x.bin")
        assert message in str(caught.value) and "\n" not in str(caught.value)

    def test_ids_beyond_the_vocabulary(self, tmp_path):
        raw(tmp_path / "train.bin", [1, 258, 259, 3])
        with pytest.raises(InputError, match="train.bin: ids must be below the vocabulary's 259, got 259 at place 2"):
            open_data(tmp_path).check(TOKENIZER)
        raw(tmp_path / "train.bin", [1, 258, 3])
        data = open_data(tmp_path)
        data.check(TOKENIZER)
        raw(tmp_path / "other.bin", [1, 300, 3]).replace(tmp_path / "train.bin")       # the map sees the old file
        assert data.train.read(0, 3).tolist() == [1, 258, 3]


class TestRefusedFolders:
    @pytest.fixture
    def out(self, corpus, tmp_path):
        prepare([str(corpus[0])], TOKENIZER, tmp_path / "out", val_fraction=0.3, shard_bytes=500)
        return tmp_path / "out"

    @pytest.mark.parametrize(("spoil", "message"), [
        (lambda out: (out / "train_00001.bin").write_bytes((out / "train_00001.bin").read_bytes()[:-2]), "truncated"),
        (lambda out: (out / "train_00001.bin").unlink(), "there is no such token shard"),
        (lambda out: (out / "train_00001.bin.json").unlink(), "must have its header beside it"),
        (lambda out: (out / "train_00002.bin.json").write_bytes((out / "train_00001.bin.json").read_bytes()), "train_00002.bin: must be"),
        (lambda out: write_shard(out / "val_00001.bin"), "is not the shard that data.json speaks of"),
        (lambda out: (out / "data.json").write_text('{"format": "numpyllm data", "version": 2}'), "version 1, got 'numpyllm data', version 2"),
        (lambda out: (out / "data.json").write_text('{"format": "numpyllm data", "version": 1}'), 'must hold "tokenizer"'),
        (lambda out: (out / "data.json").write_text("{"), "must be JSON"),
        (lambda out: (out / "data.json").unlink(), "must be of one format and one tokenizer"),
    ])
    def test_spoilt(self, out, spoil, message):
        spoil(out)
        if message == "must be of one format and one tokenizer":        # without data.json they are plain shards
            assert open_data(out).header == {"tokenizer": TOKENIZER.sha256}
            return
        with pytest.raises(InputError) as caught:
            open_data(out)
        assert message in str(caught.value) and str(out) in str(caught.value) and "\n" not in str(caught.value)

    def test_a_changed_byte_is_found_by_verify(self, out, run):
        shard = out / "train_00001.bin"
        shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
        open_data(out)
        assert run("verify", out) == (2, "", f"numpyllm: error: {shard}: is damaged (its SHA-256 must be the header's): make it anew\n")

    def test_another_tokenizer(self, out):
        data = open_data(out)
        data.check(TOKENIZER)
        with pytest.raises(InputError, match="must be of the model's tokenizer, of SHA-256 [0-9a-f]{16}..., it was prepared with another"):
            data.check(OTHER)
        OTHER.save(out / "tokenizer.json")
        with pytest.raises(InputError, match="was prepared with another"):
            data.load_tokenizer()

    def test_ids_beyond_the_vocabulary_are_found_when_read(self, out):
        shard = out / "train_00001.bin"
        shard.write_bytes(b"\xff\xff" * (shard.stat().st_size // 2))
        data = open_data(out)
        with pytest.raises(InputError, match="train_00001.bin: ids must be below the vocabulary's 259, got 65535"):
            data.train.read(0, len(data.train))


def write_shard(path):
    with ShardWriter(path, np.uint16, {"tokenizer": TOKENIZER.sha256}) as shard:
        shard.append([1, 2, 3])


class TestCommand:
    def test_prepare_info_verify(self, run, corpus, vocabulary, tmp_path):
        folder, out = corpus[0], tmp_path / "out"
        code, printed, err = run("prepare", folder, "--tokenizer", vocabulary, "--out", out, "--val_fraction", 0.3, "--shard_mb", 0.0005,
                                 "--workers", 1)
        header = json.loads((out / "data.json").read_text())
        train, val = header["train"], header["val"]
        assert (code, err) == (0, "") and printed == (
            f"{out}: {train['tokens']:,} tokens to train on ({train['documents']} documents), {val['tokens']} to validate ({val['documents']})\n")
        code, printed, err = run("info", out)
        assert (code, err) == (0, "") and printed.splitlines()[1] == (
            f"train          {train['tokens']:,} tokens in {len(open_data(out).train.arrays)} files of uint16, {train['documents']} documents, "
            f"{train['bytes']:,} bytes of text") and f"tokenizer      {TOKENIZER.sha256}" in printed
        code, printed, _ = run("info", out, "--json")
        assert json.loads(printed)["tokens"] == {"train": train["tokens"], "val": val["tokens"]}
        assert run("verify", out) == (0, f"{out}: all {train['tokens'] + val['tokens']:,} tokens are as they were written\n", "")
        assert run("verify", out, "--tokenizer", vocabulary)[0] == 0
        OTHER.save(tmp_path / "other.json")
        code, printed, err = run("verify", out, "--tokenizer", tmp_path / "other.json")
        assert (code, printed, err.count("\n")) == (2, "", 1) and "was prepared with another" in err

    def test_fields_and_separators(self, run, vocabulary, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"body": "one"}\n{"body": "two"}')
        (tmp_path / "b.txt").write_text("three\n\nfour\n\n")
        assert run("prepare", tmp_path / "a.jsonl", tmp_path / "b.txt", "--tokenizer", vocabulary, "--out", tmp_path / "out", "--field", "body",
                   "--separator", r"\n\n", "--val_fraction", 0)[0] == 0
        assert documents_of(open_data(tmp_path / "out").train) == ["one", "two", "three", "four"]

    def test_other_files(self, run, vocabulary, tmp_path):
        raw(tmp_path / "train.bin", [1, 2])
        assert run("info", tmp_path)[1] == "format         nanoGPT\ntrain          2 tokens in 1 files of uint16\n"
        assert run("verify", tmp_path, "--tokenizer", vocabulary)[0] == 0
        code, _, err = run("verify", tmp_path)
        assert code == 2 and "nanoGPT's files have no checksums, only ids can be checked: give a --tokenizer" in err

    @pytest.mark.parametrize(("argv", "message"), [
        (["x"], "x is no command: there are prepare, info, verify"),
        (["prepre"], "prepre is no command: did you mean prepare?"),
        (["info", "nowhere"], "nowhere: must be a folder of tokens, or a file of them called *.bin"),
        (["prepare", "nothing.txt", "--tokenizer", "V", "--out", "out"], "nothing.txt: cannot be read: No such file or directory"),
        (["prepare", "", "--tokenizer", "V", "--out", "out"], "a source must be named, got an empty name"),
        (["prepare", "a", "--tokenizer", "nothing.json", "--out", "out"], "nothing.json: cannot be read"),
        (["prepare", "a", "--tokenizer", "V", "--out", "out", "--shard_mb", "nan"], "shard_mb must be above 0, got nan"),
        (["prepare", "a.txt", "--tokenizer", "V", "--out", "a.txt/x"], "a.txt/x: cannot be a folder to write to: Not a directory"),
        (["prepare", "a.txt", "--tokenizer", "V", "--out", "out"], "of 1 documents none fell to validation: more or smaller documents"),
    ])
    def test_one_line_for_what_is_wrong(self, run, vocabulary, monkeypatch, argv, message):
        monkeypatch.chdir(vocabulary.parent)
        Path("a.txt").write_text("the cat")
        code, out, err = run(*[vocabulary if arg == "V" else arg for arg in argv])
        assert (code, out) == (2, "") and err.startswith(f"numpyllm: error: {message}") and err.count("\n") == 1

    def test_help_has_examples(self, run):
        assert all(name in run()[1] for name in command.COMMANDS)
        for name in command.COMMANDS:
            code, out, _ = run(name, "--help")
            assert code == 0 and f"examples:\n  numpyllm data {name}" in out


def killed_and_finished(tmp_path, vocabulary, texts, out, number, delay, workers, times=100):
    """Start a preparation, send its group a signal after its first shard, go on, and so on until it is done."""
    argv = [sys.executable, "-m", "numpyllm", "data", "prepare", str(texts), "--tokenizer", str(vocabulary), "--out", str(out),
            "--shard_mb", "0.02", "--val_fraction", "0.1", "--workers", str(workers)]
    codes = []
    for _ in range(100):
        before = len(list(out.glob("train*.json")))
        process = subprocess.Popen([*argv, *(["--resume"] if any(out.glob("*.json")) else [])], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        while len(codes) < times and process.poll() is None and len(list(out.glob("train*.json"))) < before + 1:
            time.sleep(0.01)
        time.sleep(delay())
        if len(codes) < times and process.poll() is None:
            os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        err = process.communicate()[1].decode()
        codes.append(process.returncode)
        assert "Traceback" not in err
        if process.returncode == 0:
            return codes
        if number == signal.SIGINT:
            if (out / "data.json").exists():        # it came when all was done
                continue
            assert process.returncode == 130 and "the same command with --resume goes on" in err
            assert not list(out.glob(".*.tmp"))
        time.sleep(0.3)     # orphans notice that nobody listens
    raise AssertionError(f"never done: {codes}")


@pytest.fixture
def many_texts(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    text = "the cat, the theatre and the weather are there " * 200
    for i in range(60):
        (folder / f"{i:03}.txt").write_text(f"{i} {text}")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_ctrl_c_and_on(tmp_path, vocabulary, many_texts):
    codes = killed_and_finished(tmp_path, vocabulary, many_texts, tmp_path / "out", signal.SIGINT, lambda: 0, 2, times=2)
    prepare([str(many_texts)], load(vocabulary), tmp_path / "whole", shard_bytes=20_000, val_fraction=0.1)
    assert files(tmp_path / "out") == files(tmp_path / "whole") and codes == [130, 130, 0]


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("workers", [1, 3])
def test_killed_again_and_again(tmp_path, vocabulary, many_texts, number, workers):
    rng = np.random.default_rng(workers)
    prepare([str(many_texts)], load(vocabulary), tmp_path / "whole", shard_bytes=20_000, val_fraction=0.1)
    for _ in range(3):
        killed_and_finished(tmp_path, vocabulary, many_texts, tmp_path / "out", number, lambda: rng.uniform(0, 0.1), workers)
        assert files(tmp_path / "out") == files(tmp_path / "whole")
        for path in (tmp_path / "out").iterdir():
            path.unlink()


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_text(tmp_path, vocabulary):
    """Lines of JSON, and a file that is one document."""
    text = "".join(path.read_text("utf-8", "replace") for path in library_files()[:300])[:2_000_000]
    script = ("import sys\nfrom pathlib import Path\nfrom numpyllm.cli.main import main\n"
              "assert main(sys.argv[1:]) == 0\nprint(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n")
    lines, one, peaks = tmp_path / "lines.jsonl", tmp_path / "one.txt", []
    for times in (5, 60):
        with open(lines, "w") as file:
            file.writelines(json.dumps({"text": f"{i} {text[i % 1000::times]}"}) + "\n" for i in range(times**2))
        one.write_text(text * times)
        done = subprocess.run([sys.executable, "-c", script, "data", "prepare", lines, one, "--tokenizer", vocabulary, "--workers", "1",
                               "--out", tmp_path / "out", "--overwrite", "--val_fraction", "0"], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)       # MiB
    assert lines.stat().st_size + one.stat().st_size > 200e6 and peaks[1] < peaks[0] + 40, peaks


class TestTraining:
    SIZES = ("--n_layer", "1", "--n_head", "2", "--n_embd", "8", "--block_size", "16", "--batch_size", "3", "--eval_iters", "2",
             "--eval_interval", "4", "--gradient_accumulation_steps", "2", "--threads", "1", "--backend", "numpy")

    @pytest.fixture
    def train(self, capfd):
        def train(*argv):
            code = main(["train", *map(str, argv)])
            return code, *capfd.readouterr()
        return train

    @pytest.fixture
    def out(self, corpus, tmp_path):
        prepare([str(corpus[0])], TOKENIZER, tmp_path / "tokens", val_fraction=0.3, shard_bytes=500)
        return tmp_path / "tokens"

    def test_a_run_on_prepared_tokens(self, train, out, tmp_path):
        code, printed, _ = train("--data", out, "--out_dir", tmp_path / "run", "--max_iters", 8, *self.SIZES)
        assert code == 0 and f"{len(open_data(out).train):,} tokens to train on" in printed and "vocabulary 259" in printed
        code, *_ = train("--data", out, "--out_dir", tmp_path / "again", "--max_iters", 4, "--lr_decay_iters", 8, *self.SIZES)
        assert code == 0
        code, printed, _ = train("--resume", "--out_dir", tmp_path / "again", "--max_iters", 8)
        assert code == 0 and "resuming after step 4" in printed
        one, other = (tmp_path / name / "step_00000008" / "params.npy" for name in ("run", "again"))
        assert one.read_bytes() == other.read_bytes()
        prepare([str(out.parent / "texts")], TOKENIZER, out, val_fraction=0.4, overwrite=True)
        code, _, err = train("--resume", "--out_dir", tmp_path / "again", "--max_iters", 9)
        assert code == 2 and "is not the text that the run was trained on" in err and err.count("\n") == 1

    def test_nanogpts_files(self, train, vocabulary, tmp_path):
        for name in ("train", "val"):
            raw(tmp_path / f"{name}.bin", np.arange(500) % 257)
        argv = ("--data", tmp_path, "--out_dir", tmp_path / "run", "--max_iters", 1, *self.SIZES)
        code, _, err = train(*argv)
        assert code == 0 and err == ""

    @pytest.mark.parametrize(("spoil", "message"), [
        (lambda out: (out / "train_00001.bin").write_bytes((out / "train_00001.bin").read_bytes()[:-2]), "truncated"),
        (lambda out: OTHER.save(out / "tokenizer.json"), "must be of the model's tokenizer, of SHA-256"),
        (lambda out: (out / "train_00000.bin").write_bytes(b"\xff" * (out / "train_00000.bin").stat().st_size),
         "ids must be below the vocabulary's 259, got 65535"),
        (lambda out: (out / "data.json").rename(out / "plan.json"), "is not finished: go on with"),
    ])
    def test_refused_with_one_line(self, train, out, tmp_path, spoil, message):
        spoil(out)
        code, _, err = train("--data", out, "--out_dir", tmp_path / "run", "--max_iters", 50, *self.SIZES)
        assert code == 2 and message in err and err.startswith("numpyllm: error: ") and err.count("\n") == 1

    def test_another_tokenizer_by_name(self, train, out, vocabulary, tmp_path):
        OTHER.save(tmp_path / "other.json")
        argv = ("--data", out, "--out_dir", tmp_path / "run", "--max_iters", 1, *self.SIZES)
        code, _, err = train(*argv, "--tokenizer", tmp_path / "other.json")
        assert code == 2 and "must be of the model's tokenizer" in err and not (tmp_path / "run").exists()
        assert train(*argv, "--tokenizer", vocabulary)[0] == 0

    def test_nothing_to_validate_on(self, train, corpus, vocabulary, tmp_path):
        raw(tmp_path / "only.bin", np.arange(500) % 257)
        code, _, err = train("--data", tmp_path / "only.bin", "--tokenizer", vocabulary, "--out_dir", tmp_path / "run", *self.SIZES)
        assert code == 2 and "only.bin must have tokens to validate on, it has none" in err
