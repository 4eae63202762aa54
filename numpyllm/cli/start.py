"""From a command line to a Trainer that is ready to run: a new one, or one that goes on where a run stopped."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import tokenizer as tokenizers
from ..backend import BACKENDS, load_backend
from ..config import write_toml
from ..data import is_token_data
from ..errors import InputError
from ..files import write_json
from ..inference import generate_text
from ..interop import load_model
from ..models import ARCHITECTURES, LANGUAGE_MODELS, GPTConfig, LSTMConfig, architecture_of
from ..models.estimate import refuse_what_cannot_fit
from ..tokenizer import BytePairTokenizer, CharacterTokenizer
from ..training import RunFolder, TrainConfig, Trainer, load_checkpoint, newest_checkpoint
from ..training.checkpoint import architecture, make_config
from ..training.environment import environment
from ..training.samples import SampleLog
from ..training.tensorboard import TensorBoard
from .arguments import at_least, config_from
from .sources import open_source

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "bias", "tied", "exact_gelu", "norm_eps")
OPTIONS = {
    "data": "text file, folder of them, or tokens: see numpyllm data (default: the embedded corpus)",
    "architecture": f"{' or '.join(LANGUAGE_MODELS)}; of the options in GPTConfig, an lstm has {', '.join(f.name for f in fields(LSTMConfig))}",
    "tokenizer": "bpe or character, trained on the text; or a vocabulary's file",
    "init_from": "folder of a model to begin with, of its sizes and with its tokenizer: a run, or a GPT-2 or Llama in Hugging Face's layout",
    "out_dir": "folder of the run",
    "backend": "Numba's kernels, or plain NumPy",
    "sample_prompt": "begins the samples (default: the text's first character)",
    "tensorboard": "write TensorBoard's event files into the run's folder",
    "histogram_interval": "TensorBoard: steps between histograms of weights and gradients, a multiple of log_interval; 0 for none",
}
# What a resumed run has on record, beside data and backend.
KEPT = ("init_from", "tokenizer", "sample_prompt", "tensorboard", "histogram_interval")


class Start(NamedTuple):
    trainer: Trainer
    val_text: str
    train_tokens: np.ndarray
    val_tokens: np.ndarray


class Settled(NamedTuple):
    """What a command line, a configuration's file and the record of a run amount to."""

    run: RunFolder
    checkpoint: Path | None     # to go on from
    state: dict                 # of it
    model: GPTConfig | LSTMConfig
    train: TrainConfig
    options: dict               # the names of OPTIONS
    beginning: tuple | None     # (model, tokenizer) that a new run begins with
    architecture: str           # of ARCHITECTURES

    def table(self):
        """All of it as one flat table, which as a configuration's file gives the same run again."""
        return self.options | {"architecture": self.architecture} | asdict(self.model) | asdict(self.train)


def add_run_options(parser, *, out_dir, data_help=OPTIONS["data"], sample_prompt=None):
    """The options of a run beside its model's configuration and TrainConfig."""
    parser.add_argument("--data", default=None, metavar="PATH", help=data_help)
    parser.add_argument("--out_dir", default=out_dir, metavar="DIR", help=OPTIONS["out_dir"])
    parser.add_argument("--architecture", choices=LANGUAGE_MODELS, default="gpt", help=OPTIONS["architecture"])
    parser.add_argument("--backend", choices=BACKENDS, default="numba", help=OPTIONS["backend"])
    parser.add_argument("--resume", action="store_true", help="go on with the run in out_dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in out_dir")
    parser.add_argument("--sample_prompt", default=sample_prompt, metavar="TEXT", help=OPTIONS["sample_prompt"])
    parser.add_switch("--tensorboard", help=OPTIONS["tensorboard"])
    parser.add_argument("--histogram_interval", type=at_least(0), default=0, help=OPTIONS["histogram_interval"])


