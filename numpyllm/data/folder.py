"""Tokens to train on, from disk: folders that `numpyllm data prepare` wrote, and the files of nanoGPT and llm.c.

    data.json       {"format": "numpyllm data", "version": 1, "dtype", "n_vocab", "tokenizer": its SHA-256, "end_of_text": id,
                    "seed", "val_fraction", ..., "sources": [{"source", "files", "bytes"}, ...],
                    "train": {"tokens", "documents", "bytes", "shards": [{"file", "count", "documents", "bytes", "sha256"}, ...]},
                    "val": the same}
    nanoGPT         uint16 ids, little-endian, and nothing else
    llm.c           256 int32, of which the first three are a magic number, a version and the number of ids; then the ids:
                    uint16 after 20240520, version 1, and uint32 after 20240801, version 7. (dev/data/data_common.py there)

Neither of the last two says which tokenizer its ids are from, and of nanoGPT's nobody can tell whether it is complete.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_json
from ..shards import header_path, open_shard
from ..tokenizer import load
from .prepare import DATA, FORMAT, PLAN, SPLITS, TOKENIZER, VERSION
from .token_row import TokenRow

LLM_C = {20240520: (1, "<u2"), 20240801: (7, "<u4")}        # magic number: version, type of the ids
LLM_C_HEADER = 256 * 4                                      # bytes
SCANNED = 1 << 24                                           # ids looked at at once


class TokenData:
    """Tokens on disk.

    path            of the folder or the file
    format          numpyllm, nanoGPT or llm.c
    train, val      TokenRows, memory-mapped; val is None where there is none
    header          what data.json holds, or the header of a single shard; {} for the others
    """

    def __init__(self, path, format, rows, header):
        self.path, self.format, self.header = path, format, header
        self.train, self.val = rows.get("train"), rows.get("val")

    @property
    def rows(self):
        """The splits that are there: {"train": TokenRow, "val": TokenRow}."""
        return {name: row for name in SPLITS if (row := getattr(self, name)) is not None}

    @property
    def sha256(self):
        """What tells these tokens from others: of the checksums in data.json, else of the length and the ends of each file."""
        if "train" in self.header:
            return hashlib.sha256(json.dumps([self.header[name] for name in SPLITS], sort_keys=True).encode()).hexdigest()
        hasher = hashlib.sha256()
        for name, row in self.rows.items():
            for array in row.arrays:
                hasher.update(f"{name} {len(array)} {array.dtype}".encode())
                hasher.update(array[:1024].tobytes() + array[-1024:].tobytes())
        return hasher.hexdigest()

    def load_tokenizer(self):
        """The tokenizer that is kept with the tokens. InputError where none is, or where it is another."""
        if not (Path(self.path) / TOKENIZER).is_file():
            raise InputError(f"{self.path} has no {TOKENIZER}, so nobody knows what its ids mean: give a --tokenizer")
        tokenizer = load(Path(self.path) / TOKENIZER)
        self.check(tokenizer)
        return tokenizer

    def check(self, tokenizer):
        """InputError unless these are ids of this tokenizer, by its SHA-256, or where that is not known by reading them all.

        From then on what is read of `train` and `val` is checked again.
        """
        recorded = self.header.get("tokenizer")
        if recorded is not None and recorded != tokenizer.sha256:
            raise InputError(f"{self.path} must be of the model's tokenizer, of SHA-256 {tokenizer.sha256[:16]}..., it was prepared "
                             f"with another, of {recorded[:16]}...: prepare it again, or use that one")
        for row in self.rows.values():
            if recorded is None:
                check_ids(row, tokenizer.n_vocab)
            row.n_vocab = tokenizer.n_vocab


def is_token_data(path):
    """Whether a path is one for `open_data`, good or not, rather than a text or a folder of texts."""
    path = Path(path)
    if path.is_dir():
        return (path / DATA).exists() or (path / PLAN).exists() or any(path.glob("*train*.bin"))
    return path.suffix == ".bin"


def open_data(path, *, verify=False):
    """TokenData of a prepared folder, a folder with *train*.bin and *val*.bin, or a .bin file, which is all for training.

    verify      read everything, and compare checksums and ids with the headers
    InputError, naming the file, for anything unfinished, truncated, or not what its header says.
    """
    path = Path(path)
    if not path.is_dir():
        ids, format, header = open_tokens(path, verify=verify)
        return TokenData(path, format, {"train": TokenRow([ids], names=[str(path)])}, header)
    if (path / DATA).exists():
        return _open_prepared(path, verify)
    if (path / PLAN).exists():
        raise InputError(f"{path} is not finished: go on with numpyllm data prepare ... --resume")
    rows, kinds = {}, set()
    for name in SPLITS:
        files = sorted(path.glob(f"*{name}*.bin"))
        opened = [open_tokens(file, verify=verify) for file in files]
        kinds.update((format, header.get("tokenizer")) for _, format, header in opened)
        if files:
            rows[name] = TokenRow([ids for ids, _, _ in opened], names=[str(file) for file in files])
    if "train" not in rows:
        raise InputError(f"{path} must hold {DATA}, or files called *train*.bin and *val*.bin: make it with numpyllm data prepare")
    if len(kinds) > 1:
        raise InputError(f"the *train*.bin and *val*.bin of {path} must be of one format and one tokenizer, they are of "
                         f"{len(kinds)}: keep them in folders of their own")
    format, tokenizer = kinds.pop()
    return TokenData(path, format, rows, {"tokenizer": tokenizer} if tokenizer else {})


def open_tokens(path, *, verify=False):
    """The ids in one file, memory-mapped and read-only, their format, and their header: that of a shard, else {}."""
    path = Path(path)
    if header_path(path).exists():
        ids, header = open_shard(path, verify=verify)
        return ids, "numpyllm", header
    if path.suffix != ".bin" or not path.is_file():
        raise InputError(f"{path}: must be a folder of tokens, or a file of them called *.bin")
    size = path.stat().st_size
    with open(path, "rb") as file:
        magic, version, count = np.frombuffer(file.read(12).ljust(12, b"\0"), "<i4").tolist()
    if magic in LLM_C:
        expected_version, dtype = LLM_C[magic]
        expected = LLM_C_HEADER + count * np.dtype(dtype).itemsize
        if version != expected_version or count < 1:
            raise InputError(f"{path}: must be of version {expected_version} with at least one id, as its magic number {magic} is "
                             f"llm.c's, got version {version}, {count} ids")
        if size != expected:
            raise InputError(f"{path}: must be {expected} bytes for {count} ids, as its header says, it has {size}: truncated, or "
                             "damaged; make it anew")
        return np.memmap(path, dtype, "r", offset=LLM_C_HEADER), "llm.c", {}
    if size == 0 or size % 2:
        raise InputError(f"{path}: must be ids of two bytes each, as nanoGPT's are, it has {size} bytes: truncated, or no such file")
    return np.memmap(path, "<u2", "r"), "nanoGPT", {}


def check_ids(row, n_vocab):
    """InputError, naming the file, unless all ids of a TokenRow are below n_vocab."""
    for name, array in zip(row.names, row.arrays):
        for start in range(0, len(array), SCANNED):
            part = array[start:start + SCANNED]
            if (largest := int(part.max())) >= n_vocab:
                raise InputError(f"{name}: ids must be below the vocabulary's {n_vocab}, got {largest} at place "
                                 f"{start + int(part.argmax())}: it was made with another tokenizer, or is damaged")


def _open_prepared(path, verify):
    beside, header = path / DATA, read_json(path / DATA)
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise InputError(f'{beside}: must be of format "{FORMAT}", version {VERSION}, got {header.get("format")!r}, '
                         f'version {header.get("version")!r}')
    rows = {}
    for name in SPLITS:
        match header:
            case {"tokenizer": str(tokenizer), "n_vocab": int(n_vocab), **rest} if "shards" in (rest.get(name) or ()):
                shards = rest[name]["shards"]
            case _:
                raise InputError(f'{beside}: must hold "tokenizer", "n_vocab", "train" and "val" with "shards"')
        arrays, names = [], []
        for shard in shards:
            file = path / Path(shard["file"]).name
            ids, found = open_shard(file, verify=verify)
            if (found["sha256"], found["count"], found.get("tokenizer")) != (shard["sha256"], shard["count"], tokenizer):
                raise InputError(f"{file}: is not the shard that {DATA} speaks of: prepare the folder again")
            if len(ids):
                arrays.append(ids)
                names.append(str(file))
        if arrays:
            rows[name] = TokenRow(arrays, names=names, n_vocab=n_vocab)
    if "train" not in rows:
        raise InputError(f"{path} has no tokens to train on: prepare it again")
    return TokenData(path, "numpyllm", rows, header)

