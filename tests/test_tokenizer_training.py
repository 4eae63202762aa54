"""Training byte-pair encoding: against a trainer that counts everything anew at each merge."""

import io
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm import files, kernels
from numpyllm.data import source_text
from numpyllm.errors import InputError
from numpyllm.kernels import bpe_count, bpe_train
from numpyllm.tokenizer import BytePairTokenizer, sources, trainer, training
from numpyllm.tokenizer.base import clean
from numpyllm.tokenizer.formats.byte_characters import CHARACTER_OF
from numpyllm.tokenizer.patterns import NAMED, compile_pattern
from numpyllm.tokenizer.training import TIE_BREAKS, learn_merges
from numpyllm.tokenizer.unicode import class_table

EOT = "<|endoftext|>"
ENGLISH = "\n".join(topics.values())                            # the Python manual: 465 kB in Python 3.11

words = st.text("abc", min_size=1, max_size=12).map(str.encode)
counted_words = st.dictionaries(words, st.integers(1, 5), max_size=6)
documents = st.lists(st.text("ab \n", max_size=20), max_size=6).filter(any)


def naive_learn(counted, limit, min_frequency=1, tie_break="smallest-id"):
    """The definition: count all pairs, merge the most frequent and of these the one to prefer, begin again."""
    rows = [(list(piece), number) for piece, number in counted.items()]
    merges, tokens = [], [bytes([byte]) for byte in range(256)]
    for new in range(256, 256 + limit):
        counts = Counter()
        for ids, number in rows:
            for pair in pairwise(ids):
                counts[pair] += number
        if not counts or max(counts.values()) < min_frequency:
            break
        most = max(counts.values())
        top = [pair for pair in counts if counts[pair] == most]
        best = min(top) if tie_break == "smallest-id" else max(top, key=lambda pair: [tokens[i] for i in pair])
        tokens.append(tokens[best[0]] + tokens[best[1]])
        merges.append(best)
        for ids, _ in rows:
            for i in range(len(ids)):
                if tuple(ids[i:i + 2]) == best:
                    ids[i:i + 2] = [new]
    return merges


