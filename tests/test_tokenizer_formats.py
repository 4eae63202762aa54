"""GPT-2's files, .tiktoken, and the named patterns in a tokenizer.json: both ways with tiktoken and Hugging Face's library."""

import errno
import json
import os
import re
import shutil
import warnings

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_strings import NASTY, gpt2_ranks, with_bytes

from numpyllm.errors import InputError
from numpyllm.tokenizer import BytePairTokenizer, load
from numpyllm.tokenizer.base import clean
from numpyllm.tokenizer.formats.published import COVERING, ENCODINGS, SPELLINGS
from numpyllm.tokenizer.patterns import NAMED, compile_pattern, split

EOT = "<|endoftext|>"
TEXT = "The cat sat on the mat; the rat sat on the cat. In 1913 they're said to have sat there again, 汉字汉字, Ärger."
SMALL = BytePairTokenizer(with_bytes(b"th", b"the", b" the"), special_tokens={EOT: 259, "<pad>": 262})
STRANDED = BytePairTokenizer(with_bytes(b"cats"))               # no merges lead to it
FILES = {"gpt2": "gpt2.tiktoken", "cl100k_base": "cl100k_base.tiktoken", "o200k_base": "o200k_base.tiktoken"}


class TestTiktoken:
    def test_lines(self, tmp_path):
        path = tmp_path / "small.tiktoken"
        SMALL.save(path, "tiktoken")
        lines = path.read_text().splitlines()
        assert len(lines) == 259 and lines[0] == "AA== 0" and lines[97:99] == ["YQ== 97", "Yg== 98"] and lines[256] == "dGg= 256"
        assert load(path, pattern="gpt2", special_tokens=SMALL.special_tokens) == SMALL
        assert load(path, pattern=r"\S+|\s+") == BytePairTokenizer(SMALL.ranks, r"\S+|\s+")

    def test_tokens_no_merges_lead_to(self, tmp_path):
        STRANDED.save(tmp_path / "x.tiktoken", "tiktoken")
        assert load(tmp_path / "x.tiktoken", pattern="gpt2").encode("cats") == [256]

    @pytest.mark.parametrize("name", FILES)
    def test_encodings_are_known_by_name(self, data_dir, tmp_path, name):
        file = next(data_dir.rglob(FILES[name]))
        tokenizer = load(file)
        shutil.copy(file, tmp_path / "other.tiktoken")
        assert load(tmp_path / "other.tiktoken", encoding=name) == tokenizer
        known = ENCODINGS[name]
        assert (tokenizer.pattern, len(tokenizer.ranks), tokenizer.special_tokens) == known
        assert tokenizer.n_vocab == max(known.special_tokens.values()) + 1
        tokenizer.save(tmp_path / "again.tiktoken", "tiktoken")
        assert (tmp_path / "again.tiktoken").read_bytes() == file.read_bytes()

    @pytest.mark.parametrize(("change", "message"), [
        (lambda lines: [*lines[:9], b"AAA 9", *lines[10:]], "line 10 must be a token in base64 and its rank, got b'AAA 9'"),
        (lambda lines: [*lines[:9], b"*** 9", *lines[10:]], "line 10 must be a token in base64 and its rank, got b'*** 9'"),
        (lambda lines: [*lines[:9], b"C!Q== 9", *lines[10:]], "line 10 must be a token in base64 and its rank, got b'C!Q== 9'"),
        (lambda lines: [*lines[:9], b"CQ==", *lines[10:]], "line 10 must be a token in base64 and its rank, got b'CQ=='"),
        (lambda lines: [*lines[:9], b"CQ== -9", *lines[10:]], "line 10 must be a token in base64 and its rank"),
        (lambda lines: [*lines[:9], b"CQ== 9 9", *lines[10:]], "line 10 must be a token in base64 and its rank"),
        (lambda lines: [b"\xff\xfe" * 100, *lines], "line 1 must be a token in base64 and its rank"),
        (lambda lines: [*lines, b"YQ== 259"], "tokens must be distinct, got b'a' twice, again in line 260"),
        (lambda lines: [*lines, b"dGhlbQ== 97"], "ids must be distinct, got 97 for both b'a' and b'them'"),
        (lambda lines: [*lines, b"dGhlbQ== 260"], "ids must have no hole, got 260 tokens with ids up to 260 but none with id 259"),
        (lambda lines: [*lines[:97], *lines[98:]], "every byte must be a token of its own, got none for b'a'"),
        (lambda lines: [], "every byte must be a token of its own, got none for b'\\x00'"),
    ])
    def test_broken(self, tmp_path, change, message):
        path = tmp_path / "small.tiktoken"
        SMALL.save(path, "tiktoken")
        path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())))
        with pytest.raises(InputError, match=f"^{re.escape(f'{path}: {message}')}") as caught:
            load(path, pattern="gpt2")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 350

    def test_cut_short_at_any_byte(self, tmp_path):
        path = tmp_path / "small.tiktoken"
        SMALL.save(path, "tiktoken")
        data = path.read_bytes()
        for length in range(len(data) - 40, len(data) - 1):
            path.write_bytes(data[:length])
            if data[length:length + 1] != b"\n" and data[length - 1:length] != b"\n":       # within a line
                with pytest.raises(InputError):
                    load(path, pattern="gpt2")

    def test_an_encoding_cut_short_between_lines(self, data_dir, tmp_path):
        path = tmp_path / "gpt2.tiktoken"
        path.write_bytes(b"".join((data_dir / "gpt2" / "gpt2.tiktoken").read_bytes().splitlines(keepends=True)[:-1]))
        with pytest.raises(InputError, match="gpt2 has 50256 ordinary tokens, got 50255: the file is truncated, or another's"):
            load(path)

    @pytest.mark.parametrize(("beside", "message"), [
        ({}, "a .tiktoken file holds ranks alone: give the encoding it belongs to, one of gpt2, r50k_base, cl100k_base"),
        ({"encoding": "gpt5"}, "encoding must be one of gpt2, r50k_base, cl100k_base, o200k_base, got 'gpt5'"),
        ({"encoding": "gpt2", "pattern": "gpt2"}, "the encoding gpt2 has its own pattern and special tokens: give it or them"),
        ({"encoding": "gpt2"}, "gpt2 has 50256 ordinary tokens, got 259"),
        ({"pattern": "gtp2"}, "pattern must be one of ['cl100k', 'gpt2', 'llama3', 'o200k'] or a regular expression, got 'gtp2'"),
        ({"pattern": "gpt2", "special_tokens": {EOT: 5}}, "ids must be distinct, got 5 for both"),
    ])
    def test_what_is_given_beside_it(self, tmp_path, beside, message):
        path = tmp_path / "small.tiktoken"
        SMALL.save(path, "tiktoken")
        with pytest.raises(InputError, match=f"^{re.escape(f'{path}: {message}')}"):
            load(path, **beside)


