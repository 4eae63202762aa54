"""numpyllm eval: how well a trained model predicts a text, and which answers it holds likely."""

import difflib
import json
import sys
from pathlib import Path

from ..backend import BACKENDS, load_backend
from ..data import load_text
from ..errors import InputError
from ..evaluation import (TASKS, answer_questions, check_windows, checker, count_words, default_window, for_json, number, perplexity,
                          read_questions, read_task, summarise, table)
from ..extras import load_extra
from ..files import replacing, write_json
from ..inference import KINDS
from ..interop import load_decodable
from ..progress import Progress
from .arguments import Parser, at_least


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: numpyllm eval COMMAND [options]\n\n"
              + "\n".join(f"  {name:12}{what}" for name, (_, what) in COMMANDS.items())
              + "\n\nnumpyllm eval COMMAND --help tells the options of a command.")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        raise InputError(f"{argv[0]} is no command: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"))
    return COMMANDS[argv[0]][0](argv[1:])


def perplexity_command(argv):
    parser = _parser("perplexity", "Perplexity a token and a word, and bits a byte, of a text: in windows that overlap, each token but the "
                     "first predicted once.", """
  numpyllm eval perplexity --model out/run --data wiki.valid.tokens
  numpyllm eval perplexity --model gpt2 --data wiki.test.raw --stride 512 --json gpt2.json""")
    parser.add_argument("--data", required=True, metavar="PATH", help="text file, or a folder of them; read as it comes")
    parser.add_argument("--window", type=at_least(2), default=None, help="tokens read at once (default: block_size)")
    parser.add_argument("--stride", type=at_least(1), default=None, help="tokens by which windows move on (default: half a window)")
    parser.add_argument("--max_tokens", type=at_least(2), default=None, help="the first so many tokens of the text (default: all)")
    parser.add_switch("--count_line_ends", help="the end of a line counts as a word, as for WikiText's authors")
    _add_common(parser, batch_size=4, what="windows")
    args = parser.parse_args(argv)
    model, tokenizer = _load(args)
    window, stride = _windows(args, model)
    text = load_text(args.data)
    ids = tokenizer.encode_to_numpy(text, disallowed_special=())
    if args.max_tokens is not None and args.max_tokens < len(ids):
        ids = ids[:args.max_tokens]
        text = tokenizer.decode(ids)
    if len(ids) < 2:
        raise InputError(f"{args.data}: must have at least 2 tokens, it has {len(ids)}: the first is not predicted")
    with Progress("predicting") as progress:
        found = perplexity(model, ids, tokenizer.token_byte_lengths, words=count_words(text, line_ends=args.count_line_ends),
                           window=window, stride=stride, batch_size=args.batch_size, progress=progress)
    low, high = found.interval(seed=args.seed, resamples=args.resamples)
    print(f"token perplexity {number(found.token_perplexity)}   95 % of resampled windows {number(low)} to {number(high)}\n"
          f"word perplexity  {number(found.word_perplexity)}   {found.words:,} words" + (", ends of lines too" * args.count_line_ends) + "\n"
          f"bits per byte    {number(found.bits_per_byte)}   {found.bytes:,} bytes\n"
          f"loss             {number(found.loss)}   nats a token, {found.tokens:,} tokens in {len(found.windows):,} windows of {window}, "
          f"stride {stride}")
    _write(args, {"model": args.model, "data": args.data, "window": window, "stride": stride, "tokens": found.tokens,
                  "words": found.words, "line_ends_are_words": args.count_line_ends, "bytes": found.bytes, "nats": found.nats,
                  "loss": found.loss, "token_perplexity": {"value": found.token_perplexity, "low": low, "high": high},
                  "word_perplexity": found.word_perplexity, "bits_per_byte": found.bits_per_byte, "seed": args.seed,
                  "resamples": args.resamples})
    return 0


