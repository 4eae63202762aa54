"""Layers: parameters + ops, each with forward and backward (base.py states the protocol)."""

from .attention import CausalSelfAttention
from .base import Layer
from .basic import Dropout, LayerNorm, Linear, TokenPositionEmbedding
from .block import Block
from .cross_attention import CrossAttention, SelfAttention
from .encoder_decoder import DecoderBlock, EncoderBlock, SinusoidalEmbedding, Sublayer
from .head import Head
from .mlp import MLP
from .past import Past

__all__ = ["MLP", "Block", "CausalSelfAttention", "CrossAttention", "DecoderBlock", "Dropout", "EncoderBlock", "Head", "Layer",
           "LayerNorm", "Linear", "Past", "SelfAttention", "SinusoidalEmbedding", "Sublayer", "TokenPositionEmbedding"]