def train(texts, vocab_size, **options):
    """Training without the word about a vocabulary that is smaller than asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return BytePairTokenizer.train(texts, vocab_size, **options)


def test_wikipedia_example():
    tokenizer = BytePairTokenizer.train("aaabdaaabac", 259, special_tokens=())
    assert tokenizer.merges() == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]
    assert tokenizer.encode("aaabdaaabac") == [258, ord("d"), 258, ord("a"), ord("c")]
    assert tokenizer.decode([258, ord("d"), 258, ord("a"), ord("c")]) == "aaabdaaabac"


def twin_learn(counted, limit, **options):
    return bpe_train.learn_merges(bpe_count.pieces_of(counted), limit, **options)


both_learn = pytest.mark.parametrize("learn", [learn_merges, twin_learn], ids=["text", "twin"])
both_breaks = pytest.mark.parametrize("tie_break", TIE_BREAKS)


@both_learn
@both_breaks
@given(counted_words, st.integers(0, 25), st.integers(1, 4))
def test_merges_are_those_of_the_definition(learn, tie_break, counted, limit, min_frequency):
    assert (learn(counted, limit, min_frequency=min_frequency, tie_break=tie_break)
            == naive_learn(counted, limit, min_frequency, tie_break))


@both_learn
@both_breaks
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 31])
def test_runs_of_one_byte_overlap(learn, tie_break, n):
    counted = {b"a" * n: 3, b"ba" + b"a" * n: 1}
    assert learn(counted, 9, tie_break=tie_break) == naive_learn(counted, 9, tie_break=tie_break)


@both_learn
@both_breaks
def test_english_as_the_definition_has_it(learn, tie_break):
    counted = Counter(word.encode() for word in ENGLISH[:20_000].split(" "))
    assert learn(counted, 60, tie_break=tie_break) == naive_learn(counted, 60, tie_break=tie_break)


@both_breaks
@pytest.mark.parametrize("min_frequency", [1, 4])
def test_twin_learns_what_the_text_learns(tie_break, min_frequency):
    counted = training.count_pieces([ENGLISH], compile_pattern("gpt2"))
    options = {"tie_break": tie_break, "min_frequency": min_frequency}
    assert twin_learn(counted, 10_000, **options) == learn_merges(counted, 10_000, **options)


def test_twin_makes_room_for_more_pairs(monkeypatch):
    monkeypatch.setattr(bpe_train, "FIRST_PAIRS", 1 << 10)
    counted = training.count_pieces([ENGLISH[:50_000]], compile_pattern("gpt2"))
    assert twin_learn(counted, 5_000) == learn_merges(counted, 5_000)


@both_learn
def test_counts_beyond_32_bits(learn):
    assert learn({b"ab": 1 << 40, b"cd": (1 << 40) + 1, b"ef": 3 << 31}, 2) == [tuple(b"cd"), tuple(b"ab")]


@both_learn
@pytest.mark.parametrize(("counted", "first", "greatest"), [
    ({b"ba": 1, b"ab": 1}, b"ab", b"ba"),           # the left id
    ({b"ac": 2, b"ab": 2}, b"ab", b"ac"),           # then the right id
    ({b"ab": 1, b"ba": 2}, b"ba", b"ba"),           # but first of all the count
    ({b"b\xff": 1, b"a\xff": 1}, b"a\xff", b"b\xff"),
])
def test_ties(learn, counted, first, greatest):
    assert learn(counted, 1) == [tuple(first)]
    assert learn(counted, 1, tie_break="greatest-bytes") == [tuple(greatest)]


@both_learn
def test_ties_go_by_id_or_by_bytes(learn):
    # With ab = 256, the pairs ab + d and a + c tie at 5. The second is smaller by id, the first is greater by bytes.
    counted = {b"ab": 10, b"abd": 5, b"ac": 5}
    assert learn(counted, 3) == [(97, 98), (97, 99), (256, 100)]
    assert learn(counted, 3, tie_break="greatest-bytes") == [(97, 98), (256, 100), (97, 99)]
    # Of two left halves of which one begins the other, the longer is greater. b"a" + b"z" and b"ab" + b"a" tie.
    assert learn({b"ab": 10, b"aba": 5, b"az": 5}, 2, tie_break="greatest-bytes")[1] == (256, 97)


@given(documents, st.randoms())
def test_the_order_of_documents_is_of_no_account(texts, random):
    shuffled = random.sample(texts, len(texts))
    assert train(texts, 280) == train(shuffled, 280) == train(iter(texts), 280)


@given(documents, st.integers(257, 270), st.integers(0, 10))
def test_a_smaller_vocabulary_begins_a_larger(texts, size, more):
    small, large = train(texts, size), train(texts, size + more)
    assert list(large.ranks.items())[:len(small.ranks)] == list(small.ranks.items())


@given(documents, st.integers(257, 280))
def test_ids_are_bytes_then_merges_then_special_tokens(texts, size):
    tokenizer = train(texts, size)
    assert [tokenizer.ranks[bytes([byte])] for byte in range(256)] == list(range(256))
    assert list(tokenizer.ranks.values()) == list(range(tokenizer.n_vocab - 1))
    assert tokenizer.eot_token == tokenizer.n_vocab - 1
    assert len(tokenizer.merges()) == tokenizer.n_vocab - 257       # each token is reached, and over one pair
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_and_documents_are_not_merged_across():
    assert [*train("ab cd, ef " * 50, 300, special_tokens=()).ranks][256:] == [
        b" c", b" e", b"ab", b" cd", b" ef", b" ab"]
    assert b"ab" not in train(["a", "b"] * 50, 300).ranks
    assert b"ab" in train("ab" * 50, 300).ranks


def test_own_pattern_and_special_tokens():
    tokenizer = train("a b a b", 300, pattern=r"[\s\S]+", special_tokens=("<|x|>", EOT))
    assert tokenizer.pattern == r"[\s\S]+"
    assert b"a b" in tokenizer.ranks
    assert tokenizer.special_tokens == {"<|x|>": tokenizer.n_vocab - 2, EOT: tokenizer.n_vocab - 1}
    assert train("a", 256, special_tokens=()).special_tokens == {}


def test_nothing_is_learned_from_special_tokens():
    with_them = train(f"one{EOT}two{EOT}{EOT}" * 20, 300)
    assert with_them == train(["one", "two"] * 20, 300)
    assert b"endoftext" not in with_them.ranks


def test_running_out_of_pairs_is_a_warning():
    message = ("the vocabulary has 258 tokens instead of 1000: no pair is left; "
               "train on more text for more")
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        tokenizer = BytePairTokenizer.train("ab", 1000)
    assert caught[0].filename == __file__
    assert tokenizer.n_vocab == 258
    assert tokenizer.encode("ab") == [256]


def test_min_frequency():
    texts = ["ab", "ab", "ab", "cd", "cd", "ef"]
    for min_frequency, learned in ((1, [b"ab", b"cd", b"ef"]), (2, [b"ab", b"cd"]), (3, [b"ab"]), (4, [])):
        assert [*train(texts, 300, special_tokens=(), min_frequency=min_frequency).ranks][256:] == learned


@pytest.mark.parametrize("texts", ["", [], ["", EOT]])
def test_no_text_at_all(texts):
    with pytest.raises(InputError, match="^training needs at least one character, got none$"):
        train(texts, 300)
    assert train([*texts, "a"], 300).n_vocab == 257     # but a text may be empty among others


def test_surrogates_in_training():
    assert train("\ud83d\udc4d\ud83d" * 9, 300) == train("\U0001f44d\ufffd" * 9, 300)


def test_progress():
    calls = []
    tokenizer = BytePairTokenizer.train(["aaabd", "aaabac\u20ac"], 260, progress=lambda *call: calls.append(call))
    assert calls == [("counting", 5, 14), ("counting", 14, 14), ("merging", 1, 3), ("merging", 2, 3), ("merging", 3, 3)]
    assert tokenizer.n_vocab == 260


def test_progress_of_the_twin(always_twin):
    calls = []
    BytePairTokenizer.train(iter([ENGLISH[:1000], ENGLISH[:4000]]), 500, progress=lambda *call: calls.append(call))
    size = len(ENGLISH[:1000].encode()) + len(ENGLISH[:4000].encode())
    counting = [call for call in calls if call[0] == "counting"]
    assert counting[-1] == ("counting", size, None)
    assert calls[len(counting):] == [("merging", done, 243) for done in (64, 128, 192, 243)]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"vocab_size": 256}, "vocab_size (bytes, merges and special tokens) must be at least 257, got 256"),
    ({"vocab_size": 255, "special_tokens": ()}, "must be at least 256, got 255"),
    ({"vocab_size": 300.0}, "vocab_size (bytes, merges and special tokens) must be an integer, got 300.0"),
    ({"min_frequency": 0}, "min_frequency must be at least 1, got 0"),
    ({"special_tokens": EOT}, "special_tokens must be a sequence of names, got the string '<|endoftext|>'; "
                              "write ('<|endoftext|>',) for one"),
    ({"special_tokens": (EOT, EOT)}, "special_tokens must be distinct, got '<|endoftext|>' twice"),
    ({"special_tokens": ("a",)}, "a special token must not be spelt like an ordinary one, got 'a'"),
    ({"pattern": "cl1OOk"}, "pattern must be one of ['cl100k', 'gpt2', 'llama3', 'o200k'] or a regular expression, got 'cl1OOk'"),
    ({"texts": b"bytes"}, "training needs a string, a path or an iterable of them, got bytes"),
    ({"texts": 5}, "training needs a string, a path or an iterable of them, got int"),
    ({"texts": ["a", 5]}, "a text must be a string, or the path of a file, got int"),
    ({"tie_break": "first"}, "tie_break must be one of ('smallest-id', 'greatest-bytes'), got 'first'"),
    ({"threads": 0}, "threads must be at least 1, got 0"),
    ({"backend": "jax"}, "backend must be one of ('numba', 'numpy'), got 'jax'"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        BytePairTokenizer.train(**({"texts": "text", "vocab_size": 300} | arguments))


@pytest.fixture
def always_twin(monkeypatch):
    """The twins take all texts, however short, in small parts."""
    monkeypatch.setattr(trainer, "TWIN_FROM", 0)
    monkeypatch.setattr(trainer, "PART", 50)


nasty = st.text(st.sampled_from("ab'S 1\n\r\t./\u00e9\u01c5\u0301\u00a0\u3000\u6f22\U0001f44d\ud83d"), max_size=300)


@pytest.mark.parametrize("pattern", NAMED)
@given(st.lists(nasty, max_size=4))
def test_twin_counts_what_the_text_counts(pattern, texts):
    counter = bpe_count.PieceCounter(pattern, class_table())
    texts = [clean(text) for text in texts]
    counter.count([text.encode() for text in texts])
    assert listed(counter.pieces()) == training.count_pieces(texts, compile_pattern(pattern))


def listed(pieces):
    data, bounds, numbers = pieces
    return {bytes(data[start:stop]): int(number) for start, stop, number in zip(bounds[:-1], bounds[1:], numbers, strict=True)}


def test_twin_counts_pieces_of_every_length():
    """Those of 15 bytes and less are keys, longer ones are hashed by eights."""
    words = [" " + "x" * n + end for n in range(300) for end in ("", "y", "z")]
    counter, other = (bpe_count.PieceCounter("gpt2", class_table()) for _ in range(2))
    for _ in range(2):
        counter.count([word.encode() for word in words])
        other.count([word.encode() for word in reversed(words)])
    counter.absorb(other)
    assert listed(counter.pieces()) == {word.encode(): 4 for word in words}


def test_twin_counts_more_pieces_than_it_has_room_for():
    words = [f"w{i}".translate(str.maketrans("0123456789", "abcdefghij")) for i in range(40_000)]
    counter, other = (bpe_count.PieceCounter("gpt2", class_table()) for _ in range(2))
    counter.count([word.encode() for word in words[:30_000]])
    other.count([word.encode() for word in words[10_000:]])
    counter.absorb(other)
    counted = listed(counter.pieces())
    assert len(counted) == 40_000 and all(counted[word.encode()] == 1 + (10_000 <= i < 30_000) for i, word in enumerate(words))


def test_two_pieces_of_equal_hash_are_two():
    counter = bpe_count.PieceCounter("gpt2", class_table())
    counter.count([b"abcdefghijklmnopqrst"])
    counter._table.text[0] = ord("z")               # as if the piece with this hash had been another
    counter.count([b"abcdefghijklmnopqrst"])
    assert listed(counter.pieces()) == {b"zbcdefghijklmnopqrst": 1, b"abcdefghijklmnopqrst": 1}


@pytest.mark.parametrize("pattern", [*NAMED, r"[a-z]+|[\s\S]"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@both_breaks
def test_backends_and_threads_give_the_same(always_twin, pattern, threads, tie_break):
    texts = [f"{ENGLISH[:3000]}{EOT}{ENGLISH[3000:6000]}", "", ENGLISH[5000:9000], " \n \u6f22\u5b57\n'S \ud83d" * 99]
    options = {"pattern": pattern, "tie_break": tie_break}
    twin = train(texts, 700, threads=threads, **options)
    assert twin == train(texts, 700, backend="numpy", **options) == train(texts[::-1], 700, threads=threads, **options)
    assert twin.n_vocab == 700


@pytest.mark.parametrize("pattern", NAMED)
@given(st.lists(nasty, max_size=5), st.integers(1, 60))
def test_files_are_read_in_blocks_that_change_nothing(pattern, texts, block):
    """Whatever the blocks, special tokens and places to divide at."""
    special = (EOT, "a b", "\n")
    text = clean((" a" + EOT).join(texts) + "a b")
    whole = training.count_pieces(sources.stretches([text], special, True), compile_pattern(pattern))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        for tokens in (special, special[:1]):
            whole = training.count_pieces(sources.stretches([text], tokens, True), compile_pattern(pattern))
            file = io.BytesIO(text.encode())
            assert training.count_pieces(sources.stretches([file], tokens, True), compile_pattern(pattern)) == whole


def test_files_folders_and_open_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "one.txt").write_bytes(b"\xef\xbb\xbfone one one")         # a byte order mark is no text
    (tmp_path / "deep" / "two.md").write_text("two two\r\n", newline="")
    (tmp_path / "three.py").write_text("three three three")
    expected = train(["one one one", "two two\r\n"], 280)
    assert expected == train(tmp_path, 280) == train([tmp_path], 280)
    assert expected == train([tmp_path / "one.txt", "two two\r\n"], 280)
    with open(tmp_path / "one.txt", "rb") as file:
        assert expected == train(iter([file, tmp_path / "deep"]), 280)
    assert b"three" in train(sorted(tmp_path.rglob("*.py")), 280).ranks
    name = str(tmp_path / "one.txt")                                        # a string is a text
    assert name.encode() in train(name, 999, pattern=r"[\s\S]+").ranks


def test_progress_in_bytes_of_files(tmp_path):
    (tmp_path / "one.txt").write_text("\u20ac" * 10)
    calls = []
    train([tmp_path / "one.txt", "ab"], 260, progress=lambda *call: calls.append(call))
    assert calls[:2] == [("counting", 30, 32), ("counting", 32, 32)]


@pytest.mark.parametrize(("data", "at", "byte"), [
    (b"a\xffb", 1, 0xFF),
    (b"\xef\xbb\xbfab\xc3", 5, 0xC3),             # cut short
    (b"abcde\xe2\x82\xac\xe2\x28\xa1", 8, 0xE2),
])
@pytest.mark.parametrize("block", [1, 3, 1 << 18])
def test_a_file_that_is_not_utf_8(tmp_path, monkeypatch, data, at, byte, block):
    monkeypatch.setattr(files, "BLOCK", block)
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(f"{path} is no UTF-8 text (byte {at} is {byte:#04x}): convert it")):
        train(path, 300)


def test_paths_with_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'none.txt'}: cannot be read: No such file")):
        train([tmp_path / "none.txt"], 300)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} holds no text files (.md .rst .text .txt)")):
        train(tmp_path, 300)


def test_pieces_too_long_for_the_twin(always_twin, monkeypatch):
    monkeypatch.setattr(bpe_train, "MOST_BYTES", 10)                # 7 bytes, 3 separators and one before them
    with pytest.raises(InputError, match="^the distinct pieces together must be shorter than 2 GB, got 7 bytes of them: "):
        train("abc abc def", 300, pattern="[a-z]+| ")
    assert b"abc" in train("abc abc", 300, pattern="[a-z]+| ").ranks


def test_without_numba(always_twin, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpyllm.kernels.bpe_count", None)
    monkeypatch.delattr(kernels, "bpe_count")
    with pytest.warns(UserWarning, match="^Numba is not installed, so training runs in plain Python") as caught:
        tokenizer = BytePairTokenizer.train("ab ab ab", 258)
    assert caught[0].filename == __file__
    assert b"ab" in tokenizer.ranks


@pytest.mark.oracle
@pytest.mark.parametrize("corpus", ["tinyshakespeare", "source"])
def test_merges_are_those_of_rustbpe_and_tokenizers(corpus, request):
    rustbpe, peers = pytest.importorskip("rustbpe"), pytest.importorskip("tokenizers")
    text = (source_text().encode()[:5_000_000].decode("utf-8", "ignore") if corpus == "source"
            else (request.getfixturevalue("data_dir") / "tinyshakespeare.txt").read_text(encoding="utf-8"))
    ours = BytePairTokenizer.train(text, 8192, special_tokens=())
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator([text], 8192, pattern=NAMED["gpt2"])
    assert ours.ranks == {bytes(token): rank for token, rank in learner.get_mergeable_ranks()}
    assert list(ours.ranks) == list(train(text, 8192, special_tokens=(), backend="numpy").ranks)

    # Hugging Face numbers the bytes in the order of the characters by which it writes them.
    learner = peers.Tokenizer(peers.models.BPE())
    learner.pre_tokenizer = peers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.train_from_iterator([text], peers.trainers.BpeTrainer(
        vocab_size=8192, show_progress=False, initial_alphabet=peers.pre_tokenizers.ByteLevel.alphabet()))
    vocab = learner.get_vocab()
    order = sorted(range(256), key=CHARACTER_OF.__getitem__)
    tokens = [bytes([byte]) for byte in order]
    renumbered = bytes(order.index(byte) for byte in range(256))
    counted = {piece.translate(renumbered): number
               for piece, number in training.count_pieces([text], compile_pattern("gpt2")).items()}
    for left, right in twin_learn(counted, 8192 - 256):
        tokens.append(tokens[left] + tokens[right])
    assert tokens == [bytes(map(CHARACTER_OF.index, word)) for word in sorted(vocab, key=vocab.get)]


@pytest.mark.thorough
def test_memory_is_bounded_by_pieces_not_by_text(tmp_path):
    """400 MB in one file."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from /proc")
    with open(tmp_path / "large.txt", "w") as file:
        for _ in range(800):
            file.write(ENGLISH)
    code = ("import sys\n"
            "from pathlib import Path\n"
            "from numpyllm.tokenizer import BytePairTokenizer\n"
            "BytePairTokenizer.train(Path(sys.argv[1]), 1024)\n"
            "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "large.txt"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250_000           # kB; measured: 160,000, most of which is Numba


def test_english_in_good_time():
    start = time.perf_counter()
    tokenizer = BytePairTokenizer.train(ENGLISH, 1024)
    assert time.perf_counter() - start < 10                     # measured: 0.2 s
    assert tokenizer.n_vocab == 1024
    assert tokenizer.decode(tokenizer.encode(ENGLISH)) == ENGLISH


def test_one_long_piece_in_good_time():
    letters = "".join(filter(str.isalpha, ENGLISH))[:150_000]
    start = time.perf_counter()
    assert BytePairTokenizer.train(letters, 1000).n_vocab == 1000
    assert time.perf_counter() - start < 10             # measured: 0.4 s; by rescans at each merge: 33 s