def comments():
    """What each key of a configuration's table is."""
    helps = {field.name: field.metadata["help"] for config in (GPTConfig, TrainConfig) for field in fields(config)}
    return OPTIONS | helps


def settle(args):
    """-> Settled. Reads the record of a run to resume, and writes nothing. Raises InputError for what cannot be meant."""
    run = RunFolder(args.out_dir, resume=args.resume, overwrite=args.overwrite)
    checkpoint, beginning, state = None, None, {"model": None, "train": None, "metrics_bytes": 0}
    options = {name: getattr(args, name) for name in OPTIONS if hasattr(args, name)}
    if args.resume:
        checkpoint = newest_checkpoint(run.path)
        _, state, _ = load_checkpoint(checkpoint)
        facts = _recorded_facts(checkpoint, state)
        kind = _the_same_kind(args, architecture(state, checkpoint), "the run to resume")
        make_config(ARCHITECTURES[kind].config, state["model"], checkpoint), make_config(TrainConfig, state["train"], checkpoint)
        options |= {name: facts[name] for name in ("data", "backend", *KEPT) if name in facts and name not in args.given}
        if options.get("init_from") != facts.get("init_from"):
            raise InputError("--resume goes on with a run and --init_from begins one: give one of them")
        model = _model_config(kind, args, stored=state["model"], binding=SIZES)
    elif options.get("init_from"):
        beginning, model = _begin_from(options["init_from"], args)
        kind = architecture_of(beginning[0])
    else:
        kind = options["architecture"]
        model = _model_config(kind, args)
    if options.get("init_from"):
        options["tokenizer"] = None         # it comes with the model
    train = config_from(TrainConfig, args, stored=state["train"])
    if options["histogram_interval"] and not options["tensorboard"]:
        raise InputError("histogram_interval is of TensorBoard's histograms: give --tensorboard, too")
    if options["histogram_interval"] % train.log_interval:
        raise InputError(f"histogram_interval must be a multiple of log_interval, got {options['histogram_interval']} and "
                         f"{train.log_interval}")
    return Settled(run, checkpoint, state, model, train, options, beginning, kind)


def _the_same_kind(args, kind, whose):
    """This architecture. InputError if the flags ask for another."""
    if "architecture" in args.given and args.architecture != kind:
        raise InputError(f"{whose} is of architecture {kind}, got --architecture {args.architecture}: leave the flag out")
    return kind


def _model_config(kind, args, **settings):
    """config_from for a model of this architecture. InputError for flags that are another's."""
    known = {name: {field.name for field in fields(found.config)} for name, found in LANGUAGE_MODELS.items()}
    foreign = sorted(args.given & set().union(*known.values()) - known[kind])
    if foreign:
        raise InputError(f"the architecture {kind} has no {foreign[0]}, got --{foreign[0]} {getattr(args, foreign[0])}: leave it out")
    return config_from(ARCHITECTURES[kind].config, args, **settings)


def _begin_from(folder, args):
    """-> (the model to begin with, its tokenizer), its configuration. Flags may shorten the context and set the dropout, nothing else."""
    if "tokenizer" in args.given:
        raise InputError("a model goes with its own tokenizer: give --init_from or --tokenizer")
    begun, tokenizer = load_model(folder, dropout=args.dropout if "dropout" in args.given else None)
    if tokenizer is None:
        raise InputError(f"{folder} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt): put the model's there")
    kind = _the_same_kind(args, architecture_of(begun), folder)
    config = _model_config(kind, args, stored=asdict(begun.config), whose=folder, binding={"vocab_size", *SIZES} - {"block_size"})
    if kind == "gpt" and config.block_size > begun.config.block_size:
        raise InputError(f"block_size must be at most {begun.config.block_size}, for {folder} has learned no more positions, got "
                         f"{config.block_size}")
    return (begun, tokenizer), config


