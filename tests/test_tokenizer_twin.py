"""The compiled encoder: the same pieces and ids as the text, whatever the string, the vocabulary and the threads."""

import io
import re
import sys
import threading
import time
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_strings import NASTY, with_bytes

from numpyllm.errors import InputError
from numpyllm.kernels import bpe_encode, pretokenize, windows
from numpyllm.shards import open_shard
from numpyllm.tokenizer import BytePairTokenizer, bpe, twin, unicode
from numpyllm.tokenizer import encode_file as encode_file_module
from numpyllm.tokenizer.patterns import NAMED, compile_pattern, split

EOT = "<|endoftext|>"
THIS_FILE = Path(__file__).read_text(encoding="utf-8")
LATER = " and so on" * 8
LATER_PIECES = [" and", " so", " on"] * 8
NASTY_ALPHABET = "a'S \n0.\u0301"
MIXTURE = "aAzsStTdDmMlLvVeErR'''  \t\r\n\x0b\x1c\x8509²٣.?/_-é\u0301\u017fÉǅʰ汉\u00a0\u2003\u3000😀\ufffd"
mixtures = st.text(st.sampled_from(MIXTURE), max_size=40)
small_tokens = st.lists(st.lists(st.sampled_from(b"abc"), min_size=2, max_size=5).map(bytes), max_size=20, unique=True)


def pieces(text, pattern):
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    ends = windows.boundaries(data, pretokenize.PATTERNS[pattern], unicode.class_table())
    return [data[start:end].tobytes().decode("utf-8") for start, end in zip(ends, ends[1:])]


@pytest.fixture(scope="module", params=list(NAMED))
def pair(request):
    """Reference and twin of a vocabulary trained on this file and some other scripts."""
    text = THIS_FILE + "தமிழ் வணக்கம் 안녕하세요 汉字和標點 I'll we've DON'T the there then " * 20
    trained = BytePairTokenizer.train(text, 800, pattern=request.param, special_tokens=(EOT, "<|a b|>"))
    reference = BytePairTokenizer(trained.ranks, request.param, trained.special_tokens, backend="numpy")
    compiled = BytePairTokenizer(trained.ranks, request.param, trained.special_tokens)
    compiled.load_twin()
    assert compiled._twin is not None and reference._twin is None
    return reference, compiled


