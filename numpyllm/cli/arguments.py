"""Command lines: flags with underscores or dashes, help with defaults, one line and exit code 2 for what is wrong."""

import argparse
import difflib
import errno
import sys
import warnings
from dataclasses import fields
from typing import get_args

from ..errors import InputError
from ..training.trainer import TrainingDiverged


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers an unknown flag with the nearest known one, in one line."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs)

    def add_config(self, config_class, *, leave_out=(), defaults=None):
        """A flag for each field of a config class made with numpyllm.config.option; `defaults` replace the class's."""
        group = self.add_argument_group(config_class.__name__)
        for field in fields(config_class):
            if field.name in leave_out:
                continue
            kind = next((t for t in get_args(field.type) if t is not type(None)), field.type)
            how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind, "metavar": kind.__name__}
            group.add_argument(f"--{field.name}", help=field.metadata["help"],
                               default=(defaults or {}).get(field.name, field.default), **how)

    def parse_args(self, args=None, namespace=None):
        args = [_with_underscores(arg) for arg in (sys.argv[1:] if args is None else args)]
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0].split("=")[0], self._option_string_actions, n=1)
            hint = f": did you mean {near[0]}?" if near else ": --help lists what there is"
            self.error(f"{unknown[0]} is not known{hint}")
        namespace.given = {action.dest for flag, action in self._option_string_actions.items()
                           if any(arg == flag or arg.startswith(flag + "=") for arg in args)}
        return namespace

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def config_from(config_class, args, *, stored=None, binding=False, **replaced):
    """A config from parsed flags, with some fields `replaced`. Raises InputError as the class does.

    stored, the fields of a run that is being resumed, stands in for the flags that were not given; if it is binding, a
    given flag that differs is an InputError.
    """
    flags = {field.name: getattr(args, field.name) for field in fields(config_class) if hasattr(args, field.name)}
    if stored is None:
        return config_class(**(flags | replaced))
    given = {name: value for name, value in flags.items() if name in args.given}
    for name, value in given.items():
        if binding and value != stored[name]:
            raise InputError(f"the run to resume has {name}={stored[name]}, got --{name} {value}: leave the flag out, or "
                             "train into another --out_dir")
    return config_class(**(stored | given))


def guarded(main, argv=None):
    """Run a command's main -> exit code: what it returns, 2 for bad input and files, 1 for failed training, 130 for Ctrl-C."""
    warnings.showwarning = lambda message, *place: print(f"numpyllm: note: {message}", file=sys.stderr)
    try:
        return main(argv) or 0
    except InputError as error:
        message, code = str(error), 2
    except TrainingDiverged as error:
        message, code = str(error), 1
    except BrokenPipeError:
        sys.stderr.close()      # the reader of our output has gone: nothing to say, nobody to say it to
        return 141
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "no space left for" if full else f"{error.strerror or error}:"
        message, code = f"{what} {error.filename or 'the output'}{': free some, then --resume' if full else ''}", 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    print(f"numpyllm: error: {message}", file=sys.stderr)
    return code


def _with_underscores(arg):
    """--max-iters=5 is --max_iters=5; --no-bias stays, for argparse spells it so."""
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg[2:].partition("=")
    negated = flag.startswith(("no-", "no_"))
    flag = flag[3:] if negated else flag
    return "--" + ("no-" if negated else "") + flag.replace("-", "_") + equals + value
