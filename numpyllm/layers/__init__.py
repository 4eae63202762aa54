"""Layers: parameters + ops, each with forward and backward (base.py states the protocol)."""

from .attention import CausalSelfAttention
from .base import Layer
from .basic import Dropout, LayerNorm, Linear, TokenPositionEmbedding
from .block import Block
from .head import Head
from .lstm import LSTMBlock, LSTMState, TokenEmbedding
from .mlp import MLP
from .past import Past

__all__ = ["MLP", "Block", "CausalSelfAttention", "Dropout", "Head", "LSTMBlock", "LSTMState", "Layer", "LayerNorm", "Linear",
           "Past", "TokenEmbedding", "TokenPositionEmbedding"]