class TestPieces:
    @pytest.mark.parametrize("pattern", NAMED)
    def test_nasty_strings(self, pattern):
        for text in map(unicode_clean, [*NASTY, *map("".join, product(NASTY_ALPHABET, repeat=4))]):
            assert pieces(text, pattern) == list(split(compile_pattern(pattern), text))

    @pytest.mark.parametrize("pattern", NAMED)
    def test_where_classes_begin_and_end(self, pattern):
        table = unicode.class_table()
        edges = np.flatnonzero(np.diff(table))
        codes = [code for code in sorted({*edges, *(edges + 1)}) if not 0xD800 <= code < 0xE000]
        text = "|".join(f"{c}'s {c}{c}a a{c} 1{c}A{c}a.{c}\n{c}\n {c} " for c in map(chr, codes))
        assert pieces(text, pattern) == list(split(compile_pattern(pattern), text))

    @given(text=mixtures, pattern=st.sampled_from(list(NAMED)))
    def test_mixtures(self, text, pattern):
        assert pieces(text, pattern) == list(split(compile_pattern(pattern), text))

    @pytest.mark.parametrize("pattern", NAMED)
    def test_long_mixtures(self, pattern):
        """Of more than the 64 bytes at a time that the kernel looks at: ASCII, mostly ASCII, little of it."""
        rng = np.random.default_rng(2)
        ascii_signs = [sign for sign in MIXTURE if sign.isascii()]
        for signs in (ascii_signs, ascii_signs * 9 + list(MIXTURE), list(MIXTURE), list("aBc'sLl "), list("!/'\n 12a")):
            text = "".join(rng.choice(signs, 20_000))
            assert pieces(text, pattern) == list(split(compile_pattern(pattern), text))

    @pytest.mark.parametrize("pattern", range(len(NAMED)))
    def test_windows_change_nothing(self, pattern):
        """A megabyte of few signs at a time, in runs: as one character after the other is looked at."""
        rng, classes = np.random.default_rng(3), unicode.class_table()
        for _ in range(60):
            signs = rng.choice(list("aAsSlLre09'/\n\r \t!(\x0b"), rng.integers(2, 10)).tolist() * 20
            if rng.random() < 0.4:
                signs += rng.choice(list(set(MIXTURE)), 2).tolist()
            text = "".join(np.repeat(rng.choice(signs, 5_000), rng.integers(1, rng.integers(2, 12), 5_000)))
            data = np.frombuffer(text.encode("utf-8"), np.uint8)
            places = windows.boundaries(data, pattern, classes)
            ends = [pretokenize.piece_end(data, start, len(data), pattern, classes) for start in places[:-1]]
            assert ends == places[1:].tolist()

    @pytest.mark.parametrize(("pattern", "text", "expected"), [
        ("cl100k", "a \n  ", ["a", " \n  "]),                       # white space at the end, whole
        ("cl100k", "a \n  b", ["a", " \n", " ", " b"]),
        ("cl100k", "I'LL don'\u017f 1234\n", ["I", "'LL", " don", "'\u017f", " ", "123", "4", "\n"]),
        ("cl100k", "x?!\r\n\ny\tz", ["x", "?!\r\n\n", "y", "\tz"]),
        ("llama3", "a \n  ", ["a", " \n", "  "]),
        ("llama3", "I'LL don'\u017f 1234 \t", ["I", "'LL", " don", "'\u017f", " ", "123", "4", " \t"]),
        ("o200k", "a \n  ", ["a", " \n", "  "]),
        ("o200k", "HelloWorld HTTPServer's URL'S", ["Hello", "World", " HTTPServer's", " URL'S"]),
        ("o200k", "A\u02b0B c", ["A\u02b0", "B", " c"]),            # a modifier letter given back by the capitals
        ("o200k", "\u0301AB \u0301a", ["\u0301", "AB", " \u0301a"]),
        ("o200k", "a/b//\n\n", ["a", "/b", "//\n\n"]),
        # in a window of 64 bytes, of which it is the beginning
        ("gpt2", "I've 'st ''s it's'll 12345\n\n x\n\ty" + LATER, [
            "I", "'ve", " '", "st", " ''", "s", " it", "'s", "'ll", " 12345", "\n\n", " x", "\n", "\t", "y"]),
        ("cl100k", "I'VE'x (a) ((b\n\n \n  c\td  \n \n1234567" + LATER, [
            "I", "'VE", "'x", " (", "a", ")", " ((", "b", "\n\n \n", " ", " c", "\td", "  \n \n", "123", "456", "7"]),
        ("o200k", "I'd've DON'Tx aBC.\n/\n(  \n\t1 -\n/)" + LATER, [
            "I'd", "'ve", " DON'T", "x", " a", "BC", ".\n/\n", "(", "  \n", "\t", "1", " -\n/", ")"]),
    ])
    def test_by_hand(self, pattern, text, expected):
        expected = expected + LATER_PIECES if text.endswith(LATER) else expected
        assert pieces(text, pattern) == expected == list(split(compile_pattern(pattern), text))

    def test_no_text_is_read_beyond_the_end(self):
        data = np.frombuffer(b"abc def", np.uint8)
        for pattern in range(len(NAMED)):
            assert pretokenize.piece_end(data, 0, 2, pattern, unicode.class_table()) == 2
            assert pretokenize.piece_end(data, 3, 4, pattern, unicode.class_table()) == 4


