"""Perplexity in windows: every token once, the definition by hand, and transformers' protocol on the same weights."""

import math
import os

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import numpy as np
import pytest

from numpyllm import kernels
from numpyllm.errors import InputError
from numpyllm.evaluation import count_words, default_window, perplexity
from numpyllm.evaluation.perplexity import windows
from numpyllm.interop import save_pretrained
from numpyllm.models import GPT, GPTConfig, LSTMConfig, LSTMLM
from numpyllm.tokenizer import BytePairTokenizer

LENGTHS = np.arange(23) % 4         # bytes of a token, some of none


def model(dtype=np.float64, block_size=7, vocab_size=23):
    made = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=block_size, vocab_size=vocab_size), seed=None, dtype=dtype)
    made.parameters.data[...] = 0.3 * np.random.default_rng(0).standard_normal(made.parameters.data.size)
    return made


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 8, 11, 12, 13, 30])
@pytest.mark.parametrize("window", [2, 5, 6])
def test_each_token_but_the_first_is_predicted_once_with_as_much_past_as_promised(n, window):
    for stride in range(1, window):
        found = list(windows(n, window, stride))
        assert [token for _, first, end in found for token in range(first, end)] == list(range(1, n))
        for begin, first, end in found:
            assert 0 <= begin < first < end <= n and end - begin <= window
            assert begin == 0 or first - begin >= window - stride       # what the first predicted token has before it


@pytest.mark.parametrize("window, stride, n", [(7, 3, 30), (7, 6, 29), (5, 1, 12), (8, 4, 9), (7, 3, 4), (2, 1, 6)])
def test_by_the_definition(window, stride, n):
    """One token after the other, each predicted from what its window holds before it; on both batch sizes."""
    made, ids = model(), np.random.default_rng(1).integers(0, 23, n)
    nats = []
    for begin, first, end in windows(n, window, stride):
        for token in range(first, end):
            logits = made.forward(ids[None, begin:token])[0][0, -1]
            nats.append(np.log(np.exp(logits).sum()) - logits[ids[token]])
    for batch_size in 1, 3:
        found = perplexity(made, ids, LENGTHS, words=5, window=window, stride=stride, batch_size=batch_size)
        assert found.nats == pytest.approx(math.fsum(nats), rel=1e-12) and found.tokens == n - 1 == len(nats)
        assert found.token_perplexity == pytest.approx(math.exp(np.mean(nats)), rel=1e-12)
        assert found.word_perplexity == pytest.approx(math.exp(np.sum(nats) / 5), rel=1e-12)
        assert found.bytes == LENGTHS[ids[1:]].sum()
        assert found.bits_per_byte == pytest.approx(np.sum(nats) / math.log(2) / found.bytes, rel=1e-12)
        assert sum(tokens for _, tokens in found.windows) == n - 1


def test_an_lstm_reads_windows_of_any_length():
    made = LSTMLM(LSTMConfig(n_layer=1, n_embd=8, block_size=4, vocab_size=23), seed=3, dtype=np.float64)
    ids = np.random.default_rng(1).integers(0, 23, 40)
    assert default_window(made) == (4, 2)
    loss, count = made.loss(ids[None, :-1], ids[None, 1:])
    assert perplexity(made, ids, LENGTHS, window=100, stride=50).nats == pytest.approx(float(loss), rel=1e-12)


@pytest.mark.parametrize("settings, message", [
    ({"window": 1}, "window must be from 2 to 8, block_size and the token after it, got 1"), ({"window": 9}, "from 2 to 8"),
    ({"window": 7, "stride": 7}, "stride must be from 1 to 6 for window=7, got 7"), ({"stride": 0}, "stride must be from 1 to 6")])
def test_windows_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        perplexity(model(), np.zeros(20, int), LENGTHS, **settings)


