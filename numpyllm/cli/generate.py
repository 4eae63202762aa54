"""numpyllm generate: continue a text with a trained model."""

import sys
import time

from ..backend import BACKENDS, load_backend
from ..errors import InputError
from ..finetuning.templates import TEMPLATES, Ending, ending
from ..inference import KINDS, Continuation, Sampling, beam_search, make_decoder, stream
from ..interop import load_decodable
from .arguments import Parser, at_least


def add_decoding_options(parser):
    """Which model decodes, and how."""
    parser.add_argument("--model", required=True, metavar="DIR", 
                        help="folder of a run, of one checkpoint, of numpyllm quantize, or of a GPT-2 or Llama in Hugging Face's layout; "
                        "or a .bin of llama2.c, its tokenizer.bin beside it")
    parser.add_argument("--weights", choices=KINDS, default=None, help="how weights are stored while decoding (default: as in the folder)")
    parser.add_argument("--threads", type=at_least(1), default=None, help="threads (default: one for a small model, else all cores)")
    parser.add_argument("--backend", choices=BACKENDS, default="numba", help="compiled kernels, or plain NumPy")


def load(args, *, sequences=1):
    """-> Decoder of so many sequences, to be closed, and tokenizer, for these options."""
    model, stored, tokenizer = load_decodable(args.model, weights=args.weights, ops=load_backend(args.backend))
    return make_decoder(model, sequences=sequences, weights=stored, threads=args.threads), tokenizer


def main(argv=None):
    parser = Parser(prog="numpyllm generate", description="Continue a text with a trained model. The text comes as it is written.")
    add_decoding_options(parser)
    parser.add_argument("--prompt", default="\n", help="text to continue; - reads it from standard input")
    parser.add_argument("--template", choices=TEMPLATES, default=None,
                        help="the prompt is an instruction: write it down as numpyllm finetune instruct did, and end with the answer")
    parser.add_argument("--interactive", action="store_true", help="ask for one prompt after another, until end of file (Ctrl-D)")
    parser.add_argument("--max_new_tokens", type=at_least(0), default=200, help="most tokens to add")
    parser.add_argument("--num_samples", type=at_least(1), default=1, help="how many continuations")
    parser.add_argument("--temperature", type=float, default=0.8, help="above 1 more varied, below 1 safer; 0: always the likeliest token")
    parser.add_argument("--top_k", type=int, default=None, help="choose among this many likeliest tokens")
    parser.add_argument("--top_p", type=float, default=None, help="choose among the likeliest tokens that hold this much probability")
    parser.add_argument("--min_p", type=float, default=None, help="choose among tokens at least this many times as likely as the likeliest")
    parser.add_argument("--repetition_penalty", type=float, default=1.0, help="above 1: what was said is less likely to be said again")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times")
    parser.add_argument("--beams", type=at_least(1), default=None, help="search for the likeliest text with so many beams, draw nothing")
    parser.add_argument("--lookup", type=at_least(0), default=0,
                        help="guess so many tokens from what followed earlier: the same text, sooner where it repeats itself")
    parser.add_argument("--seed", type=at_least(0), default=0, help="same seed, same text")
    args = parser.parse_args(argv)
    settings = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    sampling = Sampling(**settings)
    if args.beams and (args.stop or args.lookup or args.num_samples > 1 or set(settings) & args.given):
        raise InputError("--beams searches for one text and draws nothing: leave out sampling options, --stop, --lookup and --num_samples")
    if args.interactive and "prompt" in args.given:
        raise InputError("--interactive asks for prompts: leave out --prompt")
    decoder, tokenizer = load(args, sequences=2 * args.beams if args.beams else 1)
    with decoder:
        if not args.interactive:
            _answer(decoder, tokenizer, _standard_input(sys.stdin.read) if args.prompt == "-" else args.prompt, sampling, args)
        else:
            for prompt in _prompts():
                try:
                    _answer(decoder, tokenizer, prompt, sampling, args)
                except InputError as error:         # of this prompt; the next may be better
                    print(f"numpyllm: error: {error}", file=sys.stderr)
    return 0


def _answer(decoder, tokenizer, prompt, sampling, args):
    """Print what continues one prompt, or answers it."""
    said, asked, end = prompt, prompt, Ending([], tokenizer.eot_token, ())
    if args.template:
        if not prompt.strip():
            raise InputError("--template needs an instruction to write down, the prompt is empty: give a --prompt")
        template = TEMPLATES[args.template]
        said, asked, end = f"{prompt.strip()}\n", template.prompt(prompt.strip()), ending(tokenizer, template.stop)
    ids = tokenizer.encode(asked, allowed_special="all")
    said = "" if args.interactive else said
    if args.beams:
        if end.stops:
            raise InputError(f"--beams ends a text at a token, and this tokenizer has none for the end of an answer, which is {end.stops[0]!r}: "
                             "leave out --beams or --template")
        best = beam_search(decoder, ids, args.max_new_tokens, beams=args.beams, stop_token=end.token, n_vocab=tokenizer.n_vocab)[0]
        print(said + tokenizer.decode(best.tokens))
        return
    print(said, end="", flush=True)
    for i in range(args.num_samples):
        if i:
            print(f"{'-' * 40}\n{said}", end="")
        _write(decoder, tokenizer, Continuation(ids, args.max_new_tokens, sampling=sampling, seed=args.seed + i, stop_token=end.token,
                                                n_vocab=tokenizer.n_vocab), (*args.stop, *end.stops), args)


def _write(decoder, tokenizer, text, stops, args):
    """Print a continuation as it comes, and on a terminal how quickly it came."""
    started = time.perf_counter()
    for piece in stream(decoder, tokenizer, text, stops=stops, lookup=args.lookup):
        print(piece, end="", flush=True)
    print()
    if text.tokens and sys.stderr.isatty():
        seconds = time.perf_counter() - started
        guesses = f"; {text.right} of {text.guessed} guesses came true" if args.lookup else ""
        print(f"numpyllm: {len(text.tokens)} tokens after {len(text.prompt)}, {len(text.tokens) / seconds:,.0f} a "
              f"second{guesses}", file=sys.stderr)


def _prompts():
    """One line of standard input after another, without its end; an empty line is a prompt of a newline."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = _standard_input(sys.stdin.readline)
        if not line:
            return
        yield line.rstrip("\r\n") or "\n"


def _standard_input(read):
    try:
        return read()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input must be UTF-8 text, got {error.object[error.start:error.start + 1]!r}") from None
