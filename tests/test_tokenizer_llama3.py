"""Llama 3's tokenizer.json: a small one made the way the published one is, read, encoded with, and written back.

The published file was made from ranks. So its list of merges has all pairs of tokens that are a token together, by the rank of what
they make, and some tokens no merges lead to: a piece that is such a token is one because of ignore_merges. Its post-processor puts
<|begin_of_text|> before each text.
"""

import copy
import json

import numpy as np
import pytest
from tokenizer_strings import NASTY, with_bytes

from numpyllm.errors import InputError
from numpyllm.evaluation.loglikelihood import encode_pair
from numpyllm.finetuning.classification_data import encode_text as encode_example
from numpyllm.finetuning.templates import Turn, encode_turns
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.models import GPT, GPTConfig
from numpyllm.shards import open_shard
from numpyllm.tokenizer import BytePairTokenizer, encode_file, load
from numpyllm.tokenizer.base import clean
from numpyllm.tokenizer.formats.byte_characters import token_to_text

BEGIN, END, TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
SPELLING = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEXT = "The cat sat on the mat; the rat sat on the cat. In 1913 they're said to have sat there again, 汉字汉字, Ärger."
RANKS = with_bytes(b"th", b"the", b" the", b"at", b"sat", b" sat", b"he", b"together")     # no two tokens make the last
FIRST = len(RANKS)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"SpecialToken": {"id": BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": BEGIN, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {BEGIN: {"id": BEGIN, "ids": [FIRST], "tokens": [BEGIN]}}}


def published(ranks):
    """The content of a tokenizer.json as Llama 3's, of these ranks."""
    n, merges = len(ranks), []
    for token, rank in ranks.items():
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += [(rank, ranks[left], ranks[right], left, right) for left, right in pairs]
    names = [BEGIN, END, *(f"<|reserved_special_token_{i}|>" for i in range(7)), TURN]
    template = TEMPLATE | {"special_tokens": {BEGIN: {"id": BEGIN, "ids": [n], "tokens": [BEGIN]}}}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": n + i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                          "special": True} for i, name in enumerate(names)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPELLING}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, template]},
        "decoder": BYTE_LEVEL | {"trim_offsets": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {token_to_text(token): rank for token, rank in ranks.items()},
                  "merges": [f"{token_to_text(left)} {token_to_text(right)}" for *_, left, right in sorted(merges)]}}


def write(folder, data):
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    return folder


@pytest.fixture
def llama(tmp_path):
    return load(write(tmp_path, published(RANKS)))


def test_what_is_in_the_file(llama):
    assert llama.ranks == RANKS and llama.pattern == "llama3" and llama.begins_with == BEGIN
    assert len(llama.special_tokens) == 10 and llama.special_tokens[BEGIN] == FIRST and llama.eot_token == FIRST + 1
    assert llama.token_byte_lengths[FIRST] == 0 and "begins_with='<|begin_of_text|>'" in repr(llama)


@pytest.mark.parametrize("compiled", [False, True])
def test_texts_begin_with_the_token_and_a_piece_that_is_a_token_is_that(llama, compiled):
    if compiled:
        llama.load_twin()
        assert llama._twin is not None
    the, sat, together = RANKS[b" the"], RANKS[b" sat"], RANKS[b"together"]
    assert llama.encode(" the sat") == [FIRST, the, sat] and llama.encode("") == [FIRST]
    assert llama.encode("together") == [FIRST, together]
    pieces = b"to", b"g", b"e", b"the", b"r", b"s"                                                       # merging does not reach it
    assert llama.encode("togethers")[1:] == [i for piece in pieces for i in ([RANKS[piece]] if piece in RANKS else list(piece))]
    assert llama.encode(" the", begin=False) == llama.encode_ordinary(" the") == [the]
    assert llama.encode_to_numpy(" the").tolist() == llama.encode_batch([" the"])[0] == [FIRST, the]
    assert llama.encode(f"{BEGIN} the", allowed_special="all") == [FIRST, the]                           # it is there
    assert llama.encode(f" the{BEGIN} the", allowed_special="all") == [FIRST, the, FIRST, the]
    assert llama.encode(f"{BEGIN} the", disallowed_special=())[:2] == [FIRST, ord("<")]                  # text, like any other
    assert llama.encode("\ud83d")[1:] == list("\ufffd".encode())
    assert llama.decode(llama.encode(TEXT)) == BEGIN + TEXT


