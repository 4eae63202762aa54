"""numpyllm: a large language model from first principles, every gradient by hand and proven."""

__version__ = "0.1.0"
