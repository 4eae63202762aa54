"""Running a trained model."""

from .beam import Beam, beam_search
from .continuation import Continuation, LogProbability, TextStream
from .decoder import Decoder
from .engine import Busy, Engine, Job
from .generate import continue_many, continue_text, generate, generate_many, generate_text, stream, stream_text
from .lookup import propose
from .sampling import Sampling, candidates, choose, log_softmax, token_probabilities
from .state_decoder import StateDecoder, make_decoder
from .translate import translate, translate_by_beams
from .weights import KINDS, StoredWeights

__all__ = ["KINDS", "Beam", "Busy", "Continuation", "Decoder", "Engine", "Job", "LogProbability", "Sampling", "StateDecoder",
           "StoredWeights", "TextStream", "beam_search", "candidates", "choose", "continue_many", "continue_text", "generate",
           "generate_many", "generate_text", "log_softmax", "make_decoder", "propose", "stream", "stream_text", "token_probabilities", "translate",
           "translate_by_beams"]