def unicode_clean(text):
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class TestClasses:
    def test_codes_are_those_of_the_kernels(self):
        assert [unicode.CLASSES[code] for code in (pretokenize.OTHER, pretokenize.WHITE, pretokenize.NUMBER, pretokenize.MARK,
                                                   pretokenize.CAPITAL, pretokenize.SMALL, pretokenize.CASELESS)] == list("OWNMULA")

    def test_letters_of_later_versions_are_none(self):
        assert unicode.UNICODE_VERSION == "16.0.0"
        assert unicode.CLASSES[unicode.class_table()[0x1C89]] == "U"       # new in 16.0
        assert unicode.CLASSES[unicode.class_table()[0x323B0]] == "O"      # new in 17.0
        assert pieces("a\U000323b0", "gpt2") == ["a", "\U000323b0"] == list(split(compile_pattern("gpt2"), "a\U000323b0"))

    def test_an_example_is_of_its_class(self):
        table = unicode.class_table()
        assert [unicode.CLASSES[table[ord(example)]] for example in unicode.EXAMPLES] == list(unicode.CLASSES)
        assert unicode.pinned("aé汉\u3000\u017f²\U000323b0") == "aé汉\u00a0\u017f²§"

    @pytest.mark.oracle
    def test_they_are_the_databases(self):
        database = pytest.importorskip("unicodedata2")
        from numpyllm.tokenizer.make_unicode_runs import letter_of
        assert database.unidata_version == unicode.UNICODE_VERSION
        letters = "".join(letter_of(database.category(chr(code)), code) for code in range(unicode.CODE_POINTS))
        assert letters == "".join(map(unicode.CLASSES.__getitem__, unicode.class_table()))


