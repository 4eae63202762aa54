"""Token shards: ids on disk, written as a stream and read as memory-mapped arrays.

    train.bin           the ids, one after the other, and nothing else: uint16 or uint32, little-endian
    train.bin.json      its header: {"format": "numpyllm tokens", "version": 1, "dtype": "uint16", "count": 301966,
                        "sha256": that of train.bin, and what else the writer recorded: "n_vocab", "tokenizer", ...}

uint16 serves vocabularies of up to 65,536 ids, uint32 larger ones.
"""

import hashlib
import json
import os
import secrets
from pathlib import Path

import numpy as np

from .errors import InputError
from .files import read_json, restoring, write_json

FORMAT, VERSION = "numpyllm tokens", 1
DTYPES = {"uint16": "<u2", "uint32": "<u4"}


def header_path(path):
    """Where the header of a shard is: beside it, with .json added to its name."""
    path = Path(path)
    return path.with_name(path.name + ".json")


class ShardWriter:
    """Write a shard piece by piece: `with ShardWriter(path, np.uint16, {"n_vocab": 50257}) as shard: shard.append(ids)`.

    path        the .bin file
    dtype       uint16 or uint32, as Tokenizer.dtype says
    header      what to record beside format, version, dtype, count and sha256; with "n_vocab", ids are checked against it

    Both files appear under their names when the block ends, complete and on the disk. When it ends in an exception they
    do not, and what was there before is untouched. InputError for bad ids and where nothing can be written.
    """

    def __init__(self, path, dtype, header):
        self.path, self.dtype = Path(path), np.dtype(dtype)
        if self.dtype.name not in DTYPES:
            raise InputError(f"the type of a shard must be uint16 or uint32, got {self.dtype}")
        fixed = {"format": FORMAT, "version": VERSION, "dtype": self.dtype.name, "count": 0, "sha256": ""}
        for name in fixed.keys() & header.keys():
            raise InputError(f"a shard's header has a {name} of its own, got {header[name]!r}: name it otherwise")
        json.dumps(header)                                      # a TypeError now, not after hours
        self.header = fixed | header
        self._limit = min(np.iinfo(self.dtype).max + 1, header.get("n_vocab", np.inf))
        self._sibling = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        self._hash = hashlib.sha256()
        self._file = None

    def __enter__(self):
        self._write(lambda: setattr(self, "_file", open(self._sibling, "xb")))
        return self

    def append(self, ids):
        """Add ids: a one-dimensional array of integers, or a list of them."""
        ids = np.asarray(ids)
        if ids.size == 0:
            return
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise InputError(f"ids must be a one-dimensional array of integers, got {ids.dtype} of shape {ids.shape}")
        if ids.min() < 0 or ids.max() >= self._limit:
            bad = ids[(ids < 0) | (ids >= self._limit)][0]
            raise InputError(f"ids must be from 0 to {self._limit - 1}, got {bad}; {self.path} was not written")
        data = ids.astype(DTYPES[self.dtype.name]).data
        self._hash.update(data)
        self._write(lambda: self._file.write(data))
        self.header["count"] += ids.size

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self._write(self._finish)
        finally:
            self._file.close()
            self._sibling.unlink(missing_ok=True)

    def _finish(self):
        self._file.flush()
        os.fsync(self._file.fileno())
        self.header["sha256"] = self._hash.hexdigest()
        # Two files cannot change places at once: between the two, the header tells that these are not its ids.
        with restoring(header_path(self.path)):
            write_json(header_path(self.path), self.header)
            os.replace(self._sibling, self.path)

    def _write(self, action):
        try:
            action()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def open_shard(path, *, verify=False):
    """The ids of a shard and its header: an array (count,) of uint16 or uint32, memory-mapped and read-only, and a dict.

    verify      read all of it and compare the SHA-256, and the ids with n_vocab
    InputError, naming the file, for a shard without header, truncated, or not what its header says.
    """
    path, beside = Path(path), header_path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such token shard")
    if not beside.is_file():
        raise InputError(f"{path}: a token shard must have its header beside it, {beside.name} is missing")
    header = read_json(beside)
    match header:
        case {"format": str(kind), "version": int(version)} if (kind, version) == (FORMAT, VERSION):
            pass
        case _:
            raise InputError(f'{beside}: must be of format "{FORMAT}", version {VERSION}, got {header.get("format")!r}, '
                             f'version {header.get("version")!r}')
    match header:
        case {"dtype": str(dtype), "count": int(count), "sha256": str(sha256)} if dtype in DTYPES and count >= 0:
            pass
        case _:
            raise InputError(f'{beside}: must hold "dtype" {" or ".join(DTYPES)}, "count" and "sha256"')
    expected, found = count * np.dtype(dtype).itemsize, path.stat().st_size
    if found != expected:
        raise InputError(f"{path}: must be {expected} bytes for {count} ids of {dtype}, as its header says, it has {found}: "
                         "truncated, or not the file of that header; make it anew")
    ids = np.memmap(path, DTYPES[dtype], mode="r") if count else np.empty(0, DTYPES[dtype])
    if verify:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise InputError(f"{path}: is damaged (its SHA-256 must be the header's): make it anew")
        n_vocab = header.get("n_vocab")
        if count and isinstance(n_vocab, int) and ids.max() >= n_vocab:
            raise InputError(f"{path}: ids must be below n_vocab={n_vocab}, got {ids.max()}: make it anew")
    return ids, header
