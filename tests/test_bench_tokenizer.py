"""numpyllm bench tokenizer: equality first, then figures."""

import importlib
import json

import numpy as np
import pytest
from tokenizer_strings import with_bytes

from numpyllm.bench import tokenizer as bench
from numpyllm.bench.tokenizer import Different, Peer, check_ids, check_merges
from numpyllm.cli.main import main
from numpyllm.data import source_text
from numpyllm.tokenizer import BytePairTokenizer

TOKENIZER = BytePairTokenizer(with_bytes(b"th", b"the"))
TEXT = "the cat sat on the mat, the rat sat on the cat.\n" * 40


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def run(capsys, *argv):
    code = main(["bench", "tokenizer", "--seconds", "0", "--vocab_size", "270", *argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_alone(capsys, text):
    code, out, err = run(capsys, "--data", text, "--json")
    (figures,) = json.loads(out)
    assert code == 0 and figures["corpus"] == text and figures["n_vocab"] == 270 and figures["peer"] is None
    assert figures["megabytes"] == len(TEXT) / 1e6
    for kind in ("array, first", "array", "list", "training"):
        assert figures[kind]["numpyllm"] > 0 and figures[kind]["peer"] is figures[kind]["ratio"] is None
        assert kind in err


def good_peer(tokenizer, pattern):
    def train(text, n_tokens):
        return list(bench._train(text, n_tokens, pattern, special_tokens=()).ranks)
    return Peer(lambda text: np.array(tokenizer.encode_ordinary(text)), tokenizer.encode_ordinary, train)


def test_beside_a_peer(capsys, text, monkeypatch):
    monkeypatch.setitem(bench.PEERS, "tiktoken", good_peer)
    code, out, _ = run(capsys, "--data", text, "--data", text, "--peer", "tiktoken", "--json")
    for figures in json.loads(out):
        for kind in ("array", "list", "training"):
            found = figures[kind]
            ratio = found["numpyllm"] / found["peer"]
            assert found["ratio"] == pytest.approx(1 / ratio if kind == "training" else ratio)
    assert code == 0


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda peer: peer._replace(array=lambda text: np.delete(peer.array(text), 3)), "tiktoken gives other ids from number 3 on: after '"),
    (lambda peer: peer._replace(train=lambda text, n: peer.train(text, n)[::-1]), "tiktoken learns other merges from token 0 on: ours"),
    (lambda peer: peer._replace(train=lambda text, n: peer.train(text, n)[:-1]), "tiktoken learns 269 tokens, we learn 270: nothing"),
])
def test_a_difference_ends_it_with_exit_code_1(capsys, text, monkeypatch, spoil, message):
    monkeypatch.setitem(bench.PEERS, "tiktoken", lambda *args: spoil(good_peer(*args)))
    code, out, err = run(capsys, "--data", text, "--peer", "tiktoken", "--json")
    assert (code, out) == (1, "") and f"numpyllm: error: {message}" in err


def test_where_ids_differ():
    ours = TOKENIZER.encode("in the end")
    check_ids(TOKENIZER, ours, np.array(ours), "x")
    theirs = [*TOKENIZER.encode("in "), 256, ord("e"), *TOKENIZER.encode(" end")]
    with pytest.raises(Different, match=r"from number 3 on: after 'in ' we have 'the e' as \[257, 32, 101\], it has 'the ' as \[256,"):
        check_ids(TOKENIZER, ours, theirs, "x")
    with pytest.raises(Different, match=r"from number 8 on: after 'the end' we have '' as \[\], it has 'a' as \[97\]"):
        check_ids(TOKENIZER, ours, [*ours, 97], "x")
    check_merges([b"a"], [b"a"], "x")


@pytest.mark.parametrize("peer", bench.PEERS)
def test_a_missing_peer_is_one_line(capsys, text, monkeypatch, peer):
    def missing(module):
        raise ImportError(module)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(bench.InputError, match=rf"^{peer} is not installed: pip install 'numpyllm\[bench\]'$"):
        bench.PEERS[peer](TOKENIZER, "gpt2")


@pytest.mark.parametrize(("argv", "message"), [
    (["--peer", "torch"], "bench tokenizer knows the peers tiktoken, tokenizers, rustbpe, gigatoken, got torch"),
    (["--data", "nothing.txt"], "cannot read nothing.txt: No such file or directory"),
    (["--vocabulary", "nothing.json", "--megabytes", "0.001"], "nothing.json: cannot be read: No such file or directory"),
])
def test_bad_input(capsys, argv, message):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "") and err == f"numpyllm: error: {message}\n"


def test_the_source_of_the_library_is_whole(tmp_path):
    text = source_text()
    assert 5e6 < len(text) < 50e6 and "class defaultdict" not in text and "class OrderedDict(dict):" in text
    (tmp_path / "b.py").write_text("b = 1\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.py").write_bytes(b"c = '\xff'\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "d.py").write_text("d = 1\n")
    assert source_text(tmp_path) == "c = '\ufffd'\nb = 1\n"


@pytest.mark.oracle
@pytest.mark.parametrize("peer", bench.PEERS)
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_real_peers_agree(capsys, text, peer, pattern):
    pytest.importorskip(peer)
    code, out, _ = run(capsys, "--data", text, "--peer", peer, "--pattern", pattern, "--json")
    (figures,) = json.loads(out)
    assert code == 0 and {"array", "training"} & figures.keys()
