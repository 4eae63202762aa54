"""Optional packages: imported where they are needed, and one clear line where they are missing."""

import importlib

from .errors import InputError


def load_extra(module, extra):
    """The module, imported. Raises InputError that names the command to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise InputError(f"{package} is not installed: pip install 'numpyllm[{extra}]'") from None
