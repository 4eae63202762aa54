"""From a command line to a Trainer that is ready to run: a new one, or one that goes on where a run stopped."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import tokenizer as tokenizers
from ..backend import BACKENDS, load_backend
from ..data import load_text, split_by_position
from ..errors import InputError
from ..inference import generate_text
from ..models import GPT, GPTConfig
from ..models.estimate import estimate
from ..training import RunFolder, TrainConfig, Trainer, load_checkpoint, newest_checkpoint
from ..training.checkpoint import make_config
from .arguments import config_from

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "bias", "tied")


class Start(NamedTuple):
    trainer: Trainer
    val_text: str
    train_tokens: np.ndarray
    val_tokens: np.ndarray


def add_run_options(parser, *, out_dir, data_help):
    """--data --out_dir --backend --resume --overwrite."""
    parser.add_argument("--data", default=None, metavar="PATH", help=data_help)
    parser.add_argument("--out_dir", default=out_dir, metavar="DIR", help="folder of the run")
    parser.add_argument("--backend", choices=BACKENDS, default="numba", help="Numba's kernels, or plain NumPy")
    parser.add_argument("--resume", action="store_true", help="go on with the run in out_dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in out_dir")


def start(args, make_tokenizer, *, sample_prompt=None, log=print):
    """-> Start. Nothing is written before all input has been found good.

    make_tokenizer(train_text, text) is called for a new run. A resumed one has its tokenizer, sizes, backend and text on
    record, and flags that contradict its sizes or its text are an InputError. sample_prompt begins the samples (default:
    the text's first character).
    """
    run = RunFolder(args.out_dir, resume=args.resume, overwrite=args.overwrite)
    stored, source, backend = {"model": None, "train": None, "metrics_bytes": 0}, args.data, args.backend
    if args.resume:
        checkpoint = newest_checkpoint(run.path)
        _, stored, tokenizer_path = load_checkpoint(checkpoint)
        facts = _recorded_facts(checkpoint, stored)
        make_config(GPTConfig, stored["model"], checkpoint), make_config(TrainConfig, stored["train"], checkpoint)
        source = args.data if "data" in args.given else facts["data"]
        backend = args.backend if "backend" in args.given else facts["backend"]
    train_config = config_from(TrainConfig, args, stored=stored["train"])
    model_config = config_from(GPTConfig, args, stored=stored["model"], binding=SIZES if args.resume else ())
    _refuse_what_cannot_fit(model_config, train_config)

    log(f"reading {source or 'the embedded corpus'}")
    text = load_text(source)
    sha256 = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    if args.resume and sha256 != facts["sha256"]:
        raise InputError(f"{source or 'the embedded corpus'} is not the text that {run.path} was trained on: resume with "
                         "that text, or train into another --out_dir")
    train_text, val_text = split_by_position(text)
    n_bytes = len(val_text.encode("utf-8", "replace"))
    if n_bytes <= model_config.block_size:      # no tokenizer makes more tokens than bytes
        raise InputError(f"the validation text, a tenth of the whole, must be longer than one context, got {n_bytes} bytes for "
                         f"block_size={model_config.block_size}: give more text or a smaller block_size")
    tokenizer = tokenizers.load(tokenizer_path) if args.resume else make_tokenizer(train_text, text)
    if not args.resume:
        model_config = config_from(GPTConfig, args, vocab_size=tokenizer.n_vocab)
    train_tokens, val_tokens = (tokenizer.encode_to_numpy(part, disallowed_special=()) for part in (train_text, val_text))
    model = GPT(model_config, seed=train_config.seed, ops=load_backend(backend), recompute=train_config.recompute)
    log(f"{len(text):,} characters, {len(train_tokens):,} tokens to train on, {len(val_tokens):,} to validate, "
        f"vocabulary {tokenizer.n_vocab:,}; {model.n_params():,} parameters")

    prompt = text[:1] if sample_prompt is None else sample_prompt
    trainer = Trainer(model, train_config, train_tokens, val_tokens, tokenizer, run_folder=run, log=log,
                      sample=lambda model: prompt + generate_text(model, tokenizer, prompt, 64, temperature=0.8, top_k=40,
                                                                  seed=train_config.seed),
                      facts={"data": source and str(Path(source).resolve()), "sha256": sha256, "backend": backend})
    if args.resume:
        trainer.resume(checkpoint)
        log(f"resuming after step {trainer.step}")
    run.open(stored["metrics_bytes"])
    return Start(trainer, val_text, train_tokens, val_tokens)


def _recorded_facts(checkpoint, stored):
    facts = stored["facts"]
    if not (isinstance(facts.get("sha256"), str) and isinstance(facts.get("data"), (str, type(None)))
            and facts.get("backend") in BACKENDS):
        raise InputError(f"{checkpoint / 'state.json'} must say which text and backend the run has: it cannot be resumed")
    return facts


def _refuse_what_cannot_fit(model_config, train_config):
    """Compare the estimate with the memory of this machine before anything large is allocated."""
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = estimate(model_config, train_config.batch_size).total_bytes
    if needed > there:
        raise InputError(f"the sizes must fit into the {there / 1e9:.0f} GB of this machine, they need {needed / 1e9:,.0f} GB: "
                         "choose a smaller n_embd, n_layer, block_size, vocab_size or batch_size")