def start(args, make_tokenizer, *, prepared=False, log=print):
    """-> Start. Nothing is written before all input has been found good.

    make_tokenizer(train_text, text) is called for a new run on a text; prepared says whether tokens may be given
    instead. A resumed one has its tokenizer, sizes, backend and text on record, and flags that contradict its sizes
    or its text are an InputError.
    """
    run, checkpoint, state, model_config, train_config, options, beginning, kind = settled = settle(args)
    source = options["data"]
    refuse_what_cannot_fit(ARCHITECTURES[kind].estimate(model_config, train_config.batch_size).total_bytes)
    board = TensorBoard(run.path, histogram_interval=options["histogram_interval"]) if options["tensorboard"] else None

    log(f"reading {source or 'the embedded corpus'}")
    if isinstance(source, str) and not prepared and is_token_data(source):
        raise InputError(f"{source} holds tokens, and a text is needed here: numpyllm train learns from tokens")
    opened = open_source(source, model_config, train_config, make_tokenizer=make_tokenizer,
                         tokenizer=tokenizers.load(checkpoint / "tokenizer.json") if checkpoint
                         else beginning[1] if beginning else options.get("tokenizer"),
                         sha256=state["facts"]["sha256"] if checkpoint else None)
    tokenizer = opened.tokenizer
    if not checkpoint and not beginning:
        model_config = _model_config(kind, args, vocab_size=tokenizer.n_vocab)
    model = ARCHITECTURES[kind].model(model_config, seed=train_config.seed, ops=load_backend(options["backend"]),
                                      recompute=train_config.recompute)
    if beginning:
        for name in model.parameters:
            target = model.parameters[name]
            target[...] = beginning[0].parameters[name][:len(target)]       # of positions, the first ones
        log(f"beginning with the model in {options['init_from']}")
    log(f"{opened.summary}, vocabulary {tokenizer.n_vocab:,}; {model.n_params():,} parameters")

    prompt = opened.first if options["sample_prompt"] is None else options["sample_prompt"]
    facts = {"data": source and str(Path(source).resolve()), "sha256": opened.sha256, "backend": options["backend"]}
    trainer = Trainer(model, train_config, opened.train, opened.validation, tokenizer, run_folder=run, log=log,
                      sample=lambda model: prompt + generate_text(model, tokenizer, prompt, 64, temperature=0.8, top_k=40,
                                                                  seed=train_config.seed),
                      facts=facts | {name: options[name] for name in KEPT if name in options},
                      observers=[SampleLog(run.samples_path), *([board] if board else [])])
    if checkpoint:
        trainer.resume(checkpoint)
        log(f"resuming after step {trainer.step}")
    run.open(state["metrics_bytes"])
    write_toml(run.config_path, settled._replace(model=model_config).table(), comments())
    write_json(run.environment_path, environment())
    return Start(trainer, opened.val_text, opened.train, opened.validation)


def tokenizer_maker(args, log=print):
    """-> make_tokenizer(train_text, text) for `start` and `open_source`, as --tokenizer and --vocab_size say."""
    def make_tokenizer(train_text, text):
        if args.tokenizer == "bpe":
            log(f"training a tokenizer of {args.vocab_size} tokens")
            return BytePairTokenizer.train(train_text, args.vocab_size)
        made = CharacterTokenizer.train(text) if args.tokenizer == "character" else tokenizers.load(args.tokenizer)
        if "vocab_size" in args.given and args.vocab_size != made.n_vocab:
            raise InputError(f"vocab_size must be that of the tokenizer, {made.n_vocab}, got {args.vocab_size}: leave it out")
        return made
    return make_tokenizer


def _recorded_facts(checkpoint, stored):
    facts = stored["facts"]
    if not (isinstance(facts.get("sha256"), str) and isinstance(facts.get("data"), (str, type(None)))
            and facts.get("backend") in BACKENDS):
        raise InputError(f"{checkpoint / 'state.json'} must say which text and backend the run has: it cannot be resumed")
    return facts
