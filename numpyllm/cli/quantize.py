"""numpyllm quantize: a model with its weights in fewer bytes, and what that does to its predictions."""

from pathlib import Path

from ..backend import load_backend
from ..data import consecutive, load_text, split_by_position
from ..errors import InputError
from ..inference import KINDS
from ..interop import load_decodable, load_model, save_quantized
from ..training import evaluate, load_checkpoint
from .arguments import Parser, at_least

BATCH = 4


def main(argv=None):
    parser = Parser(prog="numpyllm quantize", description="Store a model's matrices in fewer bytes, for numpyllm generate and serve, "
                                                          "and measure on a text what the rounding costs.")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a run, of one checkpoint, or in Hugging Face's layout")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--weights", choices=[kind for kind in KINDS if kind != "float32"], default="int8", help="how to store them")
    parser.add_argument("--data", default=None, metavar="PATH",
                        help="text whose last tenth is predicted (default: the embedded corpus); a text that the model has not learned by heart")
    parser.add_argument("--eval_tokens", type=at_least(0), default=20_000, help="most tokens to predict; 0: do not measure")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder, if this command wrote it")
    args = parser.parse_args(argv)
    out = Path(args.out)
    if out.exists() and not (args.overwrite and _is_quantized(out)):
        raise InputError(f"{out} exists" + (" and is not by numpyllm quantize: give another --out" if args.overwrite else
                                            ": give another --out, or --overwrite to replace weights that were stored there"))
    ops = load_backend()
    model, tokenizer = load_model(args.model, ops=ops, dropout=0.0)
    batches = _batches(args, model, tokenizer) if args.eval_tokens else []
    rounded, stored, _ = load_decodable(args.model, weights=args.weights, ops=ops)
    before = sum(rows.size for rows in stored.rows.values()) * model.parameters.dtype.itemsize
    if batches:
        stored.write_into(rounded)
        for name, measured in (("float32", model), (args.weights, rounded)):
            found = evaluate(measured, batches, tokenizer.token_byte_lengths)
            print(f"{name:9} perplexity {found.perplexity:.4f}, {found.bits_per_byte:.5f} bits a byte, {found.tokens:,} tokens")
    save_quantized(out, model, stored, tokenizer)
    print(f"{out}: matrices in {stored.nbytes() / 1e6:,.1f} MB instead of {before / 1e6:,.1f}")
    return 0


def _is_quantized(folder):
    """Whether this folder holds rounded weights, and not those that somebody has trained."""
    try:
        return "weights" in load_checkpoint(folder)[1]
    except InputError:
        return False


def _batches(args, model, tokenizer):
    """Windows of held-out text, one after another."""
    _, text = split_by_position(load_text(args.data))
    ids = tokenizer.encode_to_numpy(text, disallowed_special=())[:args.eval_tokens + 1]
    if len(ids) < 2:
        raise InputError(f"the text to predict, a tenth of {args.data}, must have at least 2 tokens, got {len(ids)}: give a longer one, or "
                         "--eval_tokens 0 to measure nothing")
    block_size = min(model.config.block_size, len(ids) - 1)
    return list(consecutive(ids, batch_size=BATCH, block_size=block_size))
