"""numpyllm generate: continue a text with a trained model."""

from ..errors import InputError
from ..inference import generate_text
from ..inference.sampling import check_sampling
from ..interop import load_model
from .arguments import Parser, at_least


def main(argv=None):
    parser = Parser(prog="numpyllm generate", description="Continue a text with a trained model.")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a run, of one checkpoint, or of a GPT-2 in Hugging Face's layout")
    parser.add_argument("--prompt", default="\n", help="text to continue")
    parser.add_argument("--max_new_tokens", type=at_least(0), default=200, help="most tokens to add")
    parser.add_argument("--num_samples", type=at_least(1), default=1, help="how many continuations")
    parser.add_argument("--temperature", type=float, default=0.8, help="above 1 more varied, below 1 safer; 0: always the likeliest token")
    parser.add_argument("--top_k", type=int, default=None, help="choose among this many likeliest tokens")
    parser.add_argument("--top_p", type=float, default=None, help="choose among the likeliest tokens that hold this much probability")
    parser.add_argument("--seed", type=at_least(0), default=0, help="same seed, same text")
    args = parser.parse_args(argv)
    check_sampling(args.temperature, args.top_k, args.top_p)
    model, tokenizer = load_model(args.model, dropout=0.0)
    if tokenizer is None:
        raise InputError(f"{args.model} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt): put the model's there")
    for i in range(args.num_samples):
        if i:
            print("-" * 40)
        print(args.prompt + generate_text(model, tokenizer, args.prompt, args.max_new_tokens, temperature=args.temperature,
                                          top_k=args.top_k, top_p=args.top_p, seed=args.seed + i))
    return 0
