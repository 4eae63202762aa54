"""Texts to a folder of token shards, by several processes, in bounded memory; what is done stays done.

    data.json                       what there is in all (see `folder.py`), written last: a folder without it is unfinished
    tokenizer.json                  what the ids mean
    train_00000.bin val_00000.bin   shards (numpyllm.shards), each with its header beside it
    plan.json                       until data.json is there: what is being prepared, so that it can be gone on with

The sources are cut into parts of about shard_bytes, and each part becomes one shard to train on and one to validate on: the
cutting depends on the sources alone, so neither the number of processes nor an interrupt changes a byte. In a shard each
document is followed by the end-of-text token. Which documents are for validation is decided by hashes of their text.
"""

import hashlib
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from ..files import read_json, write_json
from ..shards import ShardWriter, open_shard
from ..tokenizer.base import END_OF_TEXT
from ..tokenizer.bpe import TWIN_FROM
from ..tokenizer.encode_file import encode_blocks
from .documents import BLOCK, Reading, decoded, documents, pieces
from .workers import Workers, call_in_process

try:
    import fcntl
except ImportError:         # Windows: two processes in one folder go unnoticed there
    fcntl = None

FORMAT, VERSION = "numpyllm data", 1
DATA, PLAN, TOKENIZER = "data.json", "plan.json", "tokenizer.json"
SHARD = "{}_{:05}.bin"
OURS = re.compile(r"\.?(data\.json|plan\.json|tokenizer\.json|(train|val)_\d{5,}\.bin(\.json)?)(\.[0-9a-f]{8}\.tmp)?")
SPLITS = "train", "val"
HASHED = 1 << 16            # bytes at the beginning of a document that decide where it goes


def prepare(sources, tokenizer, out, *, reading=Reading(), val_fraction=0.01, seed=1337, shard_bytes=64_000_000, workers=1,
            resume=False, overwrite=False, progress=None):
    """Turn sources into a folder of token shards -> what its data.json holds.

    sources         see documents.pieces
    tokenizer       must have <|endoftext|>; whatever a document spells, no other place gets that token
    reading         how the sources are read
    val_fraction    about this part of the documents is for validation, chosen by `is_validation`; 0: there is none
    shard_bytes     of text (as it stands in the sources) that make one shard; a source of one document is never cut
    workers         processes; 1: this one. More are started afresh and import the main module, which must bear that
    resume          go on with what was begun in `out`, from the same sources in the same way
    overwrite       remove what was prepared there before
    progress        called as progress(bytes done, bytes in all)

    On an interrupt, finished shards stay. InputError for bad input, and where validation or training got no document.
    """
    if tokenizer.eot_token is None:
        raise InputError(f"the tokenizer must have {END_OF_TEXT}, which goes between documents, it has "
                         f"{sorted(tokenizer.special_tokens)}: train one with it")
    if not 0 <= val_fraction < 1:
        raise InputError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    if not sources:
        raise InputError("a source must be named, got none")
    if shard_bytes < 1 or workers < 1:
        raise InputError(f"shard_bytes and workers must be at least 1, got {shard_bytes} and {workers}")
    if reading.separator == "":
        raise InputError("a separator must be some text, got an empty one")
    found = [list(pieces(source, reading, shard_bytes)) for source in sources]
    parts = list(_parts((piece for each in found for piece in each), shard_bytes))
    how = {"dtype": tokenizer.dtype.name, "n_vocab": tokenizer.n_vocab, "tokenizer": tokenizer.sha256,
           "end_of_text": tokenizer.eot_token, "seed": seed, "val_fraction": val_fraction, **reading._asdict(),
           "shard_bytes": shard_bytes,
           "sources": [{"source": str(source), "files": len({piece.path for piece in each}), "bytes": sum(p.size for p in each)}
                       for source, each in zip(sources, found)]}
    plan = how | {"files": _fingerprint(parts)}
    out = Path(out)
    with _locked(out):
        if _begin(out, plan, tokenizer, resume, overwrite):
            return read_json(out / DATA)
        _encode(parts, out, plan, tokenizer, reading, workers, progress)
        return _finish(out, how, len(parts))


def is_validation(beginning, seed, fraction):
    """Whether a document is for validation: a function of the seed and its first HASHED bytes.

    So it does not matter where the document comes from, and two equal ones are never on both sides.
    """
    digest = hashlib.blake2b(beginning[:HASHED], digest_size=8, key=f"{seed}/validation".encode()).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def write_part(part, index, out, tokenizer, reading, header):
    """Encode the documents of some pieces into the two shards of a part. A generator of bytes read since the last time."""
    train, val = (ShardWriter(out / SHARD.format(name, index), tokenizer.dtype, header | {"documents": 0, "bytes": 0})
                  for name in SPLITS)
    with val, train:
        untold = 0
        for piece in part:
            told = 0
            errors = "replace" if piece.kind == "source" else reading.errors
            for name, file in documents(piece, reading):
                for n_bytes in _write_document(file, name, errors, train, val, tokenizer):
                    told += n_bytes
                    untold += n_bytes
                    if untold >= BLOCK:
                        yield untold
                        untold = 0
            untold += piece.size - told         # what stands between documents
        yield untold


