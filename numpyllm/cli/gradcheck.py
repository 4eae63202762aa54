"""numpyllm gradcheck: is every hand-written gradient right?"""

import json
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from ..checks import CASES, check_case
from ..errors import InputError
from ..gradcheck import TOLERANCE
from ..training.replicas import physical_cores
from .arguments import Parser, at_least

METHODS = {"complex": ("complex",), "central": ("central",), "both": ("complex", "central")}


def main(argv=None):
    parser = Parser(prog="numpyllm gradcheck", description="Check every op, every layer and whole models against numerical "
                    f"gradients in float64: complex step below {TOLERANCE['complex']:g}, central difference below "
                    f"{TOLERANCE['central']:g}. Exit code 1 if one fails.")
    parser.add_argument("--op", default=None, metavar="NAME", help="only cases whose name begins with this (such as attention)")
    parser.add_argument("--method", choices=METHODS, default="complex", help="numerical method")
    parser.add_argument("--seed", type=at_least(0), default=0, help="for values and cotangents")
    parser.add_argument("--workers", type=at_least(1), default=None, metavar="N",
                        help="processes that share the cases; without it one for --op, and one a core for all")
    parser.add_argument("--json", action="store_true", help="one array of objects instead of a table")
    args = parser.parse_args(argv)
    chosen = [name for name in CASES if args.op is None or name.lower().startswith(args.op.lower())]
    if not chosen:
        known = dict.fromkeys(name.split(",")[0] for name in CASES)
        raise InputError(f"no op is called {args.op}: there are {', '.join(known)}")
    rows = []
    if not args.json:
        print(f"{'op':30} {'tensor':26} {'shape':14} {'method':8} {'error':>8}  ok")
    check = partial(check_case, methods=METHODS[args.method], seed=args.seed)
    for found in _shared_out(check, chosen, args.workers or (1 if args.op else physical_cores())):
        for row in found:
            rows.append(row)
            if not args.json:
                shape = " x ".join(map(str, row.shape))
                print(f"{row.op:30} {row.tensor:26} {shape:14} {row.method:8} {row.error:8.1e}  {'yes' if row.ok else 'NO'}")
                if not row.ok:
                    print(f"    {row.detail}")
    failed = sum(not row.ok for row in rows)
    if args.json:
        keys = ("op", "tensor", "shape", "method", "error", "ok")
        print(json.dumps([{key: getattr(row, key) for key in keys} for row in rows], indent=1))
    else:
        worst = max(rows, key=lambda row: row.error / TOLERANCE[row.method])
        print(f"{len(rows)} checks, {failed} failed; largest error {worst.error:.1e} ({worst.op}: {worst.tensor}, {worst.method})")
    return 1 if failed else 0


def _shared_out(function, arguments, workers):
    """function(argument) of each, in their order: here, or by so many processes at once."""
    if workers == 1:
        yield from map(function, arguments)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=signal.signal,
                             initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:             # Ctrl-C is for this process
        try:
            yield from pool.map(function, arguments)
        except BrokenProcessPool:
            raise InputError("a worker process died (was it killed for want of memory?): give --workers 1") from None
