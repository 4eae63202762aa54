"""LoRA for a whole model (Hu et al. 2021): which linear maps get a trained addition of low rank,
and what it comes to."""

from dataclasses import dataclass

from ..config import option, require_between, require_whole
from ..errors import InputError
from ..layers import Linear, LoRALinear
from ..layers.lora import PARAMETERS


@dataclass(frozen=True)
class LoRA:
    """Choices. Raises InputError where they mean nothing."""

    rank: int = option(8, "columns of A and rows of B")
    alpha: float = option(16.0, "what B adds is multiplied by alpha / rank, so that another rank asks for no other "
                                "learning rate")
    dropout: float = option(0.0, "probability of dropping an entry of what A reads, while training")
    targets: tuple = option(("qkv", "proj"), "names of the linear maps: qkv, proj (attention), up, down, gate (MLP)")

    def __post_init__(self):
        require_whole(self, 1, "rank")
        require_between(self, 1e-30, 1e30, "alpha")
        require_between(self, 0, 1, "dropout")
        alone = isinstance(self.targets, str) or not hasattr(self.targets, "__iter__")
        names = [self.targets] if alone else list(self.targets)
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"targets must be names of linear maps such as qkv, got {self.targets!r}")
        object.__setattr__(self, "targets", tuple(sorted(set(names))))

    @property
    def scale(self):
        return self.alpha / self.rank


def is_adapter(name):
    """Whether a parameter of this name is an A or a B."""
    return name.rpartition(".")[2] in PARAMETERS


def adapt(model, lora):
    """Put a LoRALinear in the place of each Linear layer that is named. InputError where no
    layer has such a name."""
    names = {name for _, name, _ in _linear_layers(model)}
    missing = [name for name in lora.targets if name not in names]
    if missing:
        raise InputError("targets must be among this model's linear maps "
                         f"({', '.join(sorted(names)) or 'it has none'}), got {', '.join(missing)}")
    for parent, name, layer in list(_linear_layers(model)):
        if name in lora.targets:
            if lora.rank > min(layer.n_in, layer.n_out):
                raise InputError(f"rank must be at most that of the matrix, {min(layer.n_in, layer.n_out)} for "
                                 f"{name}, got {lora.rank}")
            setattr(parent, name, LoRALinear(layer.n_in, layer.n_out, bias=layer.bias, std=layer.std, rank=lora.rank,
                                             scale=lora.scale, dropout=lora.dropout))


def with_adapter(parameters, name, lora):
    """A parameter as it acts: w + scale A B where it is a matrix with an adapter, else itself."""
    stem = name.removesuffix("w")
    if not name.endswith(".w") or stem + "lora_a" not in parameters.layout:
        return parameters[name]
    return parameters[name] + lora.scale * (parameters[stem + "lora_a"] @ parameters[stem + "lora_b"])


def _linear_layers(layer):
    """(the layer that it belongs to, its name there, itself) of each Linear in and below a layer."""
    for name, child in layer.children():
        if isinstance(child, Linear):
            yield layer, name, child
        else:
            yield from _linear_layers(child)
