"""The speed: Numba twins of the ops, laid over the text. Same names, same signatures, same caches.

A twin takes float32 and float64 and passes complex arguments on to the text; an op without a twin is the text. Any forward
may feed any backward. Results and temporaries come from the active Workspace, if there is one (numpyllm.workspace).
"""

from ..ops import *  # noqa: F403
from .activation import swiglu_backward, swiglu_forward
from .adamw import adamw_update
from .attention import attention_backward, attention_forward
from .cross_entropy import (cross_entropy_backward, cross_entropy_forward, head_loss_backward, head_loss_forward,
                            head_loss_forward_backward)
from .dropout import dropout_backward, dropout_forward
from .embedding import embedding_backward, token_position_backward, token_position_forward
from .gelu import bias_gelu_backward, bias_gelu_forward
from .layernorm import (layernorm_backward, layernorm_forward, residual_layernorm_backward, residual_layernorm_forward)
from .linear import linear_backward, linear_forward
from .lora import lora_backward, lora_forward
from .lstm import lstm_backward, lstm_forward
from .residual import residual_forward
from .rmsnorm import residual_rmsnorm_backward, residual_rmsnorm_forward, rmsnorm_backward, rmsnorm_forward
from .rotary import rotary_backward, rotary_forward
from .sgd import sgd_update
