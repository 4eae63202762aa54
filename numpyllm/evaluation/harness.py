"""Our models for EleutherAI's lm-evaluation-harness (extra `eval`). Importing this registers them there as "numpyllm":

    lm_eval.simple_evaluate(model="numpyllm", model_args="path=out/run", tasks=["hellaswag"])
    lm_eval.simple_evaluate(model=HarnessLM(model, tokenizer), tasks=[...])

or `numpyllm eval harness --model out/run --tasks hellaswag`. Its tasks fetch their data themselves.
"""

import math

from ..backend import load_backend
from ..errors import InputError
from ..extras import load_extra
from ..inference import Continuation, Sampling, make_decoder, stream
from ..interop import load_decodable
from .loglikelihood import encode_pair, log_likelihoods, longest_context

load_extra("lm_eval", "eval")
LM = load_extra("lm_eval.api.model", "eval").LM
register_model = load_extra("lm_eval.api.registry", "eval").register_model
simple_parse_args_string = load_extra("lm_eval.utils", "eval").simple_parse_args_string

MOST_TOKENS = 256           # that are generated where a task does not say
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")      # names of one option
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@register_model("numpyllm")
class HarnessLM(LM):
    """A model and its tokenizer as the harness asks: requests have `args`, answers come in their order.

    batch_size: texts side by side. seed: for tasks that draw their text. In a task's text special tokens are special, and an empty
    context is <|endoftext|>.
    """

    def __init__(self, model, tokenizer, *, batch_size=8, seed=0):
        super().__init__()
        self.model, self.tokenizer, self.batch_size, self.seed = model, tokenizer, batch_size, seed

    @classmethod
    def load(cls, path, *, weights=None, backend="numba", batch_size=8, seed=0):
        """From a folder, as numpyllm generate takes it; the names of --model_args."""
        model, stored, tokenizer = load_decodable(path, weights=weights, ops=load_backend(backend))
        if stored.kind != "float32":
            stored.write_into(model)
        return cls(model, tokenizer, batch_size=int(batch_size) if str(batch_size).isdigit() else 8, seed=seed)

    @classmethod
    def create_from_arg_obj(cls, arg_dict, additional_config=None):
        """For simple_evaluate(model="numpyllm", model_args={...}). Its device and max_batch_size mean nothing here."""
        batch_size = (additional_config or {}).get("batch_size")
        return cls.load(**({} if batch_size is None else {"batch_size": batch_size}) | arg_dict)

    @classmethod
    def create_from_arg_string(cls, arg_string, additional_config=None):
        """For simple_evaluate(model="numpyllm", model_args="path=...,weights=...")."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def tokenizer_name(self):
        """What tells one tokenizer from another in the harness's caches."""
        return self.tokenizer.sha256

    def loglikelihood(self, requests, disable_tqdm=False):
        """args (context, continuation) -> (log-probability, whether greedy decoding gives it) of each continuation."""
        pairs = [encode_pair(self.tokenizer, *request.args, allowed_special="all") for request in requests]
        found = [(one.logprob, one.greedy) for one in log_likelihoods(self.model, pairs, batch_size=self.batch_size)]
        return self._cached("loglikelihood", requests, found)

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        """args (text,) -> log-probability of each whole text, its first token after the one that begins texts, else <|endoftext|>.

        A longer text than the model's context is read in stretches that do not overlap, but for the last, which has a whole context.
        """
        begun = self.tokenizer.begins_with is not None
        if not begun and self.tokenizer.eot_token is None:
            raise InputError("the first token of a text needs one before it: the tokenizer has no <|endoftext|>")
        pairs, owners = [], []
        for i, request in enumerate(requests):
            ids = self.tokenizer.encode(*request.args, allowed_special="all")
            ids = ids if begun else [self.tokenizer.eot_token, *ids]
            for context, continuation in rolling(ids, longest_context(self.model)):
                pairs.append((context, continuation))
                owners.append(i)
        parts = [[] for _ in requests]
        for i, one in zip(owners, log_likelihoods(self.model, pairs, batch_size=self.batch_size), strict=True):
            parts[i].append(one.logprob)
        return self._cached("loglikelihood_rolling", requests, [math.fsum(part) for part in parts])

    def generate_until(self, requests, disable_tqdm=False):
        """args (context, settings) -> what the model writes after each context, until one of settings["until"] or the end of text.

        A context that would leave no room for that is cut at its left. InputError for settings that are not known here.
        """
        found = []
        with make_decoder(self.model) as decoder:
            for i, request in enumerate(requests):
                context, settings = request.args
                most_tokens, stops, sampling = _settings(settings)
                ids = self.tokenizer.encode(context, allowed_special="all")
                most = longest_context(self.model)
                if most is not None:
                    ids = ids[-max(1, most - most_tokens):]
                text = Continuation(ids or [self._end_of_text()], most_tokens, sampling=sampling, seed=self.seed, index=i,
                                    stop_token=self.tokenizer.eot_token, n_vocab=self.tokenizer.n_vocab)
                found.append("".join(stream(decoder, self.tokenizer, text, stops=stops)))
        return self._cached("generate_until", requests, found)

    def _end_of_text(self):
        if self.tokenizer.eot_token is None:
            raise InputError("a context must not be empty: the tokenizer has no <|endoftext|> to stand for it")
        return self.tokenizer.eot_token

    def _cached(self, what, requests, found):
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial(what, request.args, result)
        return found


def rolling(ids, window):
    """Yield (context, continuation), which predict ids[1:] once each, the model reading at most `window` tokens (None: no limit)."""
    end = 1
    while end < len(ids):
        first, end = end, len(ids) if window is None else min(end + window, len(ids))
        begin = 0 if window is None else max(0, end - window - 1)
        yield ids[begin:first], ids[first:end]


def _settings(settings):
    """A task's settings -> most tokens, stop strings, Sampling."""
    settings = dict(settings)
    until, draws = settings.pop("until", None) or [], settings.pop("do_sample", None)
    stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
    limits = [settings.pop(name) for name in LIMITS if name in settings]
    sampling = {name: settings.pop(name) for name in SAMPLING if name in settings}
    if settings:
        raise InputError(f"{', '.join(settings)} of a task's generation_kwargs mean nothing here: known are until, do_sample, "
                         f"{', '.join(LIMITS + SAMPLING)}")
    if draws is False or (draws is None and not sampling.get("temperature")):
        sampling["temperature"] = 0.0
    return int(limits[0]) if limits else MOST_TOKENS, stops, Sampling(**sampling)
