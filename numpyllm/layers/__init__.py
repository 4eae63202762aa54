"""Layers: parameters + ops, each with forward and backward (base.py states the protocol)."""

from .attention import CausalSelfAttention, Packing, Rotary
from .base import Layer
from .basic import Dropout, LayerNorm, Linear, RMSNorm, TokenEmbedding, TokenPositionEmbedding
from .block import Block
from .cross_attention import CrossAttention, SelfAttention
from .encoder_decoder import DecoderBlock, EncoderBlock, SinusoidalEmbedding, Sublayer
from .head import Head
from .lora import LoRALinear
from .lstm import LSTMBlock, LSTMState
from .mlp import MLP, GatedMLP
from .moe import MixtureOfExperts
from .past import Past

__all__ = ["MLP", "Block", "CausalSelfAttention", "CrossAttention", "DecoderBlock", "Dropout", "EncoderBlock", "GatedMLP", "Head",
           "LSTMBlock", "LSTMState", "Layer", "LayerNorm", "Linear", "LoRALinear", "MixtureOfExperts", "Past", "RMSNorm", "Rotary", "SelfAttention",
           "SinusoidalEmbedding", "Sublayer", "TokenEmbedding", "TokenPositionEmbedding"]
