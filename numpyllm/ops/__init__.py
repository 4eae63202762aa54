"""The text: every op of the model as a pair *_forward / *_backward in pure NumPy, one topic a file.

    y, cache = op_forward(x, w, ...)            the cache is a NamedTuple: what the backward needs, and why
    dx, dw   = op_backward(dy, cache)           gradients in the order of the forward's arguments

A backward's lines carry the numbers of the forward's lines they undo. `out`, where given, is a tuple of arrays in the
order of the results (None where there is none); the returned arrays are always the right ones to use. Every forward
takes float32, float64 and complex128, and keeps the dtype: the complex step (numpyllm.gradcheck) rests on that.
"""

from .activation import (ReluCache, SiluCache, SwigluCache, relu_backward, relu_forward, silu_backward, silu_forward,
                         squared_relu_backward, squared_relu_forward, swiglu_backward, swiglu_forward)
from .adamw import adamw_update
from .attention import AttentionCache, attention_backward, attention_forward
from .cross_entropy import CrossEntropyCache, cross_entropy_backward, cross_entropy_forward
from .dropout import DropoutCache, dropout_backward, dropout_forward
from .embedding import (EmbeddingCache, TokenPositionCache, embedding_backward, embedding_forward,
                        token_position_backward, token_position_forward)
from .erf import erf
from .gelu import (BiasGeluCache, GeluCache, bias_gelu_backward, bias_gelu_forward, gelu_backward, gelu_forward)
from .head_loss import HeadLossCache, head_loss_backward, head_loss_forward, head_loss_forward_backward
from .layernorm import (LayerNormCache, layernorm_backward, layernorm_forward, residual_layernorm_backward,
                        residual_layernorm_forward)
from .linear import LinearCache, linear_backward, linear_forward
from .lora import LoRACache, lora_backward, lora_forward
from .lstm import LSTMCache, lstm_backward, lstm_forward
from .mask import causal_spans, dense_mask, fixed_spans, padding_spans, prefix_spans, strided_spans, window_spans
from .position import alibi_slopes, sinusoidal_positions
from .preference import (BradleyTerryCache, DPOCache, PolicyGradientCache, bradley_terry_backward, bradley_terry_forward, dpo_backward,
                         dpo_forward, policy_gradient_backward, policy_gradient_forward)
from .residual import residual_backward, residual_forward
from .rmsnorm import (RMSNormCache, residual_rmsnorm_backward, residual_rmsnorm_forward, rmsnorm_backward, rmsnorm_forward)
from .rotary import RotaryCache, rotary_angles, rotary_backward, rotary_forward
from .routing import BalanceCache, RouteCache, balance_backward, balance_forward, route_backward, route_forward
from .sgd import sgd_update
from .softmax import SoftmaxCache, softmax_backward, softmax_forward
