"""A layer: some parameters, and how they are used. It states what it needs (specs), is bound to the model's flat
parameter array and to a set of ops, and then has

    forward(x) -> y, cache          nothing is kept on the layer itself, so it may be used twice
    backward(dy, cache) -> dx       adds the gradients of its parameters into the flat gradient
    step(x, past) -> y              forward for the next positions of sequences whose earlier ones were seen before
"""


class Layer:
    name = ""       # dotted, such as blocks.0.attn.qkv: set by bind
    ops = None      # numpyllm.ops, or anything with the same functions: set by bind
    trains = True   # whether anything in or below this layer is trained: set by bind

    def own_specs(self):
        """{local name: ParamSpec} of the parameters that this layer holds itself."""
        return {}

    def children(self):
        """(name, layer) of the layers it is composed of, in the order of their definition; lists count from 0."""
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", layer) for i, layer in enumerate(value))

    def specs(self, prefix=""):
        """{dotted name: ParamSpec} of all parameters in and below this layer."""
        specs = {join(prefix, local): spec for local, spec in self.own_specs().items()}
        for name, child in self.children():
            specs |= child.specs(join(prefix, name))
        return specs

    def bind(self, parameters, ops, prefix=""):
        """Use these parameters and ops. Own parameters become attributes under their local names."""
        self.name, self.ops, self._parameters = prefix, ops, parameters
        self._names = {local: join(prefix, local) for local in self.own_specs()}
        for local, name in self._names.items():
            setattr(self, local, parameters[name])
        for name, child in self.children():
            child.bind(parameters, ops, join(prefix, name))
        self.trains = not all(map(self.frozen, self._names)) or any(child.trains for _, child in self.children())

    def step(self, x, past):
        """As forward, without a cache for a backward. A layer that looks at each position by itself needs no past."""
        return self.forward(x)[0]

    def frozen(self, local):
        """Whether nobody asks for the gradient of an own parameter: it is frozen, or this layer does not have it."""
        return local not in self._names or not self._parameters.specs[self._names[local]].trainable

    def slots(self, *locals_):
        """For a backward's `out`: where each gradient may be written directly, None where it may not."""
        return tuple(self._parameters.slot(self._names[local]) if local in self._names else None for local in locals_)

    def collect(self, **gradients):
        """Take in gradients of own parameters by local name; None for a parameter it does not have."""
        for local, gradient in gradients.items():
            if gradient is not None:
                self._parameters.collect(self._names[local], gradient)


def join(prefix, name):
    return f"{prefix}.{name}" if prefix else name
