"""numpyllm <command>: one module a command, imported only when it is called."""

import difflib
import importlib
import sys

from .. import __version__
from ..errors import InputError
from .arguments import guarded

COMMANDS = {
    "train": "train a GPT on a text, by flags or a configuration's file",
    "finetune": "make a pre-trained model classify, follow instructions, prefer some answers to others",
    "classify": "name the labels of texts with a model of numpyllm finetune classify",
    "report": "draw one run or several: an HTML page with curves, samples, settings",
    "doctor": "check this installation, this machine, a configuration or a model",
    "gradcheck": "check every hand-written gradient against numerical ones",
    "bench": "time a training step or a tokenizer, against others if they are installed",
    "tokenizer": "train a tokenizer, encode and decode, convert vocabularies",
    "data": "turn texts into shards of tokens to train on, look into them",
    "generate": "continue a text with a trained model",
    "serve": "answer over HTTP with a trained model, as OpenAI's completions do; with a page to try it",
    "eval": "measure a trained model: perplexity, multiple choice, tasks of GLUE and SuperGLUE",
    "quantize": "store a model's weights in fewer bytes",
    "convert": "a model from our layout into Hugging Face's, or back",
}


def main(argv=None):
    """Run a command -> exit code."""
    return guarded(_main, sys.argv[1:] if argv is None else argv)


def _main(argv):
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: numpyllm COMMAND [options]\n\n" + "\n".join(f"  {name:12}{what}" for name, what in COMMANDS.items())
              + "\n\nnumpyllm COMMAND --help tells the options of a command.")
        return 0
    if argv[0] == "--version":
        print(f"numpyllm {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        raise InputError(f"{argv[0]} is no command: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"))
    return importlib.import_module(f".{argv[0]}", __package__).main(argv[1:])