def test_written_and_read_again(llama, tmp_path):
    llama.save(tmp_path / "again.json")
    assert load(tmp_path / "again.json") == llama
    without = BytePairTokenizer(llama.ranks, "llama3", llama.special_tokens)
    assert without != llama and without.sha256 != llama.sha256 and without.encode(" the") == [RANKS[b" the"]]
    without.save(tmp_path / "again.json")
    assert load(tmp_path / "again.json") == without
    with pytest.raises(InputError, match="GPT-2's files name no token that begins a text, this tokenizer has"):
        BytePairTokenizer(with_bytes(), "gpt2", {BEGIN: 256}, begins_with=BEGIN).save(tmp_path / "vocab.json", "gpt2")
    with pytest.raises(InputError, match="begins_with must be one of the special tokens .*, got '<s>'"):
        BytePairTokenizer(RANKS, "llama3", begins_with="<s>")


@pytest.mark.parametrize("node", [None, BYTE_LEVEL, {"type": "Sequence", "processors": [BYTE_LEVEL, BYTE_LEVEL]},
                                  TEMPLATE | {"single": [{"Sequence": {"id": "A", "type_id": 0}}]}])
def test_post_processors_that_leave_ids_alone(tmp_path, node):
    assert load(write(tmp_path, published(RANKS) | {"post_processor": node})).begins_with is None


FIRST_PART, TEXT_PART = TEMPLATE["single"]


@pytest.mark.parametrize("node", [
    TEMPLATE | {"single": [FIRST_PART, TEXT_PART, FIRST_PART]}, TEMPLATE | {"single": [FIRST_PART, FIRST_PART, TEXT_PART]},
    TEMPLATE | {"single": [TEXT_PART, FIRST_PART]}, TEMPLATE | {"single": [FIRST_PART]}, TEMPLATE | {"special_tokens": {}},
    TEMPLATE | {"special_tokens": {BEGIN: {"ids": [5]}}}, TEMPLATE | {"special_tokens": {BEGIN: {"ids": [FIRST, FIRST]}}},
    {"type": "Sequence", "processors": [TEMPLATE, TEMPLATE]}, {"type": "Sequence", "processors": [BYTE_LEVEL, 5]},
    {"type": "BertProcessing"}, "ByteLevel"])
def test_post_processors_that_do_anything_else_are_refused(tmp_path, node):
    with pytest.raises(InputError, match=r"tokenizer\.json: post_processor must be null, ByteLevel, or a template that puts one of"):
        load(write(tmp_path, published(RANKS) | {"post_processor": node}))


def test_a_list_that_does_not_merge_by_rank_is_refused(tmp_path):
    """Their library would merge " sat" only where it is a whole piece, or in another order."""
    data = published(RANKS)
    shorter = copy.deepcopy(data)
    shorter["model"]["merges"].remove("Ġ sat")
    with pytest.raises(InputError, match=r"merges must lead to each token, \(b' ', b'sat'\) is missing"):
        load(write(tmp_path, shorter))
    data["model"]["merges"].reverse()
    with pytest.raises(InputError, match="merges must stand once each, in the order of the ids made"):
        load(write(tmp_path, data))


def test_a_file_that_is_read_in_parts_has_the_token_once(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_file, "CHUNK", 50)
    (tmp_path / "a.txt").write_text(TEXT * 9, "utf-8")
    count = llama.encode_file(tmp_path / "a.txt", tmp_path / "a.bin")
    ids, _ = open_shard(tmp_path / "a.bin")
    assert ids.tolist() == llama.encode(TEXT * 9) and count == len(ids) and (np.asarray(ids) == FIRST).sum() == 1


def test_it_is_not_put_within_a_text(llama):
    ids, targets = encode_turns([Turn("the", " sat"), Turn("the", " sat")], llama, 40)
    assert ids.tolist().count(FIRST) == 1 and ids[0] == FIRST and FIRST not in targets
    _, ids = encode_example("the", llama, 20, ending=" sat")
    assert ids.tolist() == [FIRST, RANKS[b"the"], RANKS[b" sat"]]
    assert encode_pair(llama, "the", " sat") == ([FIRST, RANKS[b"the"]], [RANKS[b" sat"]])
    assert encode_pair(llama, "", "the") == ([FIRST], [RANKS[b"the"]])


