"""tokenizer.json: written, read back, read by Hugging Face's library, refused with reasons, never half."""

import copy
import errno
import json
import os
import re
import stat

import pytest
from tokenizer_strings import NASTY, gpt2_ranks, with_bytes

from numpyllm.errors import InputError
from numpyllm.tokenizer import BytePairTokenizer, load
from numpyllm.tokenizer.formats.byte_characters import BYTE_OF, CHARACTER_OF, text_to_token, token_to_text

EOT = "<|endoftext|>"
OWN_PATTERN = r"\p{N}{1,3}|\s*\p{L}+|[^\p{L}\p{N}]"
TEXT = """The cat sat on the mat; the rat sat on the cat. In 1913 and in 1919 they're said to have sat there
    again, while others stood round the house: "What a thing!", 汉字汉字, Ärger und Ärgernis, naïve, native."""


def trained():
    return BytePairTokenizer.train(TEXT, 320, special_tokens=(EOT, "<|longer|>"))


TOKENIZERS = {
    "bytes alone": BytePairTokenizer(with_bytes()),
    "trained": trained(),
    "own pattern": BytePairTokenizer.train(TEXT, 290, pattern=OWN_PATTERN),
    "special tokens first": BytePairTokenizer(
        {token: i + 2 for token, i in with_bytes(b"th", b"the").items()},
        special_tokens={EOT: 1, "<|é|>": 0}),
    "ids in no order": BytePairTokenizer(       # 100 and 259 have no common divisor: each id comes up once
        {token: i * 100 % 259 for token, i in with_bytes(b"at", b"he").items()}, special_tokens={EOT: 159}),
    "a token that no merges reach": BytePairTokenizer(with_bytes(b"at", b"cats", b"the")),
    "ranks not in order of growth": BytePairTokenizer(with_bytes(b"the", b"he", b" the")),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokenizer.json"


@pytest.fixture
def data(path):
    """The content of a good file, to be spoilt."""
    BytePairTokenizer(with_bytes(b"th", b"the"), special_tokens={EOT: 258}).save(path)
    return json.loads(path.read_text("utf-8"))


def read(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return load(path)


def test_byte_characters_are_gpt2s():
    assert len(BYTE_OF) == 256
    assert token_to_text(b" the\n\t\x00\x7f\xad\xff~!") == "ĠtheĊĉĀġŃÿ~!"
    assert text_to_token("".join(CHARACTER_OF)) == bytes(range(256))
    assert not any(character.isspace() or not character.isprintable() for character in CHARACTER_OF)


def test_byte_characters_are_those_of_gpt2s_own_file(data_dir):
    vocab = json.loads((data_dir / "gpt2" / "encoder.json").read_text("utf-8"))
    assert vocab.pop(EOT) == 50256
    assert {text_to_token(text): i for text, i in vocab.items()} == gpt2_ranks(data_dir)


def test_merges_are_those_of_gpt2s_own_file(data_dir):
    listed = (data_dir / "gpt2" / "vocab.bpe").read_text("utf-8").splitlines()[1:]
    tokenizer = BytePairTokenizer(gpt2_ranks(data_dir), "gpt2", {EOT: 50256})
    assert [" ".join(map(token_to_text, pair)) for pair in tokenizer.merges()] == listed


@pytest.mark.parametrize("name", TOKENIZERS)
def test_reading_back_gives_an_equal_tokenizer(name, path):
    tokenizer = TOKENIZERS[name]
    tokenizer.save(path)
    again = BytePairTokenizer.load(path)
    assert again == load(str(path)) == tokenizer
    assert list(json.loads(path.read_text("utf-8"))["model"]["vocab"].values()) == list(range(again.n_vocab))
    assert list(again.special_tokens) == sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.get)
    for text in [TEXT, *NASTY]:
        assert again.encode(text) == tokenizer.encode(text)


def test_the_same_tokenizer_makes_the_same_file(path):
    trained().save(path)
    first = path.read_bytes()
    trained().save(path)
    assert path.read_bytes() == first
    data = json.loads(first)
    assert set(data) == {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                         "post_processor", "decoder", "model"}     # their loader refuses any other
    assert '"Ġt he"' in first.decode("utf-8")                        # readable, no escapes


def test_merges_in_either_notation(path, data):
    assert data["model"]["merges"] == ["t h", "th e"]
    tokenizer = load(path)
    data["model"]["merges"] = [["t", "h"], ["th", "e"]]
    assert read(path, data) == tokenizer


def test_a_file_in_the_manner_of_gpt2s_own(path, data):
    tokenizer = load(path)
    for name in ("type", "byte_fallback", "ignore_merges"):
        del data["model"][name]
    data["model"] |= {"unk_token": "", "continuing_subword_prefix": "", "end_of_word_suffix": ""}
    data["added_tokens"][0]["normalized"] = True
    data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    data["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    assert read(path, data) == tokenizer
    data["post_processor"] = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                              "pair": [], "special_tokens": {}}         # adds nothing: as transformers 5 saves it
    assert read(path, data) == tokenizer


def test_special_tokens_need_not_be_in_the_vocabulary(path, data):
    tokenizer = load(path)
    del data["model"]["vocab"][EOT]
    assert read(path, data) == tokenizer


def test_merges_that_never_meet_do_no_harm(path):
    tokenizer = BytePairTokenizer(with_bytes(b"aa", b"aaa"))        # aaa = aa + a; a + aa cannot come up
    tokenizer.save(path)
    data = json.loads(path.read_text("utf-8"))
    data["model"]["merges"] = ["a a", "a aa", "aa a"]
    assert read(path, data) == tokenizer


ACCENT = {"type": "StripAccents"}
TEMPLATE = {"type": "TemplateProcessing"}
SPLIT = {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LSTRIP = {"id": 258, "content": EOT, "special": True, "lstrip": True}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


@pytest.mark.parametrize(("place", "value", "message"), [
    (("model", "type"), "WordPiece", 'model type must be BPE, got "WordPiece"'),
    (("model",), None, 'there must be a "model" with "vocab" and "merges", got {"version": "1.0"'),
    (("model", "vocab"), [], 'there must be a "model" with "vocab" and "merges"'),
    (("model", "merges"), None, 'there must be a "model" with "vocab" and "merges"'),
    (("model", "dropout"), 0.1, "dropout must be null or false, got 0.1: ids would not be those that are meant"),
    (("model", "continuing_subword_prefix"), "##", '_prefix must be null or false, got "##"'),
    (("model", "end_of_word_suffix"), "</w>", 'end_of_word_suffix must be null or false, got "</w>"'),
    (("model", "byte_fallback"), True, "ignore_merges must be null or false, got true"),
    (("normalizer",), ACCENT, 'normalizer must be null or false, got {"type": "StripAccents"}'),
    (("truncation",), {"max_length": 5}, 'truncation must be null or false, got {"max_length": 5}'),
    (("padding",), {"pad_id": 0}, 'padding must be null or false, got {"pad_id": 0}'),
    (("post_processor",), TEMPLATE, 'post_processor must be null, ByteLevel, or a template that puts'),
    (("decoder",), {"type": "WordPiece"}, 'decoder must be null or ByteLevel, got {"type": "WordPiece"}'),
    (("decoder",), "ByteLevel", 'decoder must be null or ByteLevel, got "ByteLevel"'),
    (("model", "vocab", "th"), 97, "ids must be distinct, got 97 for both b'a' and b'th'"),
    (("model", "vocab", "xy"), 260, "no hole, got 260 tokens with ids up to 260 but none with id 259"),
    (("model", "vocab", "xy"), -1, "ids must be Python integers from 0 on, got -1 for the token b'xy'"),
    (("model", "vocab", "xy"), "259", "ids must be Python integers from 0 on, got '259' for the token b'xy'"),
    (("model", "vocab", "xy"), True, "ids must be Python integers from 0 on, got True for the token b'xy'"),
    (("model", "vocab", "汉"), 259, "a token must be written in byte-level characters, got '汉' with '汉'"),
    (("model", "vocab", "x y"), 259, "a token must be written in byte-level characters, got 'x y' with ' '"),
    (("model", "merges", 1), "th x", "merges must name tokens of the vocabulary, got b'thx' in \"th x\""),
    (("model", "merges", 1), "xy e", "merges must name tokens of the vocabulary, got b'xy' in \"xy e\""),
    (("model", "merges", 1), ["th", "xy"], "tokens of the vocabulary, got b'xy' in [\"th\", \"xy\"]"),
    (("model", "merges", 1), "the", 'a merge must be "left right" or ["left", "right"], got "the"'),
    (("model", "merges", 1), ["t", "h", "e"], 'or ["left", "right"], got ["t", "h", "e"]'),
    (("model", "merges", 1), 5, 'a merge must be "left right" or ["left", "right"], got 5'),
    (("model", "merges"), ["t h"], "merges must lead to each token, (b'th', b'e') is missing"),
    (("model", "merges"), ["th e", "t h"], "in the order of the ids made, (b'th', b'e') does not"),
    (("model", "merges"), ["t h", "th e", "t h"], "merges must stand once each"),
    (("added_tokens",), {}, "added_tokens must be an array, got {}"),
    (("added_tokens", 0), "x", 'added tokens must have content, an id and special true, got "x"'),
    (("added_tokens", 0, "special"), False, "added tokens must have content, an id and special true, got {"),
    (("added_tokens", 0, "id"), "258", "added tokens must have content, an id and special true, got {"),
    (("added_tokens", 0, "id"), 259, "must have their id in the vocabulary, got 259 for '<|endoftext|>'"),
    (("added_tokens", 0, "content"), "", "a special token must be a string, not empty"),
    (("added_tokens",), [LSTRIP], "lstrip must be null or false, got true"),
    (("pre_tokenizer",), None, "pre_tokenizer must be ByteLevel with GPT-2's pattern, or Split"),
    (("pre_tokenizer",), {"type": "Whitespace"}, 'got {"type": "Whitespace"}'),
    (("pre_tokenizer", "add_prefix_space"), True, "both with add_prefix_space false; got {"),
    (("pre_tokenizer", "use_regex"), False, "pre_tokenizer must be"),
    (("pre_tokenizer",), sequence(SPLIT), "pre_tokenizer must be"),
    (("pre_tokenizer",), sequence(SPLIT, SPLIT, BYTE_LEVEL), "pre_tokenizer must be"),
    (("pre_tokenizer",), sequence(SPLIT, BYTE_LEVEL | {"use_regex": True}), "pre_tokenizer must be"),
    (("pre_tokenizer",), sequence(SPLIT, BYTE_LEVEL | {"add_prefix_space": True}), "pre_tokenizer must be"),
    (("pre_tokenizer",), sequence(SPLIT | {"invert": True}, BYTE_LEVEL), "pre_tokenizer must be"),
    (("pre_tokenizer",), sequence(SPLIT | {"behavior": "Removed"}, BYTE_LEVEL), "pre_tokenizer must be"),
    (("pre_tokenizer",), sequence(SPLIT | {"pattern": {"String": "x"}}, BYTE_LEVEL), "pre_tokenizer must be"),
    (("pre_tokenizer",), sequence(SPLIT | {"pattern": {"Regex": "("}}, BYTE_LEVEL),
     "pattern must be a regular expression, got '(': missing )"),
])
def test_files_refused(path, data, place, value, message):
    *outer, last = place
    node = data
    for key in outer:
        node = node[key]
    node[last] = value
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{re.escape(message)}") as caught:
        read(path, data)
    assert "\n" not in str(caught.value)


def test_more_files_refused(path, data):
    spoilt = copy.deepcopy(data)
    del spoilt["model"]["vocab"]["a"]
    with pytest.raises(InputError, match="every byte must be a token of its own, got none for b'a'"):
        read(path, spoilt)
    spoilt = copy.deepcopy(data)
    spoilt["added_tokens"] *= 2
    with pytest.raises(InputError, match=r"added tokens must be distinct, got '<\|endoftext\|>' twice"):
        read(path, spoilt)
    BytePairTokenizer(with_bytes(b"cats")).save(path)
    spoilt = json.loads(path.read_text("utf-8"))
    spoilt["model"]["ignore_merges"] = False
    with pytest.raises(InputError, match="must lead to each token unless ignore_merges is true, none does to "
                                         "b'cats'"):
        read(path, spoilt)


def test_messages_stay_short(path, data):
    data["normalizer"] = {"type": "Replace", "content": "x" * 1000}
    with pytest.raises(InputError, match=r'got \{"type": "Replace", "content": "x{50,70}\.\.\.: ids'):
        read(path, data)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "must be JSON: Expecting value"),
    (b"#version: 0.2\n", "must be JSON: Expecting value"),
    (b'{"a": "\xff"}', "must be JSON: 'utf-8' codec can't decode byte 0xff"),
    (b"[" * 100_000, "must be JSON: "),
    (b"[1]", "must hold a JSON object, got [1]"),
    (b'{"model": {"vocab": {"a": 1, "a": 2}}}', "keys must be distinct, got 'a' twice"),
])
def test_files_that_are_no_json(path, content, message):
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}: {message}')}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.json: cannot be read: No such file or directory$"):
        load(tmp_path / "nothing.json")
    with pytest.raises(InputError, match=r": holds no tokenizer \(tokenizer.json, vocab.json, encoder.json\): name the"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["Ġt", "Ċ"])
