"""The peer: the same LSTM language model in PyTorch, as one would write it there."""

from torch import nn
from torch.nn import functional as F


class TorchLSTM(nn.Module):
    """Takes ids and targets (B, T), returns the mean loss."""

    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.lstm = nn.LSTM(config.n_embd, config.n_embd, config.n_layer, batch_first=True)
        nn.init.normal_(self.wte.weight, std=0.1)

    def forward(self, ids, targets):
        y, _ = self.lstm(self.wte(ids))
        return F.cross_entropy(F.linear(y, self.wte.weight).flatten(0, 1), targets.flatten())