def test_texts_and_models_that_cannot_be_measured_are_refused():
    with pytest.raises(InputError, match="at least 2 tokens, got 1"):
        perplexity(model(), np.zeros(1, int), LENGTHS)
    with pytest.raises(InputError, match="another|this model's tokenizer"):
        perplexity(model(), np.array([1, 23]), LENGTHS)
    broken = model()
    broken.parameters.data[...] = np.nan
    with pytest.raises(InputError, match="no finite numbers"):
        perplexity(broken, np.zeros(9, int), LENGTHS)


def test_a_perplexity_beyond_all_numbers_is_infinite():
    made = model()
    made.parameters.data[...] *= 1e4
    found = perplexity(made, np.random.default_rng(1).integers(0, 23, 40), LENGTHS, words=1)
    assert found.word_perplexity == math.inf
    assert math.isnan(perplexity(made, np.zeros(9, int), LENGTHS, words=0).word_perplexity)


def test_the_interval_comes_from_windows():
    found = perplexity(model(), np.random.default_rng(1).integers(0, 23, 200), LENGTHS)
    low, high = found.interval(seed=1)
    assert low < found.token_perplexity < high and (low, high) == found.interval(seed=1) != found.interval(seed=2)
    assert np.isnan(perplexity(model(), np.arange(5), LENGTHS).interval()).all()


def test_words_and_ends_of_lines():
    assert count_words(" = A = \n \n two  words\t\n") == 5
    assert count_words(" = A = \n \n two  words\t\n", line_ends=True) == 8


def test_wikitext_has_as_many_words_as_its_authors_say(data_dir):
    """217,646 tokens in the validation part of WikiText-2, <eos> included (Merity et al. 2016, table 1)."""
    assert count_words((data_dir / "wikitext2-valid.txt").read_text("utf-8"), line_ends=True) == 217_646


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")       # theirs
@pytest.mark.parametrize("window, stride", [(64, 32), (64, 17), (48, 1), (64, 63)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_transformers_protocol_on_wikitext(tmp_path, data_dir, window, stride, dtype):
    """Their windows, their loss and their mask; then, with the documentation's weight of one token less a window, their very figure."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    text = (data_dir / "wikitext2-valid.txt").read_text("utf-8")[:4_000]
    tokenizer = BytePairTokenizer.train(text, 400)
    ours = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=24, block_size=64, vocab_size=tokenizer.n_vocab), ops=kernels, seed=None, dtype=dtype)
    ours.parameters.data[...] = 0.2 * np.random.default_rng(0).standard_normal(ours.parameters.data.size)
    save_pretrained(tmp_path / "m", ours, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").eval()
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")(text, return_tensors="pt").input_ids
    if stride == 1:
        ids = ids[:, :200]
    tolerance = 1e-6                    # their loss takes its logits in float32, whatever they are
    nats, counted, snippet_nats, snippet_counted, previous = 0.0, 0, 0.0, 0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + window, ids.size(1))
        inputs = ids[:, begin:end]
        targets = inputs.clone()
        targets[:, :-(end - previous)] = -100
        with torch.no_grad():
            loss = theirs(inputs, labels=targets).loss.item()
        n = int((targets[:, 1:] != -100).sum())                         # they shift the labels: the first is never predicted
        nats, counted = nats + loss * n, counted + n
        n = int((targets != -100).sum()) - 1                            # as the documentation weighs
        snippet_nats, snippet_counted = snippet_nats + loss * n, snippet_counted + n
        previous = end
        if end == ids.size(1):
            break
    encoded = tokenizer.encode(text, disallowed_special=())[:ids.size(1)]
    assert encoded == ids[0].tolist()
    found = perplexity(ours, encoded, tokenizer.token_byte_lengths, window=window, stride=stride)
    assert found.tokens == counted == len(encoded) - 1
    assert found.token_perplexity == pytest.approx(math.exp(nats / counted), rel=tolerance)
    if stride > 1:
        weights = [tokens - (number > 0) for number, (_, tokens) in enumerate(found.windows)]
        mean = sum(nats / tokens * weight for (nats, tokens), weight in zip(found.windows, weights, strict=True)) / sum(weights)
        assert math.exp(mean) == pytest.approx(math.exp(snippet_nats / snippet_counted), rel=tolerance)