class TestGPT2:
    @pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"),
                                       ("small-vocab.json", "small-merges.txt")])
    def test_two_files(self, tmp_path, names):
        vocabulary, merges = (tmp_path / name for name in names)
        SMALL.save(vocabulary, "gpt2")
        assert sorted(os.listdir(tmp_path)) == sorted(names)
        assert merges.read_text("utf-8") == "#version: 0.2\nt h\nth e\nĠ the\n"
        vocab = json.loads(vocabulary.read_text("utf-8"))
        assert len(vocab) == 261 and vocab["Ġthe"] == 258 and vocab[EOT] == 259
        assert load(vocabulary) == load(merges) == SMALL

    def test_a_folder(self, tmp_path):
        SMALL.save(tmp_path, "gpt2")
        assert sorted(os.listdir(tmp_path)) == ["merges.txt", "vocab.json"] and load(tmp_path) == SMALL
        STRANDED.save(tmp_path / "tokenizer.json")
        assert load(tmp_path) == STRANDED                               # it comes first

    def test_openais_own(self, data_dir):
        tokenizer = load(data_dir / "gpt2")
        assert tokenizer == BytePairTokenizer(gpt2_ranks(data_dir), "gpt2", {EOT: 50256})
        assert tokenizer == load(data_dir / "gpt2" / "vocab.bpe", encoding="gpt2")

    def test_special_tokens_of_other_spelling_are_given(self, tmp_path):
        tokenizer = BytePairTokenizer(with_bytes(b"th"), special_tokens={"[PAD]": 257})
        tokenizer.save(tmp_path, "gpt2")
        assert load(tmp_path, special_tokens={"[PAD]": 257}) == tokenizer
        with pytest.raises(InputError, match=r"none in merges.txt make '\[PAD\]' \(is it truncated\?\); a special token that is"):
            load(tmp_path)
        with pytest.raises(InputError, match="special tokens must have their id in the vocabulary, got 256"):
            load(tmp_path, special_tokens={"[PAD]": 256})

    def test_an_ordinary_token_in_angle_brackets(self, tmp_path):
        tokenizer = BytePairTokenizer(with_bytes(b"<a", b"<a>"))
        tokenizer.save(tmp_path, "gpt2")
        assert load(tmp_path) == tokenizer

    def test_what_the_files_cannot_say(self, tmp_path):
        with pytest.raises(InputError, match="GPT-2's files need merges that make each token, none make b'cats'"):
            STRANDED.save(tmp_path, "gpt2")
        with pytest.raises(InputError, match=r"GPT-2's files mean GPT-2's pattern, this tokenizer has '\\\\s\+'"):
            BytePairTokenizer(with_bytes(), r"\s+").save(tmp_path, "gpt2")
        with pytest.raises(InputError, match="must be called vocab.json and merges.txt, or encoder.json and vocab.bpe"):
            SMALL.save(tmp_path / "tokenizer.json", "gpt2")
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(("name", "change", "message"), [
        ("merges.txt", lambda text: text.replace("th e\n", ""), "merges must lead to each token, none in merges.txt make 'the'"),
        ("merges.txt", lambda text: text + "the x\n", "merges.txt, line 5: merges must name tokens of the vocabulary, got b'thex'"),
        ("merges.txt", lambda text: text + "th\n", "merges.txt, line 5: a merge must be \"left right\""),
        ("merges.txt", lambda text: text + "t h\n", "merges must stand once each"),
        ("merges.txt", lambda text: text.replace("t h\nth e", "th e\nt h"), "merges must stand once each, in the order of the ids"),
        ("vocab.json", lambda text: text[:-9], "must be JSON"),
        ("vocab.json", lambda text: text.replace('"b": 98', '"b": 97'), "ids must be distinct, got 97"),
        ("vocab.json", lambda text: text.replace('"b": 98', '"b": "98"'), "ids must be Python integers from 0 on, got '98'"),
        ("vocab.json", lambda text: text.replace('"b": 98, ', ""), "every byte must be a token of its own, got none for b'b'"),
        ("vocab.json", lambda text: text.replace('"the": 257', '"the": 1257'), "ids must have no hole"),
        ("vocab.json", lambda text: text.replace('"the": 257, ', ""), "merges.txt, line 3: merges must name tokens of the"),
    ])
    def test_broken(self, tmp_path, name, change, message):
        SMALL.save(tmp_path, "gpt2")
        path = tmp_path / name
        changed = change(path.read_text("utf-8"))
        assert changed != path.read_text("utf-8")
        path.write_text(changed, "utf-8")
        with pytest.raises(InputError) as caught:
            load(tmp_path)
        assert message in str(caught.value) and str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)

    def test_no_merges_beside_it(self, tmp_path):
        SMALL.save(tmp_path, "gpt2")
        (tmp_path / "merges.txt").unlink()
        with pytest.raises(InputError, match=r"merges\.txt: cannot be read: No such file or directory$"):
            load(tmp_path)
        (tmp_path / "merges.txt").write_bytes(b"\xff")
        with pytest.raises(InputError, match=r"merges\.txt: must be UTF-8"):
            load(tmp_path)

    @pytest.mark.parametrize(("call", "number"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)])
    def test_both_old_files_survive_a_failure(self, tmp_path, monkeypatch, call, number):
        SMALL.save(tmp_path, "gpt2")
        true, calls = getattr(os, call), []

        def fail(*args):
            calls.append(args)
            if len(calls) == number:
                raise OSError(errno.ENOSPC, "Disk full")
            return true(*args)

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(InputError, match="cannot be written: Disk full$"):
            BytePairTokenizer(with_bytes(b"ab")).save(tmp_path, "gpt2")
        assert sorted(os.listdir(tmp_path)) == ["merges.txt", "vocab.json"] and load(tmp_path) == SMALL


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt"])
def test_cut_short_at_any_byte(tmp_path, name):
    """Refused with one line, unless nothing but the last newline is missing."""
    SMALL.save(tmp_path, "gpt2") if name != "tokenizer.json" else SMALL.save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in range(0, len(data) - 1, max(1, len(data) // 300)):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(InputError) as caught:
            load(tmp_path)
        assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    (tmp_path / name).write_bytes(data[:-1])
    assert load(tmp_path) == SMALL


def test_formats_have_names(tmp_path):
    with pytest.raises(InputError, match="a format must be one of huggingface, gpt2, tiktoken, got 'gguf'"):
        SMALL.save(tmp_path / "x", "gguf")
    SMALL.save(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="it holds its own pattern and special tokens, got pattern beside it: leave that out"):
        load(tmp_path / "tokenizer.json", pattern="gpt2")
    with pytest.raises(InputError, match=r"notes\.txt: GPT-2's files must be called vocab\.json and merges\.txt"):
        load(tmp_path / "notes.txt")


class TestNamedPatterns:
    any_text = st.text(st.sampled_from("ab'sLlſD09½ \t\n\r\x85\u00a0?é\u0301汉ǅʰ😀/"), max_size=30)

    @pytest.mark.parametrize("name", NAMED)
    @given(text=any_text)
    def test_all_spellings_cut_alike(self, name, text):
        pieces = list(split(compile_pattern(name), text))
        for spelling in SPELLINGS[name]:
            spelling = spelling.replace(r"\z", r"\Z")               # Oniguruma's \z is Python's \Z
            assert [match[0] for match in regex.finditer(spelling, text)] == pieces

    @pytest.mark.parametrize("name", NAMED)
    def test_reading_back(self, tmp_path, name):
        tokenizer = BytePairTokenizer(with_bytes(b"th"), name, {EOT: 257, "<|x|>": 270})
        tokenizer.save(tmp_path / "tokenizer.json")
        assert load(tmp_path) == tokenizer

    @pytest.mark.parametrize("spelling", [*COVERING, r"\s+"])
    @pytest.mark.parametrize(("behavior", "invert"), [("Isolated", False), ("Removed", True)])
    def test_spellings_of_others(self, tmp_path, spelling, behavior, invert):
        path = tmp_path / "tokenizer.json"
        BytePairTokenizer(with_bytes(b"th"), "cl100k").save(path)
        data = json.loads(path.read_text("utf-8"))
        data["pre_tokenizer"]["pretokenizers"][0] |= {"pattern": {"Regex": spelling}, "behavior": behavior, "invert": invert}
        del data["pre_tokenizer"]["unicode_version"]                # another's file
        path.write_text(json.dumps(data), "utf-8")
        if invert and spelling not in COVERING:
            with pytest.raises(InputError, match="pre_tokenizer must be"):
                load(path)
        else:
            name = next((name for name, spellings in SPELLINGS.items() if spelling in spellings), spelling)
            assert load(path).pattern == name

    @pytest.mark.parametrize(("pattern", "version"), [("gpt2", "Unicode 16.0.0"), ("o200k", "Unicode 16.0.0"),
                                                      (r"\p{L}+", f"regex {regex.__version__}")])
    def test_the_unicode_version_is_recorded(self, tmp_path, pattern, version):
        path = tmp_path / "tokenizer.json"
        tokenizer = BytePairTokenizer(with_bytes(), pattern)
        tokenizer.save(path)
        text = path.read_text("utf-8")
        assert json.loads(text)["pre_tokenizer"]["unicode_version"] == tokenizer.unicode_version == version
        path.write_text(text.replace(version, "Unicode 9.0.0"), "utf-8")
        with pytest.warns(UserWarning, match="was made with the letters and numbers of Unicode 9.0.0, here they are") as caught:
            assert load(path) == tokenizer
        assert len(caught) == 1


def texts():
    return [clean(text) for text in [TEXT, *NASTY]]


def sweep():
    """Each character between a letter and a digit, after a space, before a contraction and at a line's end."""
    for plane in range(0x11):
        yield "".join(f"a{c}1 {c}{c}'s{c}\n" for i in range(plane << 16, (plane + 1) << 16) if not 0xD800 <= i < 0xE000
                      for c in (chr(i),))


@pytest.mark.oracle
class TestAgainstOthers:
    @pytest.fixture(autouse=True)
    def no_cache(self, monkeypatch):
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")                # else tiktoken copies what it loads into the temporary folder

    @pytest.mark.parametrize("name", FILES)
    def test_their_libraries_read_our_files(self, data_dir, tmp_path, name):
        peers, tiktoken = pytest.importorskip("tokenizers"), pytest.importorskip("tiktoken.load")
        file = next(data_dir.rglob(FILES[name]))
        ours = load(file)
        ours.save(tmp_path / "tokenizer.json")
        ours.save(tmp_path / "x.tiktoken", "tiktoken")
        assert tiktoken.load_tiktoken_bpe(str(tmp_path / "x.tiktoken")) == ours.ranks
        theirs = peers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        for text in [*texts(), (data_dir / "tinyshakespeare.txt").read_text("utf-8")[:100_000]]:
            text += EOT
            ids = ours.encode(text, allowed_special="all")
            assert ids == theirs.encode(text).ids
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)

    @pytest.mark.parametrize("name", NAMED)
    def test_small_vocabularies(self, tmp_path, name):
        peers, tiktoken = pytest.importorskip("tokenizers"), pytest.importorskip("tiktoken")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            ours = BytePairTokenizer.train(TEXT * 3, 300, pattern=name)
        ours.save(tmp_path / "tokenizer.json")
        hugging_face = peers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        encoding = tiktoken.Encoding("x", pat_str=SPELLINGS[name][-1], mergeable_ranks=ours.ranks, special_tokens=ours.special_tokens)
        for text in texts():
            assert ours.encode(text) == hugging_face.encode(text).ids == encoding.encode(text)

    def test_gpt2s_files_both_ways(self, data_dir, tmp_path):
        peers, tiktoken = pytest.importorskip("tokenizers"), pytest.importorskip("tiktoken.load")
        ours = load(data_dir / "gpt2")
        ours.save(tmp_path, "gpt2")
        vocabulary, merges = str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
        assert tiktoken.data_gym_to_mergeable_bpe_ranks(merges, vocabulary) == ours.ranks
        theirs = peers.Tokenizer(peers.models.BPE.from_file(vocabulary, merges))
        theirs.pre_tokenizer = peers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        for text in texts():
            assert ours.encode(text) == theirs.encode(text).ids
        (tmp_path / "theirs").mkdir()
        theirs.model.save(str(tmp_path / "theirs"))
        assert load(tmp_path / "theirs") == ours

    @pytest.mark.parametrize("name", NAMED)
    def test_we_read_their_tokenizer_json(self, tmp_path, name):
        peers = pytest.importorskip("tokenizers")
        theirs = peers.Tokenizer(peers.models.BPE())
        split = peers.pre_tokenizers.Split(peers.Regex(SPELLINGS[name][0]), "removed", invert=True)
        theirs.pre_tokenizer = peers.pre_tokenizers.Sequence([split, peers.pre_tokenizers.ByteLevel(False, use_regex=False)])
        theirs.train_from_iterator([TEXT * 3], peers.trainers.BpeTrainer(
            vocab_size=300, special_tokens=[EOT], show_progress=False, initial_alphabet=peers.pre_tokenizers.ByteLevel.alphabet()))
        theirs.save(str(tmp_path / "tokenizer.json"))
        ours = load(tmp_path)
        assert ours.pattern == name
        for text in texts():
            assert ours.encode(text) == theirs.encode(text).ids

    @pytest.mark.thorough
    @pytest.mark.parametrize("name", NAMED)
    def test_what_we_write_for_oniguruma_cuts_every_character_alike(self, name):
        peers = pytest.importorskip("tokenizers")
        theirs = peers.pre_tokenizers.Split(peers.Regex(SPELLINGS[name][0]), "isolated")
        for text in sweep():
            assert list(split(compile_pattern(name), text)) == [piece for piece, _ in theirs.pre_tokenize_str(text)]

    @pytest.mark.thorough
    def test_their_own_gpt2_pattern_cuts_every_character_alike(self):
        peers = pytest.importorskip("tokenizers")
        theirs = peers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        for text in sweep():
            ends = [end for _, (_, end) in theirs.pre_tokenize_str(text)]
            pieces = list(split(compile_pattern("gpt2"), text))
            assert [text[start:end] for start, end in zip([0, *ends], ends)] == pieces