def choice(argv):
    parser = _parser("choice", "Multiple choice: the right answer is the likeliest continuation of the question, as it is or for its length.",
                     """
  numpyllm eval choice --model out/run --data questions.jsonl
  numpyllm eval choice --model gpt2 --data test.jsonl --train train.jsonl --shots 5 --json result.json

a line of a file:
  {"question": "A whale is a", "choices": ["mammal", "fish"], "answer": 0}""")
    parser.add_argument("--data", required=True, metavar="FILE", help="questions, .jsonl or .json: question, choices, answer (a number from "
                        "0, or the choice)")
    _add_questions(parser)
    args = parser.parse_args(argv)
    return _ask(args, read_questions)


def task(argv):
    parser = _parser("task", "A task of GLUE or SuperGLUE, asked as multiple choice. The files are those of its training or validation "
                     "part, as they are published; the test parts have no labels.", """
  numpyllm eval task cola --model out/run --data CoLA/dev.tsv
  numpyllm eval task boolq --model gpt2 --data BoolQ/val.jsonl --train BoolQ/train.jsonl --shots 2""")
    parser.add_argument("task", choices=TASKS, help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--data", required=True, metavar="FILE", help="the task's file: .tsv for GLUE, .jsonl for SuperGLUE")
    _add_questions(parser)
    args = parser.parse_args(argv)

    def read(path, **options):
        return read_task(args.task, path, **options)
    return _ask(args, read, TASKS[args.task].metrics, TASKS[args.task].scale)


def harness(argv):
    parser = _parser("harness", "Tasks of EleutherAI's lm-evaluation-harness (pip install 'numpyllm[eval]'), or of yours in its format. Its "
                     "own fetch their data from the network.", """
  numpyllm eval harness --model gpt2 --tasks hellaswag,arc_easy --shots 5
  numpyllm eval harness --model out/run --tasks mine --include_path tasks/ --json result.json""")
    parser.add_argument("--tasks", required=True, metavar="A,B", help="names of tasks")
    parser.add_argument("--include_path", default=None, metavar="DIR", help="folder with tasks of yours (.yaml)")
    parser.add_argument("--shots", type=at_least(0), default=None, help="answered examples before each question (default: as the task says)")
    parser.add_argument("--max_questions", type=at_least(1), default=None, help="the first so many of each task (default: all)")
    _add_common(parser, batch_size=8, what="texts")
    args = parser.parse_args(argv)
    lm_eval, tasks = load_extra("lm_eval", "eval"), load_extra("lm_eval.tasks", "eval")
    manager, names = tasks.TaskManager(include_path=args.include_path), args.tasks.split(",")
    for name in names:
        if not manager.match_tasks([name]):
            raise InputError(f"the harness has no task {name!r}: lm_eval ls tasks lists them, --include_path names a folder of yours")
    from ..evaluation.harness import HarnessLM      # needs the extra
    model, tokenizer = _load(args)
    found = lm_eval.simple_evaluate(model=HarnessLM(model, tokenizer, batch_size=args.batch_size, seed=args.seed), tasks=names,
                                    num_fewshot=args.shots, limit=args.max_questions, task_manager=manager, random_seed=args.seed,
                                    fewshot_random_seed=args.seed, bootstrap_iters=args.resamples, log_samples=False)
    print(load_extra("lm_eval.utils", "eval").make_table(found))
    _write(args, {"model": args.model, "seed": args.seed, "results": found["results"], "n-shot": found["n-shot"]})
    return 0


def _add_questions(parser):
    parser.add_argument("--train", default=None, metavar="FILE", help="examples for --shots, a file like that of --data")
    parser.add_argument("--shots", type=at_least(0), default=0, help="answered examples before each question")
    parser.add_argument("--max_questions", type=at_least(1), default=None, help="the first so many (default: all)")
    parser.add_argument("--skip_bad", action="store_true", help="leave out what cannot be used, and count it")
    parser.add_argument("--predictions", default=None, metavar="FILE", help="write a line of JSON for each question")
    _add_common(parser, batch_size=8, what="texts")


def _ask(args, read, metrics=None, scale=False):
    if args.shots and args.train is None:
        raise InputError(f"--shots {args.shots} needs examples: name a file of them with --train")
    model, tokenizer = _load(args)
    skipped, check = [], checker(model, tokenizer)
    questions = read(args.data, check=check, skip_bad=args.skip_bad, skipped=skipped)[:args.max_questions]
    pool = read(args.train, skip_bad=args.skip_bad, skipped=skipped) if args.shots else ()
    for message in skipped[:3]:
        print(f"numpyllm: note: left out: {message}", file=sys.stderr)
    with Progress("answering") as progress:
        answered, n_cut = answer_questions(model, tokenizer, questions, shots=args.shots, pool=pool, seed=args.seed,
                                           batch_size=args.batch_size, progress=progress)
    if n_cut:
        print(f"numpyllm: note: {n_cut:,} texts are longer than the model's context of {model.config.block_size} tokens: they were cut at "
              "their left", file=sys.stderr)
    summary = summarise(answered, metrics, scale=scale, seed=args.seed, resamples=args.resamples)
    left_out = f", {len(skipped):,} records left out" if skipped else ""
    print(f"{args.data}: {len(answered):,} questions, {args.shots} examples before each{left_out}")
    print(table(summary))
    _write(args, {"model": args.model, "data": args.data, "train": args.train, "shots": args.shots, "seed": args.seed,
                  "questions": len(answered), "left_out": len(skipped), "cut": n_cut, "resamples": args.resamples, "metrics": summary})
    if args.predictions is not None:
        with replacing(args.predictions) as file:
            for one in answered:
                file.write(json.dumps({"question": one.question.context, "choices": one.question.choices, "answer": one.question.answer,
                                       "logprobs": one.logprobs.tolist(), "raw": one.raw, "by_bytes": one.by_bytes},
                                      ensure_ascii=False).encode("utf-8") + b"\n")
    return 0


def _windows(args, model):
    window, _ = default_window(model)
    window = window if args.window is None else args.window
    stride = window // 2 if args.stride is None else args.stride
    check_windows(model, window, stride)
    return window, stride


def _parser(command, description, examples):
    return Parser(prog=f"numpyllm eval {command}", description=description, epilog="examples:" + examples)


def _add_common(parser, *, batch_size, what):
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a run, of one checkpoint, of numpyllm quantize, or of a GPT-2 "
                        "or Llama in Hugging Face's layout; or a .bin of llama2.c")
    parser.add_argument("--weights", choices=KINDS, default=None, help="round the weights to this first (default: as in the folder)")
    parser.add_argument("--backend", choices=BACKENDS, default="numba", help="compiled kernels, or plain NumPy")
    parser.add_argument("--batch_size", type=at_least(1), default=batch_size, help=f"{what} side by side: memory for speed")
    parser.add_argument("--seed", type=at_least(0), default=0, help="for the intervals, and which examples come before a question")
    parser.add_argument("--resamples", type=at_least(1), default=1000, help="of the bootstrap, for the intervals")
    parser.add_argument("--json", default=None, metavar="FILE", help="write the result there, too")


