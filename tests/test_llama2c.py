"""llama2.c's files: models and tokenizers written here by their definition, and a forward in plain loops as the oracle."""

import json
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numpyllm import tokenizer as tokenizers
from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.interop import load_decodable, load_llama2c, load_model, load_pretrained
from numpyllm.tokenizer import ScoredTokenizer

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, SEQ = 24, 10, 2, 6, 3, 23, 9
HEAD = DIM // HEADS          # more than one pair of channels: else both pairings are the same


def tensors(seed=0, vocab=VOCAB):
    """{name: array}, a leading axis of layers where there is one; matrices (n_out, n_in)."""
    shapes = {"emb": (vocab, DIM), "norm1": (LAYERS, DIM), "wq": (LAYERS, DIM, DIM), "wk": (LAYERS, KV_HEADS * HEAD, DIM),
              "wv": (LAYERS, KV_HEADS * HEAD, DIM), "wo": (LAYERS, DIM, DIM), "norm2": (LAYERS, DIM), "w1": (LAYERS, HIDDEN, DIM),
              "w2": (LAYERS, DIM, HIDDEN), "w3": (LAYERS, HIDDEN, DIM), "norm": (DIM,), "out": (vocab, DIM)}
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def file_of(w, version=0, tied=False, sizes=None):
    """The bytes of a .bin."""
    sizes = sizes or (DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, len(w["emb"]), SEQ)
    pack = lambda names: b"".join(struct.pack(f"<{w[name].size}f", *w[name].ravel().tolist()) for name in names)
    if version == 0:
        vocab = sizes[5] if tied else -sizes[5]
        data = struct.pack("<7i", *sizes[:5], vocab, sizes[6])
        data += pack(("emb", "norm1", "wq", "wk", "wv", "wo", "norm2", "w1", "w2", "w3", "norm"))
        data += b"\xff" * (4 * SEQ * HEAD)                  # two tables of (SEQ, HEAD / 2): NaN here, nobody may read them
    else:
        data = struct.pack("<Ii7iB", 0x616B3432, version, *sizes, tied).ljust(256, b"\0")
        data += pack(("norm1", "norm2", "norm", "emb", "wq", "wk", "wv", "wo", "w1", "w2", "w3"))
    return data + (b"" if tied else pack(("out",)))


def forward(w, ids, tied):
    """Logits (T, V) of one sequence, position by position, as run.c's equations have them."""
    rms = lambda x, gain: gain * x / math.sqrt(float(np.mean(x * x)) + 1e-5)
    w = {name: array.astype(float) for name, array in w.items()}
    keys, values, rows = [[] for _ in range(LAYERS)], [[] for _ in range(LAYERS)], []
    for position, token in enumerate(ids):
        x = w["emb"][token].copy()
        for layer in range(LAYERS):
            h = rms(x, w["norm1"][layer])
            q, k, v = (w[name][layer] @ h for name in ("wq", "wk", "wv"))
            for vector in (q, k):
                for i in range(0, len(vector), 2):
                    angle = position * 10000.0 ** (-(i % HEAD) / HEAD)
                    a, b = vector[i], vector[i + 1]
                    vector[i], vector[i + 1] = a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)
            keys[layer].append(k)
            values[layer].append(v)
            y = np.zeros(DIM)
            for head in range(HEADS):
                mine, shared = slice(head * HEAD, (head + 1) * HEAD), head // (HEADS // KV_HEADS)
                theirs = slice(shared * HEAD, (shared + 1) * HEAD)
                scores = np.array([q[mine] @ past[theirs] / math.sqrt(HEAD) for past in keys[layer]])
                p = np.exp(scores - scores.max())
                y[mine] = sum(weight * past[theirs] for weight, past in zip(p / p.sum(), values[layer]))
            x = x + w["wo"][layer] @ y
            h = rms(x, w["norm2"][layer])
            gate, up = w["w1"][layer] @ h, w["w3"][layer] @ h
            x = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * up)
        rows.append(w["emb" if tied else "out"] @ rms(x, w["norm"]))
    return np.array(rows)


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600 and all(word in message for word in words), message


