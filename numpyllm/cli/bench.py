"""numpyllm bench: how fast is a training step, and where does the time go?"""

import json
import sys

from ..bench.ops import bench_ops
from ..bench.sizes import SIZES
from ..bench.train import bench_train
from ..bench.worker import CONTESTANTS
from ..training.replicas import physical_cores
from .arguments import Parser


def main(argv=None):
    parser = Parser(prog="numpyllm bench", description="Time a training step (train), or each op of one beside its floor (ops).")
    parser.add_argument("what", choices=("train", "ops"), help="full steps, or the ops of one step")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="model and batch")
    parser.add_argument("--peer", choices=[name for name in CONTESTANTS if name != "numpyllm"], default=None,
                        help="train: what to compare with, in a process of its own, in turns")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="train: threads for each contestant")
    parser.add_argument("--seconds", type=float, default=20.0, help="time to spend on timing, at least")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output; the table goes to standard error")
    args = parser.parse_args(argv)

    def log(line):
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    if args.what == "train":
        figures = bench_train(args.size, peer=args.peer, threads=args.threads, seconds=args.seconds, log=log)
    else:
        figures = bench_ops(args.size, seconds=args.seconds, log=log)
    if args.json:
        print(json.dumps(figures))
    return 0