def test_a_special_token_like_an_ordinary_one_is_not_saved(path, name):
    tokenizer = BytePairTokenizer(with_bytes(b" t"), special_tokens={name: 257})
    with pytest.raises(InputError, match=f"like an ordinary one in the file's notation, got '{name}';"):
        tokenizer.save(path)
    assert not path.exists()


class TestFailingWrites:
    @pytest.mark.parametrize("call", ["fsync", "replace"])
    @pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "Disk full"), KeyboardInterrupt])
    def test_the_old_file_survives(self, path, monkeypatch, call, failure):
        TOKENIZERS["trained"].save(path)
        before = path.read_bytes()

        def fail(*_):
            raise failure

        monkeypatch.setattr(os, call, fail)
        with pytest.raises((InputError, KeyboardInterrupt)) as caught:
            TOKENIZERS["own pattern"].save(path)
        if isinstance(failure, OSError):
            assert str(caught.value) == f"{path}: cannot be written: Disk full"
        assert os.listdir(path.parent) == [path.name]
        assert path.read_bytes() == before

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"cannot be written: No such file or directory$"):
            TOKENIZERS["trained"].save(tmp_path / "nowhere" / "tokenizer.json")

    def test_a_folder_in_its_place(self, tmp_path):
        (tmp_path / "tokenizer.json").mkdir()
        with pytest.raises(InputError, match=r"tokenizer\.json: cannot be written: Is a directory$"):
            TOKENIZERS["trained"].save(tmp_path / "tokenizer.json")
        assert os.listdir(tmp_path) == ["tokenizer.json"]

    def test_others_may_read_it_as_they_may_any_new_file(self, path):
        TOKENIZERS["trained"].save(path)
        (path.parent / "other").touch()
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path.parent / "other").stat().st_mode)