@pytest.fixture
def folder(llama, tmp_path):
    pytest.importorskip("safetensors")
    config = GPTConfig(n_layer=1, n_head=1, n_embd=4, block_size=64, vocab_size=llama.n_vocab, tied=False, bias=False, position="rotary",
                       norm="rmsnorm", mlp="swiglu", rotary_base=5e5, rotary_scale=8.0, rotary_trained=16)
    save_pretrained(tmp_path / "hf", GPT(config), llama)
    return tmp_path / "hf"


def test_a_model_with_it(llama, folder):
    assert load_pretrained(folder)[1] == llama
    config, beside = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    assert (config["bos_token_id"], config["eos_token_id"]) == (FIRST, FIRST + 1)
    assert (beside["bos_token"], beside["eos_token"]) == (BEGIN, END)


# ---- against the library whose format it is ------------------------------------------------------------------------

def texts():
    return [clean(text) for text in [TEXT, TEXT[40:] + "\n \t ", f"a{TURN}b {END}", "together togethers", *NASTY]]


@pytest.mark.oracle
def test_ids_as_their_library_has_them(tmp_path, data_dir):
    """A vocabulary trained by their library, and after it words that no merges lead to."""
    peers = pytest.importorskip("tokenizers")
    text = (data_dir / "tinyshakespeare.txt").read_text("utf-8")[:200_000]
    theirs = peers.Tokenizer.from_str(json.dumps(published(with_bytes())))
    theirs.model = peers.models.BPE()
    theirs.train_from_iterator([text], peers.trainers.BpeTrainer(vocab_size=900, show_progress=False, special_tokens=[],
                                                                 initial_alphabet=peers.pre_tokenizers.ByteLevel.alphabet()))
    characters = {token_to_text(bytes([i])): bytes([i]) for i in range(256)}
    learned = sorted((i, token) for token, i in theirs.get_vocab(with_added_tokens=False).items())
    tokens = [b"".join(characters[character] for character in token) for _, token in learned]
    words = sorted({word for word in text[100_000:].split() if len(word) > 9}, key=len)
    tokens += [word.encode() for word in words if word.encode() not in tokens]
    ranks = {token: i for i, token in enumerate(tokens)}
    ours = load(write(tmp_path, published(ranks)))
    assert len(tokens) - 256 - len(ours.merges()) > 100
    theirs = peers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours.save(tmp_path / "again.json")
    again = peers.Tokenizer.from_file(str(tmp_path / "again.json"))
    for compiled in (False, True):
        if compiled:
            ours.load_twin()
        for text in [*texts(), text, *words]:
            ids = theirs.encode(text).ids
            assert ours.encode(text, allowed_special="all") == ids == again.encode(text).ids
            assert ids[0] == ours.special_tokens[BEGIN]
            assert ours.encode(text, allowed_special="all", begin=False) == theirs.encode(text, add_special_tokens=False).ids
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.oracle
def test_why_a_missing_merge_is_refused(tmp_path):
    """By ignore_merges a whole piece is the token; in a longer piece their library keeps its parts, and by rank they merge."""
    peers = pytest.importorskip("tokenizers")
    data = published(RANKS)
    data["model"]["merges"].remove("Ġ sat")
    theirs = peers.Tokenizer.from_str(json.dumps(data))
    sat = RANKS[b" sat"]
    assert theirs.encode(" sat").ids == [FIRST, sat] and sat not in theirs.encode(" sats").ids
    assert BytePairTokenizer(RANKS, "llama3").encode(" sats") == [sat, ord("s")]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformers_reads_it(llama, folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    hub = transformers.AutoTokenizer.from_pretrained(folder)
    for text in texts():
        ids = llama.encode(text, allowed_special="all")
        assert hub(text).input_ids == ids and hub.decode(ids) == llama.decode(ids)
    assert (hub.bos_token_id, hub.eos_token_id, len(hub)) == (FIRST, FIRST + 1, llama.n_vocab)
    hub.save_pretrained(tmp_path / "theirs")
    assert load(tmp_path / "theirs") == llama
