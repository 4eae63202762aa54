"""Preferences on the model of finetune_instruct.py: it is to answer in about forty characters. Under two minutes on two cores, once
that model is there.

    python examples/finetune_prefer.py                      begins with out/instruct, and trains that first if it is not there
    python examples/finetune_prefer.py --reward full_stop   asks for something else (numpyllm finetune prefer --help names rewards)

What is asked for is a function of the answer, so progress can be measured, on prompts that were held out. It is learnt in two ways:

DPO         the model answers each question twice, the function says which answer is better, and that is all that is learnt from:
            pairs, no numbers
REINFORCE   the model answers, the function says how good that was, and what was better than its other answers becomes likelier

In most pairs the shorter answer is the better one. With --beta 0.1 DPO goes past the mark: docs/preferences.md.
"""

import json
import sys
import time
from pathlib import Path

from finetune_instruct import KINDS, write_instructions
from finetune_instruct import main as instruct

from numpyllm.backend import load_backend
from numpyllm.cli.arguments import Parser, at_least, guarded
from numpyllm.cli.finetune_prefer import main as prefer
from numpyllm.data import hold_out, read_records
from numpyllm.files import replacing
from numpyllm.finetuning import TEMPLATES, Form, Prompt, Rollouts, reward_function, sample_answers
from numpyllm.interop import load_model

TOKENS = 48                 # of an answer, at most
AT_ONCE = 32                # answers that are drawn side by side
SHOWN = 4                   # held-out questions whose answers are shown
SEED = 1337                 # also what numpyllm finetune splits by: the same prompts are held out everywhere
VAL_FRACTION = 0.1


def ask_twice(model, form, prompts, reward):
    """Two answers of the model to each prompt, the one with the higher reward first -> records; none where they are equally good."""
    records = []
    for first in range(0, len(prompts), AT_ONCE // 2):
        asked = [prompt for prompt in prompts[first:first + AT_ONCE // 2] for _ in range(2)]
        said = [answer.text.strip() for answer in sample_answers(model, asked, form, TOKENS, seed=f"pairs/{first}")]
        worth = reward([prompt.text for prompt in asked], said)
        for i in range(0, len(asked), 2):
            better, worse = (i, i + 1) if worth[i] > worth[i + 1] else (i + 1, i)
            if worth[better] > worth[worse] and said[better] and said[worse]:
                records.append({"prompt": asked[i].text, "chosen": said[better], "rejected": said[worse]})
    return records


def write_records(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in records)


def draw_curve(path, width=50):
    """The reward of each evaluation of a run, as bars."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    points = [(line["step"], line["val/reward"], line["val/kl"]) for line in lines if "val/reward" in line]
    low, high = (pick(reward for _, reward, _ in points) for pick in (min, max))
    print("\nREINFORCE, held-out prompts\n  step  reward      KL")
    for step, reward, kl in points:
        print(f"  {step:4}  {reward:6.3f}  {kl:6.2f}  {'#' * (1 + round((width - 1) * (reward - low) / max(high - low, 1e-9)))}")


def main(argv=None):
    parser = Parser(prog="finetune_prefer.py", description="Preferences, by DPO and by REINFORCE, measured on held-out prompts.")
    parser.add_argument("--model", default="out/instruct", metavar="DIR", help="the model of finetune_instruct.py; made if it is not there")
    parser.add_argument("--reward", default="length:40", metavar="NAME", help="what is asked for: numpyllm finetune prefer --help names them")
    parser.add_argument("--prompts", type=at_least(20), default=700, metavar="int", help="questions to ask")
    parser.add_argument("--beta", type=float, default=0.5, help="DPO: how dear it is to move away from the model that it begins with")
    parser.add_argument("--dpo_steps", type=at_least(1), default=100, metavar="int", help="steps of DPO, 8 pairs each")
    parser.add_argument("--reinforce_steps", type=at_least(1), default=100, metavar="int", help="steps of REINFORCE, 32 answers each")
    parser.add_argument("--out_dir", default="out/prefer", metavar="DIR", help="where pairs, prompts and both runs go")
    args = parser.parse_args(argv)
    reward, folder, started = reward_function(args.reward), Path(args.out_dir), time.perf_counter()
    if not Path(args.model).exists():
        if code := instruct(["--out_dir", args.model]):
            return code
        started = time.perf_counter()

    model, tokenizer = load_model(args.model, ops=load_backend())
    form = Form(TEMPLATES["plain"], tokenizer, model.config.block_size)
    write_instructions(folder / "instructions.jsonl")
    questions = [record["instruction"] for record in read_records(folder / "instructions.jsonl")
                 if record["instruction"].startswith(KINDS["what it does"])]
    prompts = [Prompt(question, form.prompt_ids(question)) for question in questions[::max(1, len(questions) // args.prompts)][:args.prompts]]
    pairs = ask_twice(model, form, prompts, reward)
    write_records(folder / "prompts.jsonl", ({"prompt": prompt.text} for prompt in prompts))
    write_records(folder / "pairs.jsonl", pairs)
    print(f"{len(pairs):,} pairs from {len(prompts):,} questions, by {args.reward}, in {time.perf_counter() - started:.0f} s, such as")
    for name, text in pairs[0].items():
        print(f"  {name:8}  {text}")

    common = ["--model", args.model, "--overwrite", "--val_fraction", str(VAL_FRACTION), "--seed", str(SEED), "--show", "0"]
    methods = {
        "DPO": ["--method", "dpo", "--data", str(folder / "pairs.jsonl"), "--max_iters", str(args.dpo_steps), "--learning_rate", "5e-5",
                "--beta", str(args.beta)],
        "REINFORCE": ["--method", "reinforce", "--data", str(folder / "prompts.jsonl"), "--reward", args.reward, "--batch_size", "32",
                      "--max_iters", str(args.reinforce_steps), "--learning_rate", "2e-4", "--kl", "0.02", "--eval_interval", "10",
                      "--max_new_tokens", str(TOKENS)]}
    for name, flags in methods.items():
        print(f"\n{name}")
        if code := prefer([*common, *flags, "--out_dir", str(folder / name.lower())]):
            return code
    draw_curve(folder / "reinforce")

    _, held_out = hold_out(prompts, VAL_FRACTION, key=lambda prompt: prompt.text, seed=SEED)
    print(f"\n{len(held_out)} held-out questions, an answer drawn to each; KL in nats an answer from the model that both began with")
    print(f"  {'':12}  {'reward':>7}  {'KL':>6}  {'tokens':>6}  {'ended':>6}")
    shown = {}
    for name in ("before", *methods):
        learnt = model if name == "before" else load_model(folder / name.lower(), ops=model.ops)[0]
        asked = Rollouts(learnt, model, held_out, reward, form, batch_size=AT_ONCE, seed=SEED, max_new_tokens=TOKENS)
        found = asked.evaluate(0.0).measured
        print(f"  {name:12}  {found.reward:7.3f}  {found.kl:6.2f}  {found.tokens:6.1f}  {found.ended:6.0%}")
        shown[name] = sample_answers(learnt, held_out[:SHOWN], form, TOKENS, seed=SEED, temperature=0.0)
    for i, prompt in enumerate(held_out[:SHOWN]):
        print(f"\n> {prompt.text}")
        for name, answers in shown.items():
            print(f"  {name:12}  {answers[i].text}")
    print(f"\n{time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