def write(path, data):
    path.write_bytes(data)
    return path


# ---- models ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_a_file_is_the_function_it_was_written_for(tmp_path, version, tied):
    w = tensors()
    model, tokenizer = load_llama2c(write(tmp_path / "model.bin", file_of(w, version, tied)), dtype=np.float64)
    assert tokenizer is None and model.config.tied == tied and model.config.rotary_interleaved
    ids = np.random.default_rng(1).integers(0, VOCAB, (2, SEQ))
    for row, logits in zip(ids, model.forward(ids)[0]):
        assert np.abs(logits - forward(w, row, tied)).max() < 1e-12


def test_it_goes_on_into_hugging_faces_layout(tmp_path):
    """There pairs are half a head apart: channels are reordered, the function stays."""
    pytest.importorskip("safetensors")
    path = write(tmp_path / "model.bin", file_of(tensors(), 1))
    model, _ = load_llama2c(path, dtype=np.float64)
    model.save_pretrained(tmp_path / "hf")
    again, _ = load_pretrained(tmp_path / "hf", dtype=np.float64)
    ids = np.random.default_rng(1).integers(0, VOCAB, (2, SEQ))
    assert not again.config.rotary_interleaved and model.config.rotary_interleaved
    assert np.abs(again.forward(ids)[0] - model.forward(ids)[0]).max() < 1e-12


