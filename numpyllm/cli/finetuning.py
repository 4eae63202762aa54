"""What the tasks of `numpyllm finetune` share: their options, the model they begin with, and
the run they make of it."""

import hashlib
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ..backend import BACKENDS, load_backend
from ..config import write_toml
from ..errors import InputError
from ..files import read_bytes, write_json
from ..finetuning import add_lora, save_adapter
from ..interop import load_model
from ..models import LoRA, architecture_of
from ..models.estimate import refuse_what_cannot_fit
from ..tokenizer.base import Tokenizer
from ..training import RunFolder, TrainConfig, load_checkpoint, newest_checkpoint
from ..training.environment import environment
from ..training.samples import SampleLog
from .arguments import at_least, config_from

DEFAULTS = {"batch_size": 8, "max_iters": 500, "learning_rate": 2e-4, "warmup_iters": 20, "weight_decay": 0.0,
            "eval_interval": 50, "patience": 0}
KEPT = ("model", "data", "val_fraction", "skip_bad", "backend", "freeze", "lora_rank", "lora_alpha", "lora_dropout",
        "lora_targets")         # what every run has on record, beside a task's own options


class Opened(NamedTuple):
    """A task's beginning."""

    run: RunFolder
    checkpoint: Path | None     # to go on from
    state: dict | None          # of it
    model: object               # as it was before this task
    tokenizer: Tokenizer
    train: TrainConfig
    ops: object
    facts: dict                 # for the Trainer, which keeps them in its checkpoints
    task: str


