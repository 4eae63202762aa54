"""numpyllm finetune instruct: teach a model to answer, from examples of instructions and answers."""

import shlex

from ..data import hold_out
from ..errors import InputError
from ..finetuning import TEMPLATES, ExampleBatches, generate_answers, in_order, read_instructions, spread
from ..models import architecture_of
from ..training import Trainer, evaluate
from .arguments import Parser, at_least
from .finetuning import adapted, add_finetuning_options, observers, open_finetuning, run_finetuning

KEPT = ("template", "packing", "truncate", "show", "answer_tokens")
DATA = ("examples, .json, .jsonl, .csv or .tsv: records with instruction, output and perhaps input, as Alpaca's; "
        "or with messages, a list of role (system, user, assistant) and content")


def main(argv=None):
    parser = Parser(prog="numpyllm finetune instruct",
                    description="Teach a model to answer instructions. The loss counts answers alone.",
                    epilog="""examples:
  numpyllm finetune instruct --model out/small --data instructions.json --max_iters 300
  numpyllm finetune instruct --model gpt2 --data chats.jsonl --template chat --lora_rank 8
  numpyllm generate --model out/instruct --template plain --prompt "What is a generator?" --temperature 0""")
    add_options(parser)
    return run(parser.parse_args(argv))


def add_options(parser, *, out_dir="out/instruct", defaults=None):
    """All options of the task; `defaults` of TrainConfig go before the usual ones."""
    add_finetuning_options(parser, data_help=DATA, out_dir=out_dir, defaults=defaults)
    parser.add_argument("--template", choices=TEMPLATES, default="plain",
                        help="how instructions are written down for the model")
    parser.add_switch("--packing", default=True,
                      help="fill rows with several examples, none of which sees another; if not, with padding")
    parser.add_switch("--truncate", help="cut off what is longer than the context, rather than call it bad")
    parser.add_argument("--show", type=at_least(0), default=3, metavar="int",
                        help="held-out questions that are answered at each evaluation")
    parser.add_argument("--answer_tokens", type=at_least(1), default=64, metavar="int",
                        help="most tokens of such an answer")


def run(args):
    """Train as parsed options say -> exit code."""
    opened = open_finetuning(args, "instruct", kept=KEPT)
    trainer = make_trainer(opened, args)
    if code := run_finetuning(opened, trainer):
        return code
    losses = [line["val/loss"] for line in opened.run.read_metrics() if "val/loss" in line]
    print(f"held-out loss {losses[0]:.4f} before, {losses[-1]:.4f} after, lowest after step {trainer.best[1]}: "
          f"{trainer.best[0]:.4f}")
    print(f"numpyllm generate --model {shlex.quote(args.out_dir)} --template {args.template} --temperature 0 "
          "--prompt \"...\" answers")
    return 0


def make_trainer(opened, args, log=print):
    """A Trainer for an opened task and its options. Nothing is written; InputError for
    examples that cannot be used."""
    if args.packing and architecture_of(opened.model) != "gpt":
        raise InputError(f"{opened.facts['model']} is of an architecture that reads one example a row: give "
                         "--no_packing")
    template, tokenizer, config = TEMPLATES[args.template], opened.tokenizer, opened.train
    block_size, skipped = opened.model.config.block_size, []
    examples = read_instructions(args.data, template, tokenizer, block_size, truncate=args.truncate,
                                 skip_bad=args.skip_bad, skipped=skipped)
    if skipped:
        log(f"skipped {len(skipped)} of {len(skipped) + len(examples)} examples, the first: {skipped[0]}")
    learnt, held_out = hold_out(examples, args.val_fraction, key=lambda conversation: conversation.question,
                                seed=config.seed)
    sizes = {"batch_size": config.batch_size, "block_size": block_size, "pack": args.packing}
    batches = ExampleBatches(learnt, seed=config.seed, micro_batches=config.gradient_accumulation_steps, **sizes)
    validation = in_order(held_out, **sizes)
    log(f"{len(learnt):,} examples in {batches.n_rows:,} rows, {_answer_tokens(learnt):,} tokens of answers; "
        f"{len(held_out):,} held out; {batches.epoch(config.max_iters):.1f} epochs")
    shown = spread(held_out, args.show)

    def sample(model):
        prompts = [example.turns[0].prompt for example in shown]
        answers = generate_answers(model, tokenizer, prompts, args.answer_tokens, stop=template.stop)
        return "\n\n".join(f"> {example.question}\n{answer}" for example, answer in zip(shown, answers, strict=True))

    model = adapted(opened, args)
    return Trainer(model, config, batches, None, tokenizer, run_folder=opened.run, facts=opened.facts,
                   evaluate=lambda: evaluate(model, validation, tokenizer.token_byte_lengths),
                   sample=sample if shown else None, observers=observers(opened), log=log)


def _answer_tokens(examples):
    return sum(int((example.targets != -1).sum()) for example in examples)