def _write_document(file, name, errors, train, val, tokenizer):
    """Into one of two shards. A generator of bytes read; nothing is written for a document without any."""
    start = file.tell()
    data = file.read(BLOCK)
    if not data:
        return
    shard = val if is_validation(data, val.header["seed"], val.header["val_fraction"]) else train
    if len(data) < BLOCK:
        try:
            shard.append(tokenizer.encode_to_numpy(decoded(data, name, errors), disallowed_special=()))
        except InputError as error:
            raise error if str(error).startswith(name) else InputError(f"{name}: {error}") from None
        yield len(data)
        shard.header["bytes"] += len(data)
    else:
        file.seek(start)
        before = start
        for ids in encode_blocks(tokenizer, file, name, errors=errors, chunk=BLOCK, disallowed_special=()):
            shard.append(ids)
            yield file.tell() - before
            before = file.tell()
        shard.header["bytes"] += before - start
    shard.append([tokenizer.eot_token])
    shard.header["documents"] += 1


def _parts(pieces, size):
    """Lists of pieces, one after the other, each list as soon as it has `size` bytes."""
    part, total = [], 0
    for piece in pieces:
        part.append(piece)
        total += piece.size
        if total >= size:
            yield part
            part, total = [], 0
    if part:
        yield part


def _fingerprint(parts):
    """Of all pieces, and of when their files were changed."""
    hasher = hashlib.sha256()
    for part in parts:
        for piece in part:
            changed = os.stat(piece.path).st_mtime_ns if piece.kind != "topics" else 0
            hasher.update(json.dumps([*piece, changed]).encode())
        hasher.update(b"\n")
    return hasher.hexdigest()


def _begin(out, plan, tokenizer, resume, overwrite):
    """Make the folder ready -> whether all has been done before."""
    if resume and overwrite:
        raise InputError("--resume goes on with what is there and --overwrite discards it: give one of them")
    if resume:
        finished = (out / DATA).exists()
        if not finished and not (out / PLAN).exists():
            raise InputError(f"{out} holds nothing that was begun: leave --resume out")
        there = read_json(out / (DATA if finished else PLAN))
        differing = [name for name in plan if name in there and there[name] != plan[name]]
        if differing:
            raise InputError(f"{out} was begun with other {', '.join(differing)}: give the same sources and options, or --overwrite")
        for path in out.iterdir():
            if path.name.endswith(".tmp") and OURS.fullmatch(path.name):
                path.unlink()
        return finished
    there = sorted(out.iterdir())
    if there and not overwrite:
        ways = "--overwrite to replace what was prepared there"
        if (out / PLAN).exists():
            ways = "--resume to go on with it, --overwrite to replace it"
        raise InputError(f"{out} is not empty: give {ways}, or another --out")
    ours = [path for path in there if OURS.fullmatch(path.name)]
    for path in sorted(ours, key=lambda path: path.name not in (DATA, PLAN)):       # these two first: no shard counts without
        path.unlink()
    tokenizer.save(out / TOKENIZER)
    write_json(out / PLAN, plan)
    return False


def _encode(parts, out, plan, tokenizer, reading, workers, progress):
    header = {name: plan[name] for name in ("n_vocab", "tokenizer", "end_of_text", "seed", "val_fraction")}
    header["sources"] = [source["source"] for source in plan["sources"]]
    sizes = [sum(piece.size for piece in part) for part in parts]
    todo = [index for index in range(len(parts)) if not _is_done(out, index)]
    total = sum(sizes)
    done = total - sum(sizes[index] for index in todo)
    workers = min(workers, len(todo))
    if workers > 1 and hasattr(tokenizer, "load_twin") and total - done >= TWIN_FROM:
        # Compiling takes 80 MB that a process does not give back: once, and not in each worker.
        call_in_process(_load_twin, tokenizer)
    with Workers(workers, _part_writer, (out, tokenizer, reading, header)) as pool:
        for n_bytes in pool.run((index, parts[index]) for index in todo):
            done += n_bytes
            if progress is not None:
                progress(min(done, total), total)


def _load_twin(tokenizer):
    tokenizer.load_twin()


def _part_writer(out, tokenizer, reading, header):
    """What a worker makes of its arguments: a function from a task to a generator of bytes read."""
    return lambda task: write_part(task[1], task[0], out, tokenizer, reading, header)


def _is_done(out, index):
    try:
        for name in SPLITS:
            open_shard(out / SHARD.format(name, index))
        return True
    except InputError:
        return False


def _finish(out, how, n_parts):
    data = {"format": FORMAT, "version": VERSION} | how
    for name in SPLITS:
        shards = []
        for index in range(n_parts):
            file = out / SHARD.format(name, index)
            header = open_shard(file)[1]
            shards.append({"file": file.name} | {key: header[key] for key in ("count", "documents", "bytes", "sha256")})
        data[name] = {"tokens": sum(s["count"] for s in shards), "documents": sum(s["documents"] for s in shards),
                      "bytes": sum(s["bytes"] for s in shards), "shards": shards}
    n_documents = sum(data[name]["documents"] for name in SPLITS)
    for name, what in ("train", "training"), ("val", "validation"):
        if not data[name]["documents"] and (name == "train" or how["val_fraction"]):
            raise InputError(f"of {n_documents} documents none fell to {what}: more or smaller documents are needed (--separator "
                             "cuts a text file into several), another --val_fraction (0 for no validation) or --seed")
    write_json(out / DATA, data)
    (out / PLAN).unlink()
    return data


@contextmanager
def _locked(folder):
    """The folder, made if need be, for this process alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise InputError(f"{folder}: cannot be a folder to write to: {error.strerror}") from None
    try:
        if lock is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"{folder} is in use by another process: wait for it, or give another --out") from None
        yield
    finally:
        if lock is not None:
            os.close(lock)