def _load(args):
    """-> model, tokenizer. InputError, before anything is computed, where a result could not be written."""
    taken = {Path(path).resolve() for path in (getattr(args, "data", None), getattr(args, "train", None)) if path is not None}
    for path in (args.json, getattr(args, "predictions", None)):
        if path is None:
            continue
        whole = Path(path).resolve()
        if whole in taken:
            raise InputError(f"{path}: a result must be written to a file of its own, this one is read or written already: name another")
        if not whole.parent.is_dir():
            raise InputError(f"{path}: cannot be written: there is no folder {whole.parent}")
        if whole.exists() and not whole.is_file():
            raise InputError(f"{path}: cannot be written: {whole} is no file")
        taken.add(whole)
    model, stored, tokenizer = load_decodable(args.model, weights=args.weights, ops=load_backend(args.backend))
    if stored.kind != "float32":
        stored.write_into(model)
    return model, tokenizer


def _write(args, result):
    if args.json is not None:
        write_json(args.json, for_json(result))


COMMANDS = {
    "perplexity": (perplexity_command, "of a text, a token and a word; bits a byte"),
    "choice": (choice, "questions with several answers, from a file"),
    "harness": (harness, "tasks of EleutherAI's lm-evaluation-harness"),
    "task": (task, f"of GLUE or SuperGLUE: {', '.join(TASKS)}"),
}
