"""Token shards: whole or not there, and refused when they are not what their header says."""

import errno
import hashlib
import json
import os

import numpy as np
import pytest

from numpyllm.errors import InputError
from numpyllm.shards import ShardWriter, header_path, open_shard


def write(path, *parts, dtype=np.uint16, **header):
    with ShardWriter(path, dtype, header) as shard:
        for ids in parts:
            shard.append(ids)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.bin"


@pytest.mark.parametrize(("dtype", "size"), [(np.uint16, 2), (np.uint32, 4)])
def test_ids_come_back(path, dtype, size):
    write(path, [1, 2, 3], [], np.array([65_535, 0]), np.arange(10)[::2], dtype=dtype, n_vocab=65_536, sources=["a.txt"])
    ids, header = open_shard(path, verify=True)
    assert ids.tolist() == [1, 2, 3, 65_535, 0, 0, 2, 4, 6, 8]
    assert isinstance(ids, np.memmap) and ids.dtype == dtype and not ids.flags.writeable
    data = path.read_bytes()
    assert len(data) == 10 * size and data[:size] == (1).to_bytes(size, "little")
    assert header == {"format": "numpyllm tokens", "version": 1, "dtype": np.dtype(dtype).name, "count": 10,
                      "sha256": hashlib.sha256(data).hexdigest(), "n_vocab": 65_536, "sources": ["a.txt"]}
    assert sorted(os.listdir(path.parent)) == ["train.bin", "train.bin.json"]


def test_a_shard_may_be_empty(path):
    write(path)
    ids, header = open_shard(path, verify=True)
    assert ids.shape == (0,) and ids.dtype == np.uint16 and header["count"] == 0


@pytest.mark.parametrize(("ids", "message"), [
    ([1, 300], "ids must be from 0 to 299, got 300;"),
    ([-1], "ids must be from 0 to 299, got -1;"),
    (np.array([70_000], np.uint64), "ids must be from 0 to 299, got 70000;"),
    ([1.0], "ids must be a one-dimensional array of integers, got float64 of shape (1,)"),
    ([[1]], "ids must be a one-dimensional array of integers, got int64 of shape (1, 1)"),
])
def test_bad_ids_leave_the_old_shard(path, ids, message):
    write(path, [5, 6], n_vocab=300)
    with pytest.raises(InputError) as caught:
        write(path, [1, 2], ids, n_vocab=300)
    assert str(caught.value).startswith(message)
    assert open_shard(path, verify=True)[0].tolist() == [5, 6]
    assert len(os.listdir(path.parent)) == 2


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "Disk full"), KeyboardInterrupt])
@pytest.mark.parametrize(("call", "number"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)])
@pytest.mark.parametrize("existing", [True, False])
def test_failing_writes_leave_the_old_shard(path, monkeypatch, failure, call, number, existing):
    if existing:
        write(path, [5, 6], note="old")
    true, calls = getattr(os, call), []

    def fail(*args):
        calls.append(args)
        if len(calls) == number:
            raise failure
        return true(*args)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        write(path, [1, 2, 3])
    if isinstance(failure, OSError):
        assert str(caught.value).endswith("cannot be written: Disk full")
    if existing:
        ids, header = open_shard(path, verify=True)
        assert ids.tolist() == [5, 6] and header["note"] == "old"
    assert len(os.listdir(path.parent)) == 2 * existing


def test_an_exception_in_the_block_goes_through(path):
    with pytest.raises(OSError, match="source"), ShardWriter(path, np.uint16, {}) as shard:
        shard.append([1])
        raise OSError("source")
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(("dtype", "header", "message"), [
    (np.int64, {}, "the type of a shard must be uint16 or uint32, got int64"),
    (np.uint16, {"count": 5}, "a shard's header has a count of its own, got 5"),
])
def test_bad_writers(path, dtype, header, message):
    with pytest.raises(InputError, match=message):
        ShardWriter(path, dtype, header)


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="train.bin: cannot be written: No such file or directory$"):
        write(tmp_path / "nowhere" / "train.bin")


def changed(path, **values):
    header = json.loads(header_path(path).read_text())
    header_path(path).write_text(json.dumps({key: value for key, value in (header | values).items() if value is not None}))


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda path: path.unlink(), "there is no such token shard"),
    (lambda path: header_path(path).unlink(), "must have its header beside it, train.bin.json is missing"),
    (lambda path: header_path(path).write_text("{"), "must be JSON"),
    (lambda path: changed(path, format="x"), "must be of format \"numpyllm tokens\", version 1, got 'x', version 1"),
    (lambda path: changed(path, version=2), "got 'numpyllm tokens', version 2"),
    (lambda path: changed(path, dtype="int8"), 'must hold "dtype" uint16 or uint32, "count" and "sha256"'),
    (lambda path: changed(path, count=-1), 'must hold "dtype"'),
    (lambda path: changed(path, sha256=None), 'must hold "dtype"'),
    (lambda path: changed(path, count=4), "must be 8 bytes for 4 ids of uint16, as its header says, it has 6: truncated"),
    (lambda path: changed(path, dtype="uint32"), "must be 12 bytes for 3 ids of uint32"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "must be 6 bytes for 3 ids of uint16, as its header says, it has 5"),
    (lambda path: path.write_bytes(b"\1\0\2\0\3\1"), "is damaged (its SHA-256 must be the header's)"),
    (lambda path: changed(path, n_vocab=3), "ids must be below n_vocab=3, got 3"),
])
def test_shards_refused(path, spoil, message):
    write(path, [1, 2, 3], n_vocab=4)
    spoil(path)
    with pytest.raises(InputError) as caught:
        open_shard(path, verify=True)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
