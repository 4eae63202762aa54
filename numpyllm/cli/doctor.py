"""numpyllm doctor: is this installation healthy, this machine, this configuration or model?"""

from dataclasses import fields

from ..backend import load_backend
from ..data import Batches
from ..doctor import Patient, examine
from ..errors import InputError
from ..models import GPT, GPTConfig, architecture_of
from ..models.estimate import estimate, refuse_what_cannot_fit
from ..training import TrainConfig, load_model
from ..training.compile import compile_kernels
from .arguments import Parser, config_from
from .sources import open_source
from .start import OPTIONS, add_run_options, tokenizer_maker


def main(argv=None):
    parser = Parser(prog="numpyllm doctor", description="Check this installation, this machine, and a configuration or a trained "
                    "model: one line each with what was found and expected. It takes the options of numpyllm train, of which "
                    "those of the run's folder mean nothing here, and writes nothing. Exit code 1 if a check fails.")
    parser.add_config_file(leave_out=("resume", "overwrite", "model"))
    parser.add_argument("--model", default=None, metavar="DIR", help="folder of a run or of one checkpoint, to be examined")
    add_run_options(parser, out_dir="out/run")
    parser.add_argument("--tokenizer", default="bpe", metavar="KIND|FILE", help=OPTIONS["tokenizer"])
    parser.add_config(GPTConfig, defaults={"vocab_size": 1024})
    parser.add_config(TrainConfig)
    patient = admit(parser.parse_args(argv))
    failed, n = 0, 0
    for finding in examine(patient):
        failed, n = failed + (not finding.ok), n + 1
        print(f"{'ok' if finding.ok else 'FAILED':7} {finding.name:13} {finding.found} (expected: {finding.expected})"
              + ("" if finding.ok else f": {finding.remedy}"))
    print(f"{n} checks, {failed} failed")
    return 1 if failed else 0


def admit(args):
    """-> Patient. Raises InputError for what cannot be meant."""
    ops, model, stored = load_backend(args.backend), None, None
    tokenizer, data = args.tokenizer, args.data
    if args.model is not None:
        sizes = sorted(args.given & {field.name for field in fields(GPTConfig)} | args.given & {"tokenizer"})
        if sizes:
            raise InputError(f"--model has its {sizes[0]} on record: leave --{sizes[0]} out")
        model, tokenizer, state = load_model(args.model, ops=ops)
        stored = state["train"] | {"threads": None}         # those of the machine that it was trained on
        data = state["facts"].get("data") if data is None else data
    kind = args.architecture if model is None else architecture_of(model)
    if kind != "gpt":
        raise InputError(f"the doctor examines a gpt, got the architecture {kind}: numpyllm gradcheck proves its gradients")
    config = config_from(GPTConfig, args) if model is None else model.config
    train = config_from(TrainConfig, args, stored=stored)
    refuse_what_cannot_fit(estimate(config, train.batch_size).total_bytes)
    print(f"reading {data or 'the embedded corpus'}")
    source = open_source(data, config, train, tokenizer=tokenizer, make_tokenizer=tokenizer_maker(args))
    if model is None:
        config = config_from(GPTConfig, args, vocab_size=source.tokenizer.n_vocab)
    print(f"{source.summary}, vocabulary {config.vocab_size:,}")
    batches = source.train if callable(source.train) else Batches(source.train, batch_size=train.batch_size,
                                                                  block_size=config.block_size, seed=train.seed)
    compile_kernels(model or GPT(config, ops=ops), print, train)
    return Patient(config, train, ops, batches, model)