class TestIds:
    def test_nasty_strings(self, pair):
        reference, compiled = pair
        for text in (*NASTY, *map("".join, product(NASTY_ALPHABET, repeat=3))):
            assert compiled.encode(text) == reference.encode(text), ascii(text)
            joined = f"{text}{EOT}{text}<|a b|>{EOT}"
            assert compiled.encode(joined, allowed_special="all") == reference.encode(joined, allowed_special="all")
            assert compiled.encode_ordinary(joined) == reference.encode_ordinary(joined)

    @given(text=st.one_of(mixtures, st.text(st.characters(), max_size=40)))
    def test_any_text(self, pair, text):
        reference, compiled = pair
        ids = compiled.encode_to_numpy(text)
        assert ids.dtype == compiled.dtype
        assert ids.tolist() == reference.encode(text)

    def test_a_special_token_is_refused_likewise(self, pair):
        reference, compiled = pair
        for text in (f"汉{EOT}", f"\ud83d{EOT}"):
            with pytest.raises(InputError, match="found at character 1;") as refused:
                compiled.encode(text)
            with pytest.raises(InputError, match=f"^{re.escape(str(refused.value))}$"):
                reference.encode(text)
        for bad in (b"abc", None):
            with pytest.raises(InputError, match="^a text must be a string"):
                compiled.encode(bad)

    def test_more_words_than_there_are_slots(self, pair):
        """Of 90,000 words, those whose two lines of the cache, of four slots, are wanted by more than four."""
        reference, compiled = pair
        letters = np.random.default_rng(0).integers(97, 123, (90_000, 5), dtype=np.uint8)
        wanted = defaultdict(set)
        for word in letters:
            key = int.from_bytes(b" " + word.tobytes(), "little")
            line = bpe_encode.home_line(np.uint64(key), np.uint64(6 << 56))
            wanted[line // 2].add(word.tobytes().decode())
        words = [word for rivals in wanted.values() if len(rivals) > 4 for word in sorted(rivals)]
        assert 100 < len(words) < 20_000
        text = " " + " ".join(words)
        assert compiled.encode(text) == reference.encode(text) == compiled.encode(text)

    def test_threads_change_nothing(self, pair, monkeypatch):
        reference, compiled = pair
        text = (THIS_FILE + " 汉字和標點，汉字和標點。\n'll \u3000 x" + "a" * 3000 + EOT) * 3
        expected = reference.encode(text, allowed_special="all")
        for part in (1, 2, 7, 100, 5000):
            monkeypatch.setattr(twin, "PART", part)
            for threads in (1, 2, 3):
                got = compiled.encode_to_numpy(text, allowed_special="all", threads=threads)
                assert got.tolist() == expected
        unknown = "あい うえ " * 3000                          # more ids than characters
        for threads in (1, 2):
            assert compiled.encode_to_numpy(unknown, threads=threads).tolist() == reference.encode(unknown)
        assert compiled.encode_batch([text, "", "a"], allowed_special="all", threads=2) == [
            expected, [], reference.encode("a")]
        with pytest.raises(InputError, match="^threads must be at least 1, got 0$"):
            compiled.encode_to_numpy("a", threads=0)

    def test_calls_from_several_threads(self, pair):
        reference, compiled = pair
        texts = [f"{i} the {'a' * i} then there " * 50 for i in range(40)]
        expected, got = reference.encode_batch(texts), [None] * 40

        def work(first):
            for i in range(first, 40, 4):
                got[i] = compiled.encode(texts[i])

        workers = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert got == expected


class TestMerging:
    """The kernel on whole pieces: for GPT-2's pattern, letters alone are one."""

    @given(tokens=small_tokens, text=st.text("abc", max_size=200), random=st.randoms())
    def test_any_vocabulary(self, tokens, text, random):
        ids = list(range(256 + len(tokens)))
        random.shuffle(ids)
        ranks = dict(zip(with_bytes(*tokens), ids))
        compiled = BytePairTokenizer(ranks)
        compiled.load_twin()
        assert compiled.encode(text) == BytePairTokenizer(ranks, backend="numpy").encode(text)

    def test_vocabularies_that_nobody_trained(self):
        """Tokens that only higher ranks lead to, from several pairs, in short and long pieces."""
        compiled = BytePairTokenizer(with_bytes(b"abc", b"bc"))
        compiled.load_twin()
        assert compiled.encode("xabc") == [ord("x"), 256]           # bc first, though its rank is the higher
        rng = np.random.default_rng(1)
        for _ in range(60):
            tokens = {"".join(rng.choice(list("abc"), rng.integers(2, 6))).encode() for _ in range(12)}
            ranks = dict(zip(with_bytes(*tokens), rng.permutation(256 + len(tokens)).tolist()))
            reference, compiled = BytePairTokenizer(ranks, backend="numpy"), BytePairTokenizer(ranks)
            compiled.load_twin()
            for n in (5, 10, 20, bpe_encode.SCANNED, bpe_encode.SCANNED + 1, 200, 500):
                text = "".join(rng.choice(list("abc"), n))
                assert compiled.encode(text) == reference.encode(text)

    @pytest.mark.parametrize("sign", "^0a' \n")
    def test_long_runs(self, sign):
        ranks = with_bytes(*(sign.encode() * 2 ** k for k in range(1, 7)))
        compiled = BytePairTokenizer(ranks, "gpt2")
        compiled.load_twin()
        compiled.encode("warm")
        start = time.perf_counter()
        ids = compiled.encode_to_numpy(sign * 1_000_001)
        assert time.perf_counter() - start < 1              # measured: 0.03 s
        if sign != "'":                                     # of which the two last ones might begin a contraction
            assert ids.tolist() == [261] * 15_625 + [ord(sign)]


class TestWhichEncodes:
    def test_the_twin_takes_over_after_many_characters(self, monkeypatch):
        monkeypatch.setattr(bpe, "TWIN_FROM", 100)
        tokenizer = BytePairTokenizer(with_bytes(b"ab"))
        for _ in range(9):
            tokenizer.encode("ab 1234567")
        assert tokenizer._twin is None
        assert tokenizer.encode("ab 1234567")[0] == 256
        assert tokenizer._twin is not None
        for other in (BytePairTokenizer(with_bytes(b"ab"), backend="numpy"), BytePairTokenizer(with_bytes(b"ab"), r"\w+")):
            other.encode("ab" * 1000)
            other.load_twin()
            assert other._twin is None

    def test_without_numba(self, monkeypatch):
        tokenizer = BytePairTokenizer(with_bytes(b"ab"))
        monkeypatch.setitem(sys.modules, "numpyllm.kernels", None)
        with pytest.warns(UserWarning, match="^Numba is not installed, so texts are encoded in plain Python"):
            tokenizer.load_twin()
        tokenizer.load_twin()                               # says so once
        assert tokenizer.encode("ab") == [256]

    def test_another_backend(self):
        with pytest.raises(InputError, match="^backend must be one of .*, got 'cuda'$"):
            BytePairTokenizer(with_bytes(), backend="cuda")


class TestEncodeFile:
    @pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
    def test_the_ids_are_those_of_the_whole(self, pair, tmp_path, monkeypatch, chunk):
        _, compiled = pair
        monkeypatch.setattr(encode_file_module, "CHUNK", chunk)
        data = (f"the  there {EOT} the\r\nthen\nthe, <|a b|> I'll 汉字 \u3000 x <|a b" * 5).encode() + b"\xff caf\xc3\xa9 \xe6\xb1 end \xe6"
        path, out = tmp_path / "text.txt", tmp_path / "text.bin"
        path.write_bytes(data)
        seen = []
        count = compiled.encode_file(path, out, allowed_special="all", progress=lambda *at: seen.append(at))
        ids, header = open_shard(out, verify=True)
        assert ids.tolist() == compiled.encode(data.decode(errors="replace"), allowed_special="all")
        assert (count, header["n_vocab"], header["tokenizer"]) == (len(ids), compiled.n_vocab, compiled.sha256)
        assert header["sources"] == [str(path)]
        assert seen[-1] == (len(data), len(data))

    def test_a_pattern_of_ones_own(self, tmp_path, monkeypatch):
        monkeypatch.setattr(encode_file_module, "CHUNK", 5)
        tokenizer = BytePairTokenizer(with_bytes(b"a b", b" b"), r"[\s\S]+")
        (tmp_path / "text.txt").write_text("a b a b a b")
        tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "text.bin")
        assert open_shard(tmp_path / "text.bin")[0].tolist() == tokenizer.encode("a b a b a b")

    def test_what_goes_wrong(self, pair, tmp_path, monkeypatch):
        _, compiled = pair
        monkeypatch.setattr(encode_file_module, "CHUNK", 16)
        path, out = tmp_path / "text.txt", tmp_path / "text.bin"
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: cannot be read: No such file"):
            compiled.encode_file(path, out)
        path.write_text("the there")
        compiled.encode_file(path, out)
        before = out.read_bytes()
        path.write_text("the there then " * 10 + EOT)
        with pytest.raises(InputError, match=f"^{re.escape(str(path))} must not contain .*, found at character 150;"):
            compiled.encode_file(path, out)
        assert out.read_bytes() == before
        assert sorted(tmp_path.iterdir()) == sorted([path, out, out.with_name("text.bin.json")])

    @pytest.mark.parametrize("chunk", [1, 2, 5, 1000])
    def test_bytes_that_are_no_text(self, monkeypatch, chunk):
        monkeypatch.setattr(encode_file_module, "CHUNK", chunk)
        tokenizer = BytePairTokenizer(with_bytes())
        for data, place in ((b"caf\xc3\xa9 \xe6\xb1\xff", 6), (b"\xff", 0), (b"\xe6\xb1\x89 \xe6", 4)):
            message = f"^it is no UTF-8 text \\(byte {place} is 0x{data[place]:02x}\\): convert it to UTF-8$"
            with pytest.raises(InputError, match=message):
                list(encode_file_module.encode_blocks(tokenizer, io.BytesIO(data), "it"))

    def test_an_empty_file(self, pair, tmp_path):
        (tmp_path / "empty.txt").write_text("")
        assert pair[1].encode_file(tmp_path / "empty.txt", tmp_path / "empty.bin") == 0


def test_a_workspace_is_left_as_it_was():
    workspace = bpe_encode.workspace(300)
    vocabulary = bpe_encode.vocabulary([bytes([byte]) for byte in range(256)] + [b"ab", b"abab"])
    data = np.frombuffer(b"ab" * 500 + b"ba" * 300 + bytes(bpe_encode.PADDING), np.uint8)
    ids = np.empty(len(data) + 4, np.uint32)
    n = bpe_encode.encode(ids, data, np.array([1600]), np.array([-1]), pretokenize.GPT2, unicode.class_table(),
                          vocabulary, workspace)
    assert n < 1600
    head, tail, state, _ = workspace.chains
    assert (head == -1).all() and (tail[head >= 0] == -1).all() and (state == 0).all()
