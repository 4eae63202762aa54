"""From a command line to a Trainer that is ready to run: a new one, or one that goes on where a run stopped."""

import hashlib

from ..backend import BACKENDS, load_backend
from ..data import load_text, split_by_position
from ..errors import InputError
from ..inference import generate_text
from ..models import GPT, GPTConfig
from ..training import RunFolder, TrainConfig, Trainer, load_checkpoint, newest_checkpoint
from .. import tokenizer as tokenizers
from .arguments import config_from


def add_run_options(parser, *, out_dir, data_help, data_required=False):
    """--data --out_dir --backend --resume --overwrite."""
    parser.add_argument("--data", default=None, required=data_required, metavar="PATH", help=data_help)
    parser.add_argument("--out_dir", default=out_dir, metavar="DIR", help="folder of the run")
    parser.add_argument("--backend", choices=BACKENDS, default="numba", help="Numba's kernels, or plain NumPy")
    parser.add_argument("--resume", action="store_true", help="go on with the run in out_dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in out_dir")


def start(args, make_tokenizer, *, sample_prompt="\n", log=print):
    """-> Trainer, validation text, tokens of train and validation. Nothing is written before all input has been found good.

    make_tokenizer(train_text) is called for a new run; a resumed one has its tokenizer, sizes and text on record, and
    flags that contradict its sizes or its text are an InputError.
    """
    run = RunFolder(args.out_dir, resume=args.resume, overwrite=args.overwrite)
    stored = {"model": None, "train": None, "facts": None, "metrics_bytes": 0}
    if args.resume:
        checkpoint = newest_checkpoint(run.path)
        _, stored, tokenizer_path = load_checkpoint(checkpoint)
        if "data" not in args.given:
            args.data = stored["facts"]["data"]
    train_config = config_from(TrainConfig, args, stored=stored["train"])
    if not args.resume:
        config_from(GPTConfig, args)        # refuse bad sizes before the text is read

    log(f"reading {args.data or 'the embedded corpus'}")
    text = load_text(args.data)
    facts = {"data": args.data, "sha256": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()}
    if args.resume and facts["sha256"] != stored["facts"]["sha256"]:
        raise InputError(f"{args.data or 'the embedded corpus'} is not the text that {run.path} was trained on: resume with "
                         "that text, or train into another --out_dir")
    train_text, val_text = split_by_position(text)
    tokenizer = tokenizers.load(tokenizer_path) if args.resume else make_tokenizer(train_text)
    fixed = {} if args.resume else {"vocab_size": tokenizer.n_vocab}
    model = GPT(config_from(GPTConfig, args, stored=stored["model"], binding=True, **fixed), seed=train_config.seed,
                ops=load_backend(args.backend))
    train_tokens, val_tokens = (tokenizer.encode_to_numpy(part, disallowed_special=()) for part in (train_text, val_text))
    log(f"{len(text):,} characters, {len(train_tokens):,} tokens to train on, {len(val_tokens):,} to validate, "
        f"vocabulary {tokenizer.n_vocab:,}; {model.n_params():,} parameters")

    def sample(model):
        return sample_prompt + generate_text(model, tokenizer, sample_prompt, 64, temperature=0.8, top_k=40,
                                             seed=train_config.seed)

    trainer = Trainer(model, train_config, train_tokens, val_tokens, tokenizer, run=run, sample=sample, facts=facts, log=log)
    if args.resume:
        trainer.resume(checkpoint)
        log(f"resuming after step {trainer.step}")
    run.open(stored["metrics_bytes"])
    return trainer, val_text, train_tokens, val_tokens
