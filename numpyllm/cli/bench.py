"""numpyllm bench: how fast is a training step, decoding or a tokenizer, and where does the time go?"""

import json
import sys

from ..bench.finetune import bench_finetune
from ..bench.generate import bench_generate
from ..bench.ops import bench_ops
from ..bench.sizes import SIZES
from ..bench.tokenizer import PEERS, Different, bench_tokenizer
from ..bench.train import bench_train
from ..bench.worker import TRAIN
from ..data import load_text, source_text
from ..errors import InputError
from ..models import GPT
from ..training.replicas import physical_cores
from .arguments import Parser, at_least

STEP_PEERS = [name for name in TRAIN if name != "numpyllm"]
PYTHON = "Python's standard library"


def main(argv=None):
    parser = Parser(prog="numpyllm bench", description="Time a training step (train), each op of one beside its floor (ops), "
                    "a step of fine-tuning with everything trained, with LoRA and with the last block (finetune), "
                    "decoding with float32, bfloat16 and int8 weights (generate), or encoding and learning of a "
                    "tokenizer (tokenizer). What is timed is compared with the peer's result first; a tokenizer that "
                    "gives other ids or merges ends it with exit code 1.")
    parser.add_argument("what", choices=("train", "ops", "finetune", "generate", "tokenizer"),
                        help="full steps, the ops of one step, steps of fine-tuning, decoding, or a tokenizer")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="train, ops, finetune, generate: model and batch")
    parser.add_argument("--peer", choices=[*STEP_PEERS, "transformers", *PEERS], default=None, metavar="NAME",
                        help=f"what to compare with, in turns; train: {', '.join(STEP_PEERS)}; generate: transformers; "
                             f"tokenizer: {', '.join(PEERS)}")
    parser.add_argument("--threads", type=at_least(1), default=None,
                        help="threads for each contestant (default: train, finetune, generate all cores; tokenizer one)")
    parser.add_argument("--seconds", type=float, default=20.0, help="time to spend on timing, at least")
    parser.add_argument("--data", action="append", default=None, metavar="FILE",
                        help=f"tokenizer: a text; again for more (default: the source of {PYTHON})")
    parser.add_argument("--vocabulary", default=None, metavar="FILE",
                        help="tokenizer: the vocabulary to encode with (default: one that is trained on the text)")
    parser.add_argument("--vocab_size", type=at_least(257), default=8192, help="tokenizer: what to train to")
    parser.add_argument("--pattern", default="gpt2", help="tokenizer: what to train with")
    parser.add_argument("--megabytes", type=float, default=10.0, help="tokenizer: use so many million characters of each text at most")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output; the table goes to standard error")
    args = parser.parse_args(argv)
    known = {"train": STEP_PEERS, "ops": (), "finetune": (), "generate": ("transformers",), "tokenizer": PEERS}[args.what]
    if args.peer is not None and args.peer not in known:
        raise InputError(f"bench {args.what} knows the peers {', '.join(known) or '(none)'}, got {args.peer}")

    def log(line):
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    if args.what == "train":
        figures = bench_train(args.size, peer=args.peer, threads=args.threads or physical_cores(), seconds=args.seconds, log=log)
    elif args.what == "ops":
        figures = bench_ops(args.size, seconds=args.seconds, log=log)
    elif args.what in ("finetune", "generate") and SIZES[args.size].model is not GPT:
        raise InputError(f"bench {args.what} times a GPT, got the size {args.size}: choose another")
    elif args.what == "finetune":
        figures = bench_finetune(args.size, threads=args.threads or physical_cores(), seconds=args.seconds, log=log)
    elif args.what == "generate":
        figures = bench_generate(args.size, peer=args.peer, threads=args.threads or physical_cores(), seconds=args.seconds, log=log)
    else:
        most = int(args.megabytes * 1e6)
        corpora = {name: load_text(name)[:most] for name in args.data or ()} or {PYTHON: source_text()[:most]}
        try:
            figures = bench_tokenizer(corpora, vocabulary=args.vocabulary, vocab_size=args.vocab_size, pattern=args.pattern,
                                      peer=args.peer, threads=args.threads or 1, seconds=args.seconds, log=log)
        except Different as error:
            print(f"numpyllm: error: {error}", file=sys.stderr)
            return 1
    if args.json:
        print(json.dumps(figures))
    return 0
