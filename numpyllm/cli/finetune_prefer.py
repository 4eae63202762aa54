"""numpyllm finetune prefer: a model learns which of two answers is better, or what a reward asks for."""

import hashlib
import shlex
from pathlib import Path
from types import SimpleNamespace

from .. import training
from ..data import hold_out
from ..errors import InputError
from ..files import read_bytes
from ..finetuning import (BASELINES, DPO, TEMPLATES, BradleyTerry, Form, ModelReward, PairBatches, Pairs,
                          Reinforce, Rollouts, evaluate_pairs, generate_answers, read_preferences, read_prompts,
                          reference_logprobs, require_reward_model, reward_function)
from ..finetuning.rewards import NAMES
from ..models import GPTClassifier
from ..training import Trainer
from .arguments import Parser, at_least
from .finetuning import (adapted, add_finetuning_options, lora_of, observers, open_finetuning, require_gpt,
                         run_finetuning, trainable_parts)

METHODS = {
    "dpo": "direct preference optimisation: the model itself, from pairs",
    "reward": "a reward model, from pairs: a number for an answer",
    "reinforce": "the model itself, from prompts alone, by the reward of what it answers",
}
KEPT = ("method", "template", "beta", "label_smoothing", "reward", "kl", "baseline", "answers_each",
        "max_new_tokens", "show")
OF_PAIRS, OF_REWARDS = {"beta", "label_smoothing"}, {"reward", "kl", "baseline", "answers_each"}
# Options that mean nothing to a method.
FOREIGN = {"dpo": OF_REWARDS, "reward": OF_REWARDS | {"beta"}, "reinforce": OF_PAIRS}
DEFAULTS = {"learning_rate": 5e-5, "spike_zscore": 0.0}


def main(argv=None):
    parser = Parser(prog="numpyllm finetune prefer",
                    description="Make a model's answers better, by preferences or by a reward.", epilog="""examples:
  numpyllm finetune prefer --method dpo --model out/instruct --data pairs.jsonl --beta 0.1
  numpyllm finetune prefer --method reward --model out/instruct --data pairs.jsonl --out_dir out/reward
  numpyllm finetune prefer --method reinforce --model out/instruct --data prompts.jsonl --reward out/reward
  numpyllm finetune prefer --method reinforce --model out/instruct --data prompts.jsonl --reward length:40""")
    add_options(parser)
    return run(parser.parse_args(argv))


def add_options(parser, **settings):
    """All options of the task."""
    add_finetuning_options(parser, out_dir="out/prefer", defaults=DEFAULTS | settings,
                           data_help="records with the fields prompt, chosen and rejected, .jsonl, .json, .csv or "
                                     ".tsv; for reinforce with prompt alone")
    parser.add_argument("--method", choices=METHODS, default="dpo",
                        help="; ".join(f"{name}: {what}" for name, what in METHODS.items()))
    parser.add_argument("--template", choices=TEMPLATES, default=None,
                        help="how prompts and answers are written down (default: as the model learnt it, else plain)")
    parser.add_argument("--show", type=at_least(0), default=3, metavar="int",
                        help="held-out prompts that are answered at each evaluation")
    parser.add_argument("--max_new_tokens", type=at_least(1), default=32,
                        help="most tokens of an answer that is drawn, or shown")
    pairs = parser.add_argument_group("dpo and reward")
    pairs.add_argument("--beta", type=float, default=0.1,
                       help="dpo: how dear it is to move away from the model that it begins with")
    pairs.add_argument("--label_smoothing", type=float, default=0.0,
                       help="so often a preference is the wrong way round")
    rewards = parser.add_argument_group("reinforce")
    rewards.add_argument("--reward", default=None, metavar="NAME|DIR",
                         help=f"{', '.join(NAMES)}; or the folder of a reward model")
    rewards.add_argument("--kl", type=float, default=0.05,
                         help="weight of the penalty for moving away from the model that it begins with")
    rewards.add_argument("--baseline", choices=BASELINES, default=BASELINES[0], help="what a reward is compared with")
    rewards.add_argument("--answers_each", type=at_least(1), default=4, metavar="int",
                         help="answers to a prompt; batch_size counts answers")


def run(args):
    """The task with parsed options -> exit code."""
    opened = open_finetuning(args, "prefer", kept=KEPT)
    args.template = args.template or _template_of(args.model)
    opened = opened._replace(facts=opened.facts | {"template": args.template} | _facts_of_reward(args.reward, opened.state)
                             | dict.fromkeys(FOREIGN[args.method]))      # so that config.toml has what can be given alone
    trainer = make_trainer(opened, args)
    if code := run_finetuning(opened, trainer):
        return code
    folder = shlex.quote(args.out_dir)
    if args.method == "reward":
        print(f"numpyllm finetune prefer --method reinforce --reward {folder} learns to please it")
    else:
        print(f"numpyllm generate --model {folder} --template {args.template} --prompt \"...\" answers")
    return 0


