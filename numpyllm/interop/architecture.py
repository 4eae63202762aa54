"""What an architecture in Hugging Face's layout consists of: one row of a table, for pretrained.py to read and write by."""

import re
from collections.abc import Callable
from typing import NamedTuple

from ..errors import InputError
from ..files import short
from .safetensors import READABLE, named


class Place(NamedTuple):
    """Where a tensor of theirs lies among our parameters, and its shape there."""

    name: str                   # of our parameter
    shape: tuple                # of their tensor
    transposed: bool = False    # theirs is (n_out, n_in), ours (n_in, n_out)
    columns: slice = slice(None)    # of our parameter's last axis, where several of theirs lie side by side in it

    def of(self, parameters):
        """The part of our parameters that their tensor is: a view of its shape."""
        part = parameters[self.name][..., self.columns]
        return part.T if self.transposed else part


class Architecture(NamedTuple):
    """One kind of model.

    read_config     what is in a config.json, its path, dropout or None -> GPTConfig; InputError for what no GPT here can be
    write_config    GPTConfig, dtype, id of the end of text or None -> what is to be in a config.json
    tensors         GPTConfig, what is in its config.json -> {their name, without prefix: Place}
    unlike          GPTConfig -> {name: value} of the choices that this kind of model does not have
    """

    read_config: Callable
    write_config: Callable
    tensors: Callable
    unlike: Callable
    prefix: str                 # of all names but the head's, in a model with a head; not in one saved without
    embedding: str              # their name of the token embedding, which a tied head equals
    buffers: re.Pattern         # names of tensors that old versions kept with the weights, and nobody needs

    def stored_name(self, name):
        """A tensor's name in a file of a model with a head."""
        return name if name == HEAD else self.prefix + name

    def match(self, config, values, stored, path):
        """[(their name, Place, Stored)] from {their name: Stored}; last, of a tied head that is in the file all the same, with Place None.

        values: what is in config.json. InputError, naming the file, with all that is missing, surplus, or of another shape or
        type. Nothing is read.
        """
        found = {}
        for name, where in stored.items():
            bare = name.removeprefix(self.prefix)
            if bare in found:
                raise InputError(f"{path}: {short(bare)} must be there once, with {self.prefix} before it or without")
            if not self.buffers.fullmatch(bare):
                found[bare] = where
        if config.n_layer > len(found):     # before a table is made for whatever number of layers
            raise InputError(f"{path}: a model of n_layer={config.n_layer} must have several tensors a layer, there are "
                             f"{len(found)} in all")
        table = self.tensors(config, values)
        head = found.pop(HEAD, None) if config.tied else None
        pairs = [(name, place.shape, found[name]) for name, place in table.items() if name in found]
        if head is not None:
            pairs.append((HEAD, table[self.embedding].shape, head))
        problems = [
            named("missing", table.keys() - found.keys()),
            named("surplus", found.keys() - table.keys()),
            named("of another shape", {f"{name} {list(there.shape)} for {list(shape)}" for name, shape, there in pairs
                                       if there.shape != shape}),
            named(f"of a type other than {', '.join(READABLE)}", {f"{name} {there.dtype}" for name, _, there in pairs
                                                                 if there.dtype not in READABLE})]
        if any(problems):
            raise InputError(f"{path}: must hold the tensors that config.json tells of; {'; '.join(filter(None, problems))}")
        return [(name, place, found[name]) for name, place in table.items()] + ([] if head is None else [(HEAD, None, head)])


HEAD = "lm_head.weight"


def require_only(values, only, path):
    """InputError unless these keys have the one value that is possible here: only {key: (value, which is the default, reason)}."""
    for key, (value, reason) in only.items():
        if values.get(key, value) != value:
            raise InputError(f"{path}: {key} must be {short(value)}, for {reason}; got {short(values[key])}")


def require_keys(values, keys, path):
    """InputError unless all keys are there."""
    missing = [key for key in keys if key not in values]
    if missing:
        raise InputError(f"{path}: must hold {', '.join(missing)}")


def flag(values, key, default, path):
    """The value of a key that must be true or false."""
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"{path}: {key} must be true or false, got {short(value)}")
    return value