@pytest.mark.oracle
class TestAgainstHuggingFace:
    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_their_library_reads_our_file(self, name, path):
        peers = pytest.importorskip("tokenizers")
        ours = TOKENIZERS[name]
        ours.save(path)
        theirs = peers.Tokenizer.from_file(str(path))
        assert theirs.get_vocab_size() == ours.n_vocab
        beside_special = [f"{EOT}x <|longer|>{EOT}{text}" for text in NASTY]
        for text in [TEXT, "cats cat xcats thethe", *NASTY, *beside_special]:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            ids = ours.encode(text, allowed_special="all")
            assert ids == theirs.encode(text).ids
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False) == text

    def test_gpt2(self, path, data_dir):
        peers = pytest.importorskip("tokenizers")
        ours = BytePairTokenizer(gpt2_ranks(data_dir), "gpt2", {EOT: 50256})
        ours.save(path)
        assert load(path) == ours
        theirs = peers.Tokenizer.from_file(str(path))
        text = (data_dir / "tinyshakespeare.txt").read_text("utf-8")
        assert ours.encode(text) == theirs.encode(text).ids

    @pytest.mark.parametrize("own_pattern", [None, OWN_PATTERN])
    def test_we_read_a_file_of_their_training(self, path, own_pattern):
        peers = pytest.importorskip("tokenizers")
        theirs = peers.Tokenizer(peers.models.BPE())
        cut = peers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not own_pattern)
        if own_pattern:
            own_cut = peers.pre_tokenizers.Split(peers.Regex(own_pattern), "isolated")
            cut = peers.pre_tokenizers.Sequence([own_cut, cut])
        theirs.pre_tokenizer = cut
        theirs.train_from_iterator([TEXT], peers.trainers.BpeTrainer(
            vocab_size=290, special_tokens=[EOT], show_progress=False,
            initial_alphabet=peers.pre_tokenizers.ByteLevel.alphabet()))
        theirs.save(str(path))
        ours = load(path)
        assert ours.special_tokens == {EOT: 0}
        assert ours.n_vocab == 290
        for text in [TEXT, f"x{EOT}y", *NASTY]:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            assert ours.encode(text, allowed_special="all") == theirs.encode(text).ids
