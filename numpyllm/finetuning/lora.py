"""LoRA on a trained model: put adapters beside its matrices, and merge them in (Hu et al. 2021).
docs/lora.md explains it."""

from contextlib import contextmanager

from ..errors import InputError
from ..models import GPTTrunk
from ..models.lora import is_adapter, with_adapter


def add_lora(model, lora, *, trainable=None, seed=0):
    """A GPT with adapters, and the parameters of this one, copied: at first it does the same. Nothing but the
    adapters is trained, and the parameters that `trainable` names (name -> bool): a new head, for instance.

    InputError for another kind of model, one that has adapters already, and targets that it has not.
    """
    if not isinstance(model, GPTTrunk):
        raise InputError(f"LoRA is put beside a GPT's linear maps, got a {type(model).__name__}: it has none")
    if model.lora is not None:
        raise InputError(f"a model to add LoRA to must have none yet, got one of rank {model.lora.rank}: merge it "
                         "first, or load another adapter into it")
    adapted = type(model)(model.config, seed=None, dtype=model.parameters.dtype, trainable=trainable,
                          **model.options() | {"lora": lora})
    for name in model.parameters:
        adapted.parameters[name][...] = model.parameters[name]
    adapted.parameters.draw(filter(is_adapter, adapted.parameters), seed)
    return adapted


def merge(model):
    """A plain model that does what this one does, its adapters multiplied out into the matrices. This one stays
    what it is, so the base's bits are not lost. InputError if there are no adapters."""
    _check_adapted(model)
    return model.merged()


@contextmanager
def merging(model):
    """Merge for the length of a block, in place: matrices hold what `merge` would give, adapters add nothing.
    Afterwards everything has the bits that it had before, since they were kept: w + d - d is not w in floating
    point. Not for training in."""
    _check_adapted(model)
    parameters = model.parameters
    merged = {name: with_adapter(parameters, name, model.lora) for name in parameters
              if f"{name.removesuffix('w')}lora_a" in parameters.layout}
    merged |= {name: 0 for name in parameters if name.endswith("lora_b")}
    kept = {name: parameters[name].copy() for name in merged}
    try:
        for name, value in merged.items():
            parameters[name][...] = value
        merged.clear()
        yield model
    finally:
        for name, value in kept.items():
            parameters[name][...] = value


def _check_adapted(model):
    if model.lora is None:
        raise InputError("a model to merge must have adapters (LoRA), this one has none: add_lora or load_adapter "
                         "gives it some")
