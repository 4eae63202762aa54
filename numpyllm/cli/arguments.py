"""Command lines: flags with underscores or dashes, help with defaults, one line and exit code 2 for what is wrong."""

import argparse
import difflib
import errno
import os
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import get_args

from ..config import read_toml
from ..errors import InputError
from ..gradcheck import GradientError
from ..training.trainer import TrainingDiverged

READY = {path.stem: path for path in sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers an unknown flag with the nearest known one, in one line.

    What it parses has `given`, the names of what was said on the command line or in the file of --config, if it has that.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, formatter_class=_Help, **kwargs)
        self._not_in_a_file = None

    def add_config_file(self, *, leave_out=()):
        """--config NAME|FILE.toml: options of this parser by name, but for those left out; flags go before them."""
        self.add_argument("--config", default=None, metavar="NAME|FILE.toml",
                          help=f"options from a file, or a ready configuration: {', '.join(READY)}; flags go before it")
        self._not_in_a_file = {"help", "config", *leave_out}

    def add_config(self, config_class, *, leave_out=(), defaults=None):
        """A flag for each field of a config class made with numpyllm.config.option; `defaults` replace the class's."""
        group = self.add_argument_group(config_class.__name__)
        for field in fields(config_class):
            if field.name in leave_out:
                continue
            kind = next((t for t in get_args(field.type) if t is not type(None)), field.type)
            what = {"help": field.metadata["help"], "default": (defaults or {}).get(field.name, field.default)}
            if kind is bool:
                self.add_switch(f"--{field.name}", group=group, **what)
            else:
                group.add_argument(f"--{field.name}", type=kind, metavar=kind.__name__, **what)

    def add_switch(self, flag, *, help, default=False, group=None):
        """A flag that is on, off (--no_flag, or false), or as the default says."""
        group = group or self
        name = flag.removeprefix("--")
        group.add_argument(flag, type=_boolean, nargs="?", const=True, default=default, metavar="true|false", help=help)
        group.add_argument(f"--no_{name}", dest=name, action="store_false", default=default, help=argparse.SUPPRESS)

    def parse_args(self, args=None, namespace=None):
        args = [self._with_underscores(arg) for arg in (sys.argv[1:] if args is None else args)]
        from_file = self._from_file(args) if self._not_in_a_file is not None else {}
        self.set_defaults(**from_file)
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0].split("=")[0], self._option_string_actions, n=1)
            hint = f": did you mean {near[0]}?" if near else ": --help lists what there is"
            self.error(f"{unknown[0]} is not known{hint}")
        namespace.given = {action.dest for flag, action in self._option_string_actions.items()
                           if any(arg == flag or arg.startswith(flag + "=") for arg in args)} | set(from_file)
        return namespace

    def _from_file(self, args):
        """The options in the file that --config names. InputError, with the file's name, for what is no option or no value of it."""
        only = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        only.add_argument("--config")
        try:
            name = only.parse_known_args(args)[0].config
        except argparse.ArgumentError:      # no name: the full parser will say so
            return {}
        if name is None:
            return {}
        path = ready_config(name)
        table = read_toml(path)
        actions = {action.dest: action for action in self._actions if action.dest not in self._not_in_a_file
                   and action.help != argparse.SUPPRESS}
        for key, value in table.items():
            if key not in actions:
                near = difflib.get_close_matches(key, actions, n=1)
                raise InputError(f"{path}: {key} is not known" + (f": did you mean {near[0]}?" if near else ": --help lists what there is"))
            table[key] = _checked(f"{path}: {key}", actions[key], value)
        return table

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")

    def _with_underscores(self, arg):
        """--max-iters=5 is --max_iters=5, and a slip such as --max-itres is --max_itres; a text that begins with -- stays."""
        flag, equals, value = arg.partition("=")
        return flag.replace("-", "_").replace("__", "--", 1) + equals + value if flag.startswith("--") and " " not in flag else arg


class _Help(argparse.HelpFormatter):
    """Help that names defaults, but not the lack of one, and leaves examples in lines of their own."""

    def _fill_text(self, text, width, indent):
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _get_help_string(self, action):
        silent = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        shown = not silent and action.option_strings and "(default" not in action.help
        return action.help + f" (default: {action.default!r})" if shown else action.help


def ready_config(name):
    """The path of a ready configuration, or of the file that is called so. InputError where there is neither."""
    if name in READY:
        return READY[name]
    if not Path(name).is_file():
        near = difflib.get_close_matches(name, READY, n=1)
        raise InputError(f"{name} is neither a file nor a ready configuration: "
                         + (f"did you mean {near[0]}?" if near else f"there are {', '.join(READY)}"))
    return Path(name)


def _checked(what, action, value):
    """A value from TOML as the flag would give it. InputError if it is of another type, or none of the flag's choices."""
    kind = {_boolean: bool, None: bool if isinstance(action.default, bool) else str}.get(action.type, action.type)
    kind = kind if isinstance(kind, type) else int if kind.__name__ == "int" else type(value)     # at_least, or words as well
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        words = {int: "a whole number", float: "a number", str: 'a text in quotation marks', bool: "true or false"}
        raise InputError(f"{what} must be {words[kind]}, got {value!r}")
    try:
        value = kind(value) if isinstance(action.type, type) or action.type in (None, _boolean) else action.type(str(value))
    except (argparse.ArgumentTypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what}: {error}") from None
    if action.choices is not None and value not in action.choices:
        raise InputError(f"{what} must be one of {', '.join(action.choices)}, got {value!r}")
    return value


def at_least(low):
    """An argparse type: a whole number of at least `low`."""
    def whole(text):
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {value}")
        return value
    whole.__name__ = "int"
    return whole


def _boolean(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text}")
    return text.lower() == "true"


def config_from(config_class, args, *, stored=None, binding=(), whose="the run to resume", **replaced):
    """A config from parsed flags, with some fields `replaced`. Raises InputError as the class does.

    stored, the fields of a run that is being resumed or of another (whose, for the message), stands in for the flags that were
    not given; a given flag that differs in one of the `binding` fields is an InputError.
    """
    flags = {field.name: getattr(args, field.name) for field in fields(config_class) if hasattr(args, field.name)}
    given = flags if stored is None else {name: value for name, value in flags.items() if name in args.given}
    for name in binding:
        if name in given and given[name] != stored.get(name, given[name]):
            raise InputError(f"{whose} has {name}={stored[name]}, got --{name} {given[name]}: leave the flag out, or "
                             "train into another --out_dir")
    return config_class(**((stored or {}) | given | replaced))


def guarded(main, argv=None):
    """Run a command's main -> exit code: what it returns, 2 for bad input and files, 1 for failed training, 130 for Ctrl-C."""
    warnings.showwarning = lambda message, *place: print(f"numpyllm: note: {message}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):      # any text can be printed anywhere, and a log shows line by line
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        code = main(argv) or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        message, code = str(error), 2
    except MemoryError as error:
        message, code = f"these sizes need more memory than there is ({error}): choose smaller ones", 2
    except (TrainingDiverged, GradientError) as error:
        message, code = str(error), 1
    except BrokenPipeError:     # the reader of our output has gone: nothing to say, nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "no space left for" if full else f"{error.strerror or error}:"
        message, code = f"{what} {error.filename or 'the output'}", 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    print(f"numpyllm: error: {message}", file=sys.stderr)
    return code