def make_trainer(opened, args, log=print):
    """A Trainer for an opened task and its options. Nothing is written; InputError for data and
    options that cannot be used."""
    foreign = sorted(args.given & FOREIGN[args.method])
    if foreign:
        raise InputError(f"--method {args.method} has no {foreign[0]}, got --{foreign[0]} "
                         f"{getattr(args, foreign[0])}: leave it out")
    form = Form(TEMPLATES[args.template], opened.tokenizer, opened.model.config.block_size)
    make = _reinforce if args.method == "reinforce" else _from_pairs
    made = make(opened, args, form, log)
    prompts = made.prompts[:args.show]

    def sample(model):
        answers = generate_answers(model, form.tokenizer, [form.template.prompt(prompt) for prompt in prompts],
                                   args.max_new_tokens, stop=form.template.stop)
        return "\n\n".join(f"> {prompt}\n{answer}" for prompt, answer in zip(prompts, answers, strict=True))

    return Trainer(made.model, opened.train, made.batches, None, opened.tokenizer, run_folder=opened.run,
                   facts=opened.facts, objective=made.objective, evaluate=made.evaluate,
                   observers=observers(opened), log=log,
                   sample=sample if prompts and args.method != "reward" else None)


def _from_pairs(opened, args, form, log):
    """DPO or a reward model: what of a Trainer they have of their own."""
    config, skipped = opened.train, []
    encoded = read_preferences(args.data, form, skip_bad=args.skip_bad, skipped=skipped)
    _report(skipped, len(encoded), log)
    learnt, held_out = hold_out(encoded, args.val_fraction, key=lambda pair: pair.preference.prompt, seed=config.seed)
    train, validation = Pairs(learnt), Pairs(held_out)
    log(f"{len(learnt):,} pairs to learn from, {len(held_out):,} held out; "
        f"{config.max_iters * config.batch_size / len(learnt):.1f} epochs")
    if args.method == "dpo":
        log("log-probabilities of all answers in the model as it is")
        for pairs in (train, validation):
            pairs.others = (reference_logprobs(opened.model, pairs, config.batch_size),)
        model = adapted(opened, args)
        objective = DPO(model, beta=args.beta, label_smoothing=args.label_smoothing)
    else:
        require_gpt(opened)
        model = GPTClassifier.from_gpt(opened.model, 1, seed=config.seed, recompute=config.recompute,
                                       lora=lora_of(args),
                                       trainable=trainable_parts(args, opened.model.config.n_layer))
        objective = BradleyTerry(model, label_smoothing=args.label_smoothing)
    return SimpleNamespace(model=model, objective=objective,
                           prompts=list(dict.fromkeys(pair.preference.prompt for pair in held_out)),
                           batches=PairBatches(train, batch_size=config.batch_size, seed=config.seed,
                                               micro_batches=config.gradient_accumulation_steps),
                           evaluate=lambda: evaluate_pairs(objective, validation, config.batch_size))


def _reinforce(opened, args, form, log):
    config, skipped = opened.train, []
    if args.reward is None:
        raise InputError(f"--method reinforce needs a --reward: {', '.join(NAMES)}, or the folder of a reward model")
    reward = _reward(args.reward, opened)
    if args.max_new_tokens >= form.block_size:
        raise InputError(f"max_new_tokens must leave room for a prompt in the context of {form.block_size} "
                         f"tokens, got {args.max_new_tokens}")
    prompts = read_prompts(args.data, form, form.block_size - args.max_new_tokens, skip_bad=args.skip_bad,
                           skipped=skipped)
    _report(skipped, len(prompts), log)
    learnt, held_out = hold_out(prompts, args.val_fraction, key=lambda prompt: prompt.text, seed=config.seed)
    log(f"{len(learnt):,} prompts to ask, {len(held_out):,} held out; {config.batch_size} answers a batch")
    reference = opened.model.astype(opened.model.parameters.dtype)      # a copy, apart from what is trained
    model = adapted(opened, args)
    objective = Reinforce(model, kl=args.kl)
    rollouts = lambda some, each: Rollouts(model, reference, some, reward, form, batch_size=config.batch_size,
                                           seed=config.seed, answers_each=each, baseline=args.baseline,
                                           max_new_tokens=args.max_new_tokens,
                                           micro_batches=config.gradient_accumulation_steps)
    batches = rollouts(learnt, args.answers_each)
    asked = rollouts(held_out[:config.eval_iters * config.batch_size], args.answers_each)
    return SimpleNamespace(model=model, objective=objective, prompts=[prompt.text for prompt in held_out],
                           batches=batches, evaluate=lambda: asked.evaluate(args.kl))


def _reward(name, opened):
    """A reward function, or the reward model in a folder."""
    if not Path(name).is_dir():
        return reward_function(name)
    model, tokenizer, state = training.load_model(name, ops=opened.ops)
    require_reward_model(model, f"{name}, the reward,")
    template = state["facts"].get("template")
    template = TEMPLATES[template if template in TEMPLATES else "plain"]
    return ModelReward(model, Form(template, tokenizer, model.config.block_size))


def _facts_of_reward(name, state):
    """Which reward model a run is judged by. InputError if a run that goes on would be judged by another."""
    if not name or not Path(name).is_dir():
        return {}
    sha256 = hashlib.sha256(read_bytes(training.newest_checkpoint(name) / "manifest.json")).hexdigest()
    if state is not None and state["facts"].get("reward_sha256") != sha256:
        raise InputError(f"{name} is no longer the reward model that the run began with: put that back, or train "
                         "into another --out_dir")
    return {"reward": str(Path(name).resolve()), "reward_sha256": sha256}


def _template_of(folder):
    """The template that a run of finetune has on record; "plain" for other models."""
    try:
        _, state, _ = training.load_checkpoint(training.newest_checkpoint(folder))
        template = state["facts"].get("template")
    except InputError:
        template = None                         # a model in another layout
    return template if template in TEMPLATES else "plain"


def _report(skipped, n, log):
    if skipped:
        log(f"skipped {len(skipped)} of {len(skipped) + n} records, the first: {skipped[0]}")