GOOD = {version: file_of(tensors(), version) for version in (0, 1)}
BAD = {
    "empty": (b"", "header of 28 bytes"),
    "text": (b"a text that is no model at all, but long enough", "must"),
    "no layers": (struct.pack("<7i", 8, 8, 0, 2, 2, 8, 8), "n_layers must be at least 1, got 0"),
    "a width below zero": (struct.pack("<7i", -8, 8, 1, 2, 2, 8, 8), "dim must be at least 1"),
    "the least integer as vocabulary": (struct.pack("<7i", 8, 8, 1, 2, 2, -2**31, 8), "bytes for dim 8"),
    "all as large as can be": (struct.pack("<7i", *[2**31 - 2] * 7), "must"),
    "a thousand million layers": (struct.pack("<7i", 8, 8, 10**9, 2, 2, 8, 8) + bytes(4000), "it has 4,028"),
    "heads that do not divide": (struct.pack("<7i", 8, 8, 1, 3, 3, 8, 8), "n_embd must be divisible by n_head"),
    "heads of odd size": (struct.pack("<7i", 9, 8, 1, 3, 3, 8, 8), "must be even"),
    "keys' heads that do not divide": (struct.pack("<7i", 8, 8, 1, 4, 3, 8, 8), "n_kv_head must divide"),
    "version 2": (struct.pack("<Ii7iB", 0x616B3432, 2, 8, 8, 1, 2, 2, 8, 8, 1).ljust(256, b"\0"), "int8: export it as version 1"),
    "version 7": (struct.pack("<Ii7iB", 0x616B3432, 7, 8, 8, 1, 2, 2, 8, 8, 1).ljust(256, b"\0"), "version 0 or 1"),
    "a short header of version 1": (struct.pack("<Ii7iB", 0x616B3432, 1, 8, 8, 1, 2, 2, 8, 8, 1), "256 bytes"),
    "a flag of 2": (struct.pack("<Ii7iB", 0x616B3432, 1, 8, 8, 1, 2, 2, 8, 8, 2).ljust(256, b"\0"), "a flag of 0 or 1"),
    "no zeros after the header": (GOOD[1][:255] + b"\1" + GOOD[1][256:], "then zeros"),
    "truncated": (file_of(tensors())[:-1], "truncated"),
    "longer": (file_of(tensors()) + b"\0", "truncated, or no model"),
    "NaN": (file_of(tensors() | {"w3": np.full((LAYERS, HIDDEN, DIM), np.nan, np.float32)}), '"w3 0" must hold finite numbers'),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_model_is_refused_before_anything_large_is_allocated(tmp_path, name):
    path = write(tmp_path / "model.bin", BAD[name][0])
    tracemalloc.start()
    refused(lambda: load_llama2c(path), str(path), BAD[name][1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


@given(version=st.sampled_from([0, 1]), flips=st.lists(st.integers(0, 300 * 8 - 1), max_size=4), cut=st.none() | st.integers(0, 300))
@settings(max_examples=200)
def test_a_damaged_model_is_refused_or_has_other_numbers(tmp_path_factory, version, flips, cut):
    data = bytearray(GOOD[version])
    for bit in flips:
        data[bit // 8] ^= 1 << bit % 8
    path = write(tmp_path_factory.getbasetemp() / "damaged.bin", bytes(data[:cut]))
    tracemalloc.start()
    try:
        model, _ = load_llama2c(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert cut is None and np.isfinite(model.parameters.data).all()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3e6


# ---- tokenizers --------------------------------------------------------------------------------------------------

WORDS = [" ", "a", "b", "n", "é", "an", " b", "ana", " an", "na", "ba", "bana", "\n", "汉a"]      # the last is never reached: 汉 is no token
TOKENS = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{i:02X}>" for i in range(256)), *WORDS]
SCORES = [0.0] * 259 + [-20.0 - i for i in range(5)] + [-3.0, -1.0, -2.0, -4.0, -5.0, -6.0, -6.5, -30.0, -0.5]


def tokenizer_bin(tokens=TOKENS, scores=SCORES):
    spelt = [token.encode() for token in tokens]
    return struct.pack("<I", max(map(len, spelt))) + b"".join(struct.pack("<fI", score, len(token)) + token
                                                              for token, score in zip(spelt, scores))


def naive(text):
    """Ids as run.c finds them: the whole text is searched again for each merge."""
    if not text:
        return [1]
    parts = [[TOKENS.index(c)] if c in WORDS else [3 + byte for byte in c.encode()] for c in " " + text]
    parts = [i for ids in parts for i in ids]
    while True:
        best = None
        for at in range(len(parts) - 1):
            both = TOKENS[parts[at]] + TOKENS[parts[at + 1]]
            if min(parts[at], parts[at + 1]) >= 259 and both in WORDS:
                score = SCORES[TOKENS.index(both)]
                if best is None or score > best[0]:
                    best = score, at, TOKENS.index(both)
        if best is None:
            return [1, *parts]
        parts[best[1]:best[1] + 2] = [best[2]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokenizers.load(write(tmp_path_factory.mktemp("t") / "tokenizer.bin", tokenizer_bin()))


@given(text=st.text("abné \n汉", max_size=30) | st.text(max_size=10))
def test_ids_are_those_of_the_definition_and_lead_back(tokenizer, text):
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ids = tokenizer.encode(text, disallowed_special=())
    assert ids == naive(text) and tokenizer.decode(ids) == text
    assert "".join(tokenizer.decode_stream(ids)) == text and tokenizer.decode_with_offsets(ids)[0] == text


def test_ties_go_to_the_left_and_spaces_stay_within(tokenizer):
    assert tokenizer.decode(tokenizer.encode("  an")[1:]) == "   an"            # without <s> nothing is taken away
    assert tokenizer.decode(tokenizer.encode(" an ") + [265, 1, 265]) == " an  bb"
    equal = ScoredTokenizer(TOKENS[:259] + ["a", "aa"], [0.0] * 259 + [-1.0, -1.0])
    assert equal.encode("aaa") == [1, 3 + 32, 260, 259]


def test_special_tokens(tokenizer):
    assert tokenizer.eot_token == 1 and tokenizer.encode("") == [1]
    assert tokenizer.encode("<s>an</s>", allowed_special="all") == [*tokenizer.encode("an"), 2]
    refused(lambda: tokenizer.encode("an</s>"), "special token '</s>'")
    assert tokenizer.token_byte_lengths[:4].tolist() == [0, 0, 0, 1]


def test_there_and_back_as_json(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.json")
    again = tokenizers.load(tmp_path)
    assert again == tokenizer and again.sha256 == tokenizer.sha256
    other = ScoredTokenizer(TOKENS, SCORES[:-1] + [-31.0])
    assert other != tokenizer and other.sha256 != tokenizer.sha256
    (tmp_path / "tokenizer.json").write_text(json.dumps({"type": "scored", "tokens": 3, "scores": []}))
    refused(lambda: tokenizers.load(tmp_path), "tokenizer.json", '"tokens" and "scores"')


def token(text, score=0.0, length=None):
    return struct.pack("<fI", score, len(text) if length is None else length) + text


@pytest.mark.parametrize("data, words", [
    (b"", "got 0 bytes"), (struct.pack("<I", 6), "must begin with <unk>"), (tokenizer_bin()[:-1], "truncated"),
    (struct.pack("<I", 6) + b"\0\0\0", "truncated"), (tokenizer_bin() + token(b"abc", length=2**32 - 1), "got 4,294,967,295"),
    (struct.pack("<I", 2) + tokenizer_bin()[4:], "at most 2 bytes, got 5"), (tokenizer_bin() + token(b"\xff"), "must be UTF-8"),
    (tokenizer_bin() + token(b"xy", math.nan), "finite number"), (tokenizer_bin() + token(b"an"), "distinct"),
    (tokenizer_bin() + token(b""), "not empty"), (tokenizer_bin(TOKENS[1:]), "must begin with <unk>")])
def test_a_broken_tokenizer_is_refused(tmp_path, data, words):
    refused(lambda: tokenizers.load(write(tmp_path / "tokenizer.bin", data)), "tokenizer.bin: ", words)


@given(flips=st.lists(st.integers(0, len(tokenizer_bin()) * 8 - 1), min_size=1, max_size=4))
def test_a_damaged_tokenizer_is_refused_or_another(tmp_path_factory, flips):
    data = bytearray(tokenizer_bin())
    for bit in flips:
        data[bit // 8] ^= 1 << bit % 8
    try:
        tokenizers.load(write(tmp_path_factory.getbasetemp() / "damaged-tokenizer.bin", bytes(data)))
    except InputError as error:
        assert "\n" not in str(error)


# ---- the command line --------------------------------------------------------------------------------------------

def test_convert_and_generate(tmp_path, capsys):
    path = write(tmp_path / "model.bin", file_of(tensors(vocab=len(TOKENS)), tied=True))
    vocabulary = write(tmp_path / "words.bin", tokenizer_bin())
    assert main(["convert", str(path), "--tokenizer", str(vocabulary), "--out", str(tmp_path / "ours")]) == 0
    model, tokenizer = load_model(tmp_path / "ours")
    assert (model.parameters.data == load_llama2c(path)[0].parameters.data).all() and tokenizer == tokenizers.load(vocabulary)
    assert main(["convert", str(path), "--out", str(tmp_path / "no")]) == 2 and not (tmp_path / "no").exists()
    capsys.readouterr()
    said = []
    vocabulary.rename(tmp_path / "tokenizer.bin")
    for folder in (tmp_path / "ours", path):
        assert main(["generate", "--model", str(folder), "--prompt", "ban", "--max_new_tokens", "20", "--temperature", "1"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and said[0].startswith("ban") and len(said[0]) > 4
    assert load_decodable(path, ops=None)[2] == tokenizer
    write(path, file_of(tensors(), tied=True))
    assert main(["generate", "--model", str(path), "--prompt", "ban"]) == 2
    assert "at most vocab_size=23 tokens" in capsys.readouterr().err
