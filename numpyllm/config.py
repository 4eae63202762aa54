"""Options: dataclass fields that carry their own help text, so that a config class is also its command line."""

from dataclasses import field

from .errors import InputError


def option(default, help):
    """A dataclass field with a default and one line that says what it is, with its unit."""
    return field(default=default, metadata={"help": help})


def require_whole(config, low, *names):
    """Raise InputError unless these fields hold integers of at least `low`."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")


def require_between(config, low, high, *names):
    """Raise InputError unless low <= field < high for each of these fields (which also refuses NaN)."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high:
            raise InputError(f"{name} must be at least {low:g} and below {high:g}, got {value!r}")
