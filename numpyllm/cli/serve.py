"""numpyllm serve: a trained model over HTTP."""

import sys
import threading
import time
from pathlib import Path

from ..inference import Engine
from ..serve import Limits, Server, Service
from ..training.interrupt import finish_step_on_interrupt
from .arguments import Parser, at_least
from .generate import add_decoding_options, load

LAST_WORDS = 2.0            # seconds for the last answers to be sent


def main(argv=None):
    parser = Parser(prog="numpyllm serve", description="Answer over HTTP as OpenAI's completions do (/v1/completions, /v1/models), with a "
                    "page to try it at /. Ctrl-C finishes what was begun.")
    add_decoding_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; others than this machine's own let others in")
    parser.add_argument("--port", type=at_least(0), default=8000, help="port to listen at; 0 takes a free one")
    parser.add_argument("--name", default=None, help="name of the model for clients (default: that of the folder)")
    parser.add_argument("--batch", type=at_least(1), default=8, help="texts that are continued side by side")
    parser.add_argument("--queue", type=at_least(0), default=64, help="texts that may wait; requests beyond are answered with 503")
    parser.add_argument("--max_tokens", type=at_least(0), default=2048, help="most tokens that a request may ask for")
    parser.add_argument("--max_body", type=at_least(1), default=Limits.body, help="most bytes of a request's body")
    parser.add_argument("--connections", type=at_least(1), default=Limits.connections, help="most connections at once; others wait")
    parser.add_argument("--timeout", type=at_least(1), default=int(Limits.seconds), help="seconds for a client to send a request, or "
                        "to take in a piece of the answer")
    parser.add_argument("--grace", type=at_least(0), default=10, help="seconds to finish what was begun when the server is to stop")
    parser.add_switch("--log", help="print a line for each request")
    args = parser.parse_args(argv)
    decoder, tokenizer = load(args, sequences=args.batch)
    with decoder:
        name = args.name or Path(args.model).resolve().name or "numpyllm"
        engine = Engine(decoder, line=args.queue)
        service = Service(name, engine, tokenizer, decoder.model.config, max_tokens=args.max_tokens)
        try:
            server = Server((args.host, args.port), service, Limits(args.max_body, args.connections, args.timeout), log=args.log)
            return _serve(server, engine, args.grace)
        finally:
            engine.close()


def _serve(server, engine, grace):
    """Until a signal -> exit code."""
    host = f"[{server.server_name}]" if ":" in server.server_name else server.server_name
    if not server.loopback:
        print(f"numpyllm: note: listening beyond this machine, at {host}: whoever reaches it can use it, there is no password",
              file=sys.stderr)
    with finish_step_on_interrupt(f"finishing what was begun, for at most {grace} s (again: stop at once)") as interruption:
        threading.Thread(target=server.serve_forever, args=(0.1,), name="accept", daemon=True).start()
        print(f"{server.service.name} at http://{host}:{server.server_port}/ (Ctrl-C stops)", flush=True)
        while interruption.number is None and engine.alive():
            time.sleep(0.1)
        server.stop()
        engine.close(grace)
        server.wait(LAST_WORDS)
    return 1 if interruption.number is None else 128 + interruption.number
