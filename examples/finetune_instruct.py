"""Teach a small GPT to answer questions about Python's standard library. Under five minutes on two cores, pre-training included.

    python examples/finetune_instruct.py                    begins with out/small, and trains that first if it is not there
    python examples/finetune_instruct.py --model DIR        begins with another model
    python examples/finetune_instruct.py --help             all settings

Questions and answers come from the library's own source: what a function does is the first sentence of its docstring. A tenth of the
questions is held out. What to expect of two million parameters: they learn what an answer to each kind of question looks like, and when it
ends. What a function does they do not know, unless its name tells it.
"""

import ast
import json
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from numpyllm.cli.arguments import Parser, guarded
from numpyllm.cli.finetune_instruct import add_options, run
from numpyllm.cli.train import main as pretrain
from numpyllm.data import hold_out
from numpyllm.data.corpus import library_files
from numpyllm.files import replacing
from numpyllm.finetuning import TEMPLATES, generate_answers, in_order, read_instructions, spread
from numpyllm.interop import load_model
from numpyllm.training import evaluate, load_checkpoint, newest_checkpoint

KINDS = {"what it does": "What does ", "its arguments": "What are the arguments of ", "its module": "Which module has "}
SHOWN = 3                   # held-out questions of each kind
ASKED = 100                 # of each kind, to count right answers
LENGTHS = range(10, 161)    # of a first sentence, in characters


def definitions(files, root):
    """(module, name, node) of each public function, class and method in these files of the library."""
    for path in files:
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if any(part.startswith("_") for part in parts):
            continue
        for node in _public(ast.parse(path.read_bytes())):
            yield ".".join(parts), node.name, node
            if isinstance(node, ast.ClassDef):
                for method in _public(node):
                    yield ".".join(parts), f"{node.name}.{method.name}", method


def _public(tree):
    return [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")]


def instructions(found):
    """Definitions -> records with instruction and output, each instruction once."""
    found = list(found)
    modules = Counter(name for _, name, _ in found)
    answers = {}
    for module, name, node in found:
        says, takes = first_sentence(ast.get_docstring(node) or ""), None if isinstance(node, ast.ClassDef) else arguments(node)
        if says:
            answers[f"What does {module}.{name} do?"] = says
        if takes and "." not in name:
            answers[f"What are the arguments of {module}.{name}?"] = takes
        if "." not in name and modules[name] == 1:
            answers[f"Which module has {name}?"] = module
    return [{"instruction": instruction, "output": output} for instruction, output in answers.items()]


def first_sentence(doc):
    """The first sentence of a docstring, "" if that is too short, too long or a signature."""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    sentence, dot, _ = paragraph.partition(". ")
    return sentence + "." * bool(dot) if len(sentence) in LENGTHS and "->" not in sentence else ""


def arguments(node):
    """Names of a function's arguments, separated by commas."""
    args = node.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args)] + ([f"*{args.vararg.arg}"] if args.vararg else [])
    return ", ".join(names + [arg.arg for arg in args.kwonlyargs] + ([f"**{args.kwarg.arg}"] if args.kwarg else []))


def write_instructions(path):
    """Make the file of records."""
    found = definitions(library_files(), Path(sysconfig.get_path("stdlib")))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in instructions(found))


def show(before, after, tokenizer, learnt, held_out, args):
    """Print what the model has learnt of each kind of question: losses, right answers, and answers as they are."""
    template, block_size = TEMPLATES[args.template], after.config.block_size
    sizes = {"batch_size": args.batch_size, "block_size": block_size, "pack": args.packing}
    loss = lambda model, some: evaluate(model, in_order(some, **sizes), tokenizer.token_byte_lengths).loss
    print("\nheld-out questions; loss in nats a token of the answer")
    for kind, begin in KINDS.items():
        some, others = ([example for example in examples if example.question.startswith(begin)] for examples in (held_out, learnt))
        if not some or not others:
            continue
        asked, [(usual, _)] = spread(some, ASKED), Counter(map(answer_of, others)).most_common(1)
        said = generate_answers(after, tokenizer, [example.turns[0].prompt for example in asked], args.answer_tokens, stop=template.stop)
        right = sum(answer == answer_of(example) for answer, example in zip(said, asked, strict=True))
        frequent = sum(usual == answer_of(example) for example in asked)
        print(f"\n{kind}: {len(some)} questions, loss {loss(before, some):.3f} before and {loss(after, some):.3f} after"
              f" ({loss(after, spread(others, len(some))):.3f} of as many that were learnt);"
              f" {right} of {len(asked)} answers exactly right, {frequent} if the most frequent one were always given")
        for example, answer in spread(list(zip(asked, said, strict=True)), SHOWN):
            print(f"  > {example.question}\n    {answer}\n    (right: {answer_of(example)})")


def answer_of(example):
    return example.turns[0].answer


def main(argv=None):
    parser = Parser(prog="finetune_instruct.py", description="Teach a small GPT to answer questions about Python's standard library.")
    add_options(parser, defaults={"max_iters": 280, "learning_rate": 1e-3, "eval_interval": 70})
    parser.set_defaults(model="out/small", answer_tokens=48)
    args = parser.parse_args(argv)
    if not Path(args.model).exists():
        if code := pretrain(["--config", "small", "--out_dir", args.model]):
            return code
    if args.data is None:
        args.data = str(Path(args.out_dir).with_name("instructions.jsonl"))
        write_instructions(Path(args.data))
    if code := run(args):
        return code

    before, tokenizer = load_model(args.model)
    after, _ = load_model(args.out_dir)
    examples = read_instructions(args.data, TEMPLATES[args.template], tokenizer, after.config.block_size, truncate=args.truncate,
                                 skip_bad=args.skip_bad)
    _, state, _ = load_checkpoint(newest_checkpoint(args.out_dir))
    learnt, held_out = hold_out(examples, args.val_fraction, key=lambda conversation: conversation.question,
                                seed=state["train"]["seed"])
    show(before, after, tokenizer, learnt, held_out, args)
    print("\nThe library's docstrings are in the text that out/small was trained on, those of held-out questions included: what is held out "
          "is the\nquestion, not every sentence of its answer.")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
