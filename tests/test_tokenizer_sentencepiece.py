"""Llama 2's kind of tokenizer.json: pairs of characters by rank, bytes for what is unknown, spaces spelt U+2581."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import SentencePieceTokenizer, load
from numpyllm.tokenizer.character_pairs import BYTES
from numpyllm.tokenizer.formats import sentencepiece
from numpyllm.tokenizer.merging import merged
from numpyllm.tokenizer.sentencepiece import PREFIXES

SPACE = "\u2581"
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
MERGES = [("t", "h"), (SPACE, "th"), ("th", "e"), (SPACE + "th", "e"), (SPACE, "the"), ("aa", "a"), ("a", "a"), ("a", "aa"), (SPACE, SPACE),
          ("e", SPACE), ("c", "a"), ("ca", "t"), (SPACE, "cat")]
PIECES = dict.fromkeys([*"thecas.é", SPACE, *(left + right for left, right in MERGES)])
TOKENS = {text: i for i, text in enumerate([*BYTES, *PIECES], 3)}
TEXTS = ["", " ", "   ", "the cat", " the cat ", "aaaaaaa", "aa aaa  aaaa", "thé", "the\ncat\t", "x\u2581y", "漢字 the", "<0x41>", "e e e",
         "the</s>the", " </s> the", "<s>the", "the<s> the</s></s> ", "</s>"]
texts = st.text(st.sampled_from("thecas .é\u2581\nx漢")) | st.text(max_size=20)


def made(prefix="prepend", begins_with="<s>"):
    return SentencePieceTokenizer(TOKENS, MERGES, SPECIAL, prefix=prefix, begins_with=begins_with)


def by_definition(parts, ranks):
    """Merge the pair of the lowest rank, the leftmost of its places, over and over."""
    while True:
        found = [(ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in ranks]
        if not found:
            return parts
        _, i = min(found)
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2:]]


@given(st.text(st.sampled_from("thecas" + SPACE), max_size=30))
def test_merges_are_those_of_the_definition(text):
    ranks = {pair: rank for rank, pair in enumerate(MERGES)}
    assert list(merged(text, lambda i, j, k: ranks.get((text[i:j], text[j:k])))) == by_definition(list(text), ranks)


def test_the_pair_decides_not_what_it_makes():
    ids = made(prefix="never").encode("aaa", begin=False)
    assert ids == [TOKENS["aaa"]] == made(prefix="never").encode_ordinary("aaa")
    other = SentencePieceTokenizer(TOKENS, [("a", "a"), ("a", "aa")], SPECIAL, prefix="never")
    assert other.encode_ordinary("aaa") == [TOKENS["aa"], TOKENS["a"]]         # a score of "aaa" alone could not say so


@given(texts)
def test_texts_come_back(text):
    tokenizer = made()
    back = tokenizer.decode(tokenizer.encode(text, disallowed_special=()))
    assert back == "<s>" + text.replace(SPACE, " ")
    stream = tokenizer.stream_decoder()
    assert "".join(map(stream.feed, ([i] for i in tokenizer.encode(text, disallowed_special=())))) + stream.flush() == back


@pytest.mark.parametrize("prefix, expected", [
    ("prepend", ["<s>", SPACE + "the", "</s>", SPACE + "the", "</s>", SPACE, SPACE + "the"]),
    ("always", ["<s>", SPACE + "the", "</s>", SPACE + "the", "</s>", SPACE + "the"]),
    ("first", ["<s>", SPACE + "the", "</s>", "the", "</s>", SPACE + "the"]),
    ("never", ["<s>", "the", "</s>", "the", "</s>", SPACE + "the"])])
def test_where_a_space_is_added(prefix, expected):
    assert made(prefix).encode("the</s>the</s> the", allowed_special="all") == [(TOKENS | SPECIAL)[token] for token in expected]
    assert made(prefix).encode("the", begin=False) == [TOKENS["the"]]            # goes on with another text


def test_what_continues_and_what_ends():
    tokenizer = made()
    assert tokenizer.eot_token == 2 and tokenizer.begins_with == "<s>" and tokenizer.encode("漢")[-3:] == [3 + byte for byte in "漢".encode()]
    assert tokenizer.decode([TOKENS[SPACE + "the"]]) == " the" and tokenizer.decode([1, TOKENS[SPACE + "the"]]) == "<s>the"
    assert tokenizer != made("first") and tokenizer.sha256 != made("first").sha256 and tokenizer == made()


@pytest.mark.parametrize("prefix", ["prepend", "always", "first", "never"])
@pytest.mark.parametrize("begins_with", ["<s>", None])
def test_there_and_back(tmp_path, prefix, begins_with):
    tokenizer = made(prefix, begins_with)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert load(tmp_path) == tokenizer == SentencePieceTokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("place, value, words", [
    (("model", "type"), "Unigram", "must be a \"model\" of type BPE"), (("model", "ignore_merges"), True, "ignore_merges must be null or false"),
    (("model", "merges"), ["t h e"], "a merge must be two tokens"), (("model", "merges"), ["t q"], "two tokens that make a token"),
    (("model", "merges"), ["t h", ["t", "h"]], "merges must be distinct"), (("model", "vocab"), {"a": 3}, "<0x00> is missing"),
    (("normalizer",), {"type": "NFKC"}, "there must be a normalizer"), (("normalizer",), None, "there must be a normalizer"),
    (("pre_tokenizer",), {"type": "Metaspace"}, "there must be a normalizer"),
    (("post_processor",), {"type": "Bert"}, "post_processor must be"), (("truncation",), {"max_length": 3}, "truncation must be null"),
    (("added_tokens",), [{"id": 1, "content": "<s>", "special": False}], "special true")])
def test_a_file_that_means_something_else_is_refused(tmp_path, place, value, words):
    made().save(path := tmp_path / "tokenizer.json")
    data = json.loads(path.read_text())
    target = data
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="tokenizer.json: ") as error:
        load(path)
    assert words in str(error.value)


def test_a_metaspace_that_cuts_words_is_refused():
    data = sentencepiece.write(TOKENS, MERGES, SPECIAL, "first", None)
    data["pre_tokenizer"]["split"] = True
    with pytest.raises(InputError, match="split false"):
        sentencepiece.read(data)


def test_a_llama_with_it_is_converted_both_ways_and_generates(tmp_path, capsys):
    pytest.importorskip("safetensors")
    config = GPTConfig(vocab_size=len(TOKENS) + 3, block_size=16, n_layer=1, n_head=2, n_embd=8, norm="rmsnorm", mlp="swiglu", position="rotary",
                       bias=False, tied=False)
    save_pretrained(tmp_path / "theirs", GPT(config), made())
    assert load_pretrained(tmp_path / "theirs")[1] == made()
    assert main(["convert", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), "--out", str(tmp_path / "back"), "--to", "hf"]) == 0
    assert load(tmp_path / "back") == made()
    capsys.readouterr()
    for folder in ("theirs", "ours"):
        assert main(["generate", "--model", str(tmp_path / folder), "--prompt", "the cat", "--max_new_tokens", "4", "--seed", "1"]) == 0
        assert "the cat" in capsys.readouterr().out


def test_merges_of_special_tokens_never_happen(tmp_path):
    """As a converter writes them that takes each pair of pieces that makes another."""
    data = sentencepiece.write(TOKENS | {"<s": len(TOKENS) + 3}, MERGES, SPECIAL, "prepend", "<s>")
    data["model"]["vocab"] |= {text: len(TOKENS) + 4 + i for i, text in enumerate(("<", "s>", ">"))}
    data["model"]["merges"] += ["< s", "<s >", "< s>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = load(tmp_path)
    assert tokenizer.merges == [*MERGES, ("<", "s")] and 1 not in tokenizer.encode_ordinary("<s>")


def test_special_tokens_of_early_files_are_found_as_they_are_spelt(tmp_path):
    data = sentencepiece.write(TOKENS, MERGES, SPECIAL, "prepend", "<s>")
    for token in data["added_tokens"]:
        token["normalized"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert load(tmp_path) == made()


def test_sentencepieces_own_file_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n")
    with pytest.raises(InputError, match=r"tokenizer\.model: .* name the tokenizer\.json"):
        load(tmp_path / "tokenizer.model")


@pytest.fixture(scope="module", params=["prepend", "always", "first", "never", "trained", "all pairs"])
def pair(request, tmp_path_factory):
    """Our tokenizer and theirs, of one file."""
    library = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("sp") / "tokenizer.json"
    if request.param in PREFIXES:
        made(request.param).save(path)
    else:                                       # with a vocabulary that their trainer learnt
        theirs = library.Tokenizer(library.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        theirs.normalizer = library.normalizers.Sequence([library.normalizers.Prepend(SPACE), library.normalizers.Replace(" ", SPACE)])
        trainer = library.trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
        theirs.train_from_iterator(copy.__doc__.splitlines() + json.__doc__.splitlines() * 3, trainer)
        theirs.post_processor = library.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        data = json.loads(theirs.to_str())
        data["added_tokens"] = data["added_tokens"][:3]
        data["decoder"] = sentencepiece.write(TOKENS, MERGES, SPECIAL, "prepend", None)["decoder"]
        if request.param == "all pairs":        # as converters list them
            known = data["model"]["vocab"]
            data["model"]["merges"] = [[token[:i], token[i:]] for token in sorted(known, key=known.get)[259:] for i in range(1, len(token))
                                       if token[:i] in known and token[i:] in known]
        path.write_text(json.dumps(data))
    return load(path), library.Tokenizer.from_file(str(path))


@pytest.mark.oracle
@given(text=texts | st.sampled_from(TEXTS) | st.text(st.sampled_from(json.__doc__), max_size=80))
def test_ids_are_those_of_tokenizers(pair, text):
    ours, theirs = pair
    ids, expected = ours.encode(text, allowed_special="all"), theirs.encode(text).ids
    assert ids == expected[1 if text.startswith("<s>") else 0:]                # where their template puts a second in front
    if not any(token in text for token in SPECIAL):
        assert theirs.decode(ids) == ours.decode(ids).removeprefix("<s>")


@pytest.mark.oracle
def test_what_transformers_loads(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = GPTConfig(vocab_size=len(TOKENS) + 3, block_size=16, n_layer=1, n_head=2, n_embd=8, norm="rmsnorm", mlp="swiglu", position="rotary",
                       bias=False, tied=False)
    save_pretrained(tmp_path / "model", GPT(config), made())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    for text in TEXTS:
        if "<s>" not in text:
            assert theirs(text).input_ids == made().encode(text, allowed_special="all"), text
    assert theirs.bos_token == "<s>" and theirs.eos_token == "</s>"
    theirs.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again") == made()
    assert np.array_equal(theirs("the cat").input_ids, [1, TOKENS[SPACE + "the"], TOKENS[SPACE + "cat"]])
