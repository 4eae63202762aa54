"""The sizes that are timed: GPT with biases and a tied head, LSTM with a tied head; batch as many contexts."""

from typing import NamedTuple

from ..models import GPT, LSTMLM, GPTConfig, LSTMConfig


class Size(NamedTuple):
    config: GPTConfig | LSTMConfig
    batch_size: int
    model: type = GPT


def _size(n_layer, n_head, n_embd, block_size, batch_size, vocab_size):
    return Size(GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=block_size, vocab_size=vocab_size), batch_size)


SIZES = {
    "tiny": _size(4, 4, 128, 64, 12, 65),                   # nanoGPT's CPU recipe
    "baby": _size(6, 6, 384, 256, 8, 65),                   # nanoGPT's small GPU recipe
    "gpt2-b4t64": _size(12, 12, 768, 64, 4, 50257),         # GPT-2's 124M parameters
    "gpt2-b2t256": _size(12, 12, 768, 256, 2, 50257),
    "gpt2-b4t256": _size(12, 12, 768, 256, 4, 50257),
    "gpt2": _size(12, 12, 768, 1024, 1, 50257),
    "lstm": Size(LSTMConfig(n_layer=2, n_embd=256, block_size=64, vocab_size=1024), 16, LSTMLM),
}
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0
