"""numpyllm finetune <task>: one module a task, imported only when it is called."""

import difflib
import importlib

from ..errors import InputError

TASKS = {
    "classify": "labels for texts: a head that reads the last token, learnt from labelled examples",
    "instruct": "answers to instructions: learnt from examples of both, the loss on the answers alone",
    "prefer": "the better of two answers, or what a reward asks for: DPO, a reward model, REINFORCE",
}


def main(argv=None):
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: numpyllm finetune TASK --model DIR --data FILE [options]\n\nMake a pre-trained model useful.\n\n"
              + "\n".join(f"  {name:12}{what}" for name, what in TASKS.items())
              + "\n\nnumpyllm finetune TASK --help tells the options of a task.")
        return 0
    if argv[0] not in TASKS:
        near = difflib.get_close_matches(argv[0], TASKS, n=1)
        raise InputError(f"{argv[0]} is no task: "
                         + (f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}"))
    return importlib.import_module(f".finetune_{argv[0]}", __package__).main(argv[1:])