def add_finetuning_options(parser, *, data_help, out_dir, defaults=None):
    """--model, --data and the rest; `defaults` of TrainConfig go before DEFAULTS."""
    parser.add_config_file(leave_out=("resume", "overwrite"))
    parser.add_argument("--model", default=None, metavar="DIR",
                        help="the model to begin with: folder of a run, of one checkpoint, or in Hugging Face's "
                             "layout")
    parser.add_argument("--data", default=None, metavar="FILE", help=data_help)
    parser.add_argument("--out_dir", default=out_dir, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in out_dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in out_dir")
    parser.add_argument("--val_fraction", type=float, default=0.1,
                        help="part of the examples that is held out, chosen by their content, so that nothing "
                             "learnt is among it")
    parser.add_switch("--skip_bad",
                      help="leave out examples that cannot be used, and count them, rather than refuse the file")
    parser.add_argument("--backend", choices=BACKENDS, default="numba", help="Numba's kernels, or plain NumPy")
    parser.add_argument("--freeze", type=_freeze, default="none", metavar="none|all|N",
                        help="what stays as it is: nothing; all but the task's own head; or all but the last N "
                             "blocks, the norm above them and the head")
    group = parser.add_argument_group("LoRA")
    group.add_argument("--lora_rank", type=at_least(0), default=0,
                       help="train additions of this rank to the matrices, and nothing else; 0: none")
    group.add_argument("--lora_alpha", type=float, default=16.0, help="they are multiplied by alpha / rank")
    group.add_argument("--lora_dropout", type=float, default=0.0,
                       help="probability of dropping an entry of what they read")
    group.add_argument("--lora_targets", default="qkv,proj", metavar="NAMES",
                       help="matrices that get them: qkv, proj, up, down, gate")
    parser.add_config(TrainConfig, defaults=DEFAULTS | (defaults or {}))


def open_finetuning(args, task, *, kept=(), log=print):
    """-> Opened. Nothing is written. kept: names of the task's own options that a resumed run has on record.

    A resumed run takes what is on record for the flags that were not given, and args holds it afterwards. Raises
    InputError for flags that contradict it, and where the model or the data are no longer what they were.
    """
    run = RunFolder(args.out_dir, resume=args.resume, overwrite=args.overwrite)
    checkpoint = state = None
    if args.resume:
        checkpoint = newest_checkpoint(run.path)
        _, state, _ = load_checkpoint(checkpoint)
        _take_from_record(args, state["facts"], task, (*KEPT, *kept), run.path)
    for name, what in (("model", "the model to begin with"), ("data", "the examples")):
        if not getattr(args, name):
            raise InputError(f"--{name} must name {what}: numpyllm finetune {task} --help tells more")
    if not 0 < args.val_fraction < 1:
        raise InputError(f"val_fraction must be above 0 and below 1, got {args.val_fraction:g}")
    train = config_from(TrainConfig, args, stored=state and state["train"])
    ops = load_backend(args.backend)
    log(f"reading {args.model}")
    model, tokenizer = load_model(args.model, ops=ops)
    if tokenizer is None:
        raise InputError(f"{args.model} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt): put the model's there")
    a_token = model.config.n_layer * model.config.n_embd * model.parameters.dtype.itemsize
    refuse_what_cannot_fit(train.batch_size * a_token)          # at least one a row
    model.recompute = train.recompute       # what is made of it takes it over
    facts = {"task": task} | {name: getattr(args, name) for name in (*KEPT, *kept)}
    facts |= {name: str(Path(getattr(args, name)).resolve()) for name in ("model", "data")}
    facts |= {"model_sha256": hashlib.sha256(model.parameters.data).hexdigest(),
              "data_sha256": hashlib.sha256(read_bytes(args.data)).hexdigest()}
    if state is not None:
        for name, what in (("model", "the model that the run began with"), ("data", "what the run learns from")):
            if state["facts"].get(f"{name}_sha256") != facts[f"{name}_sha256"]:
                raise InputError(f"{getattr(args, name)} is no longer {what}: put that back, or train into "
                                 "another --out_dir")
    return Opened(run, checkpoint, state, model, tokenizer, train, ops, facts, task)


def trainable_parts(args, n_layer):
    """name -> whether it is trained, as --freeze and --lora_rank say; None: all is. A task's head has other
    names than a GPT's parts."""
    if args.lora_rank and args.freeze != "none":
        raise InputError("with LoRA all but the additions is frozen: leave --freeze out, or --lora_rank")
    if args.lora_rank or args.freeze == "all":
        return lambda name: not name.startswith(("embedding.", "blocks.", "norm.", "head."))
    if args.freeze == "none":
        return None
    if args.freeze > n_layer:
        raise InputError(f"--freeze must leave at most the model's {n_layer} blocks to be trained, got {args.freeze}")
    last = tuple(f"blocks.{i}." for i in range(n_layer - args.freeze, n_layer))
    return lambda name: name.startswith(last) or not name.startswith(("embedding.", "blocks."))


def lora_of(args):
    """The LoRA that was asked for, or None."""
    if not args.lora_rank:
        return None
    return LoRA(rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout,
                targets=tuple(name.strip() for name in args.lora_targets.split(",")))


def adapted(opened, args):
    """The model that was opened, frozen in part or with LoRA as the options say, its parameters the same. For
    tasks without a head of their own."""
    model, lora = opened.model, lora_of(args)
    trainable = trainable_parts(args, model.config.n_layer)
    if lora is not None:
        return add_lora(model, lora, seed=opened.train.seed)
    if trainable is None:
        return model
    if not any(map(trainable, model.parameters)):
        raise InputError("--freeze all leaves nothing to train: this task has no head of its own; give a number "
                         "of blocks, or --lora_rank")
    frozen = type(model)(model.config, seed=None, dtype=model.parameters.dtype, trainable=trainable, **model.options())
    for name in model.parameters:
        frozen.parameters[name][...] = model.parameters[name]
    return frozen


def _freeze(text):
    if text in ("none", "all"):
        return text
    return at_least(1)(text)


_freeze.__name__ = "none, all or a number"


def _take_from_record(args, facts, task, names, folder):
    if facts.get("task") != task:
        raise InputError(f"{folder} is no run of numpyllm finetune {task}: give another --out_dir, or leave "
                         "--resume out")
    for name in names:
        if name in args.given and name not in ("model", "data") and getattr(args, name) != facts.get(name):
            raise InputError(f"the run to resume has {name}={facts.get(name)}, got --{name} "
                             f"{getattr(args, name)}: leave the flag out, or train into another --out_dir")
        if name not in args.given:
            setattr(args, name, facts.get(name))


def run_finetuning(opened, trainer, log=print):
    """Run a Trainer of this model, config and folder from the beginning or from where it stopped -> exit code."""
    metrics_bytes = 0
    trained, total = trainer.model.parameters.count(trained=True), trainer.model.parameters.count()
    if trained < total:
        log(f"{trained:,} of {total:,} parameters are trained ({trained / total:.1%})")
    if opened.checkpoint:
        metrics_bytes = trainer.resume(opened.checkpoint)["metrics_bytes"]
        log(f"resuming after step {trainer.step}")
    opened.run.open(metrics_bytes)
    options = {name: value for name, value in opened.facts.items() if name != "task" and not name.endswith("_sha256")}
    write_toml(opened.run.config_path, options | {"out_dir": str(opened.run.path)} | asdict(opened.train), {})
    write_json(opened.run.environment_path, environment())
    if not trainer.run():
        log(f"continue with: numpyllm finetune {opened.task} --resume --out_dir {shlex.quote(str(opened.run.path))}")
        return 128 + trainer.stopped_by
    if trainer.model.lora is not None:
        save_adapter(opened.run.path / "adapter", trainer.model, overwrite=True)
        log(f"{opened.run.path / 'adapter'} holds what was trained, without the model")
    return 0


def observers(opened):
    """What listens to every run of a task: the log of its samples."""
    return [SampleLog(opened.run.samples_path)]


def require_gpt(opened):
    """InputError unless the model is a GPT."""
    kind = architecture_of(opened.model)
    if kind != "gpt":
        raise InputError(f"numpyllm finetune {opened.task} needs a GPT, {opened.facts['model']} is of "
                         f"architecture {kind}")
