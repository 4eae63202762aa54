"""The matrix product out = a b on one core, for any strides: what linear maps and attention spend their time in.

BLAS is written for large matrices: it copies both factors, zeroes the result and reads it again, which at the sizes of a
small model is a tenth of the time. The scheme here is the same (Goto and van de Geijn 2008), with less around it:

    for each panel of b, as wide as two registers:              copied once, in the order in which it is read
        for each tile of the result, ROWS rows by that width:
            keep the whole tile in registers; for each k:       ROWS x 2 multiply-adds for ROWS + 2 loads
                tile += column k of a's rows (x) row k of the panel

That a tile stays in registers, neither Python nor Numba can say: `_tile`, `_copy_row` and `_turn` are written in LLVM's own
language, where vectors are values (_vectors.py). docs/matmul.md leads there step by step, with the timing of each.

An entry of the result is a sum in the order of k: it depends on its row and its column only, not on how many others there are.
"""

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from .. import blas
from ..workspace import empty, mark, release
from ._jit import jit, jit_any_layout
from ._vectors import INTEGER, ROWS, WIDTH, Vectors

DEPTH = 1024                # k in a panel, at most: a panel should stay in the second cache
HALVES = range(2)           # a row of a tile or panel is two vectors


def _tile(rows):
    """Make `tile(real, c, c_row, width, d, d_row, a, a_row, a_column, following, panel, K)` for so many rows.

    c = d + a panel, with a (rows, K), panel (K, 2 vectors), c and d (rows, width); the panel's further columns are
    ignored. Arrays come as addresses and strides in entries, `real` is any value of their type. d = 0: nothing is
    added. `following` is the a of the next tile, to have it fetched meanwhile: an array that comes from beyond the
    second cache costs a fifth of the time else.
    """
    @intrinsic
    def tile(typing, real, c, c_row, width, d, d_row, a, a_row, a_column, following, panel, K):
        def generate(context, builder, signature, arguments):
            _, c, c_row, width, d, d_row, a, a_row, a_column, following, panel, K = arguments
            v = Vectors(builder, real)
            starts = [builder.mul(a_row, v.integer(r)) for r in range(rows)]
            at = lambda stride, r, half: builder.add(builder.mul(stride, v.integer(r)), v.integer(half * v.lanes))
            before = builder.block
            loop, after = (builder.append_basic_block(name) for name in ("multiply", "deliver"))
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(INTEGER)
            sums = [[builder.phi(v.vector) for _ in HALVES] for _ in range(rows)]
            row_k = [v.load(panel, builder.add(builder.mul(k, v.integer(2 * v.lanes)), v.integer(half * v.lanes)))
                     for half in HALVES]
            column_k = builder.mul(k, a_column)
            row = builder.and_(k, v.integer(v.lanes - 1))       # one line of memory in each turn: all of them in K turns
            v.fetch_early(following, builder.add(column_k, builder.mul(row, a_row)), write=False)
            line = builder.select(builder.icmp_signed("<", k, v.integer(2 * rows)), k, v.integer(0))
            half = builder.mul(builder.and_(line, v.integer(1)), v.integer(v.lanes))
            v.fetch_early(c, builder.add(builder.mul(builder.lshr(line, v.integer(1)), c_row), half))
            more = []
            for start, row in zip(starts, sums):
                entry = v.spread(v.number_at(a, builder.add(column_k, start)))
                more.append([v.multiply_add(entry, b, so_far) for b, so_far in zip(row_k, row)])
            next_k = builder.add(k, v.integer(1))
            for phi, first, value in zip([k, *sum(sums, [])], [v.integer(0), *[v.zero] * 2 * rows], [next_k, *sum(more, [])]):
                phi.add_incoming(first, before)
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", next_k, K), loop, after)

            builder.position_at_end(after)
            inside = [v.first(builder.sub(width, v.integer(half * v.lanes))) for half in HALVES]
            add = builder.icmp_signed("!=", d, v.integer(0))
            added = [builder.and_(mask, v.spread(add)) for mask in inside]
            d, d_row = builder.select(add, d, c), builder.select(add, d_row, c_row)     # a masked load from nowhere is slow
            for r, row in enumerate(more):
                for half, value in enumerate(row):
                    old = v.load(d, at(d_row, r, half), added[half])
                    v.store(c, at(c_row, r, half), builder.fadd(old, value), inside[half])
            return context.get_dummy_value()

        return types.void(real, *[types.int64] * 11), generate
    return tile


@intrinsic
def _copy_row(typing, real, panel, source, width):
    """A row of the panel: so many entries from `source`, zeros beyond."""
    def generate(context, builder, signature, arguments):
        _, panel, source, width = arguments
        v = Vectors(builder, real)
        for half in HALVES:
            offset = v.integer(half * v.lanes)
            v.store(panel, offset, v.load(source, offset, v.first(builder.sub(width, offset))))
        return context.get_dummy_value()

    return types.void(real, types.int64, types.int64, types.int64), generate


@intrinsic
def _turn(typing, real, panel, source, source_row, rows, columns):
    """Half of some rows of the panel: a square block of `source`, turned, so that its rows become the panel's columns.

    The block has so many rows and columns, at most as many as a vector has entries. In stage s, entry i of row j changes
    places with entry i - s of row j + s, for each j without the bit s and i with it.
    """
    def generate(context, builder, signature, arguments):
        _, panel, source, source_row, rows, columns = arguments
        v = Vectors(builder, real)
        inside = v.first(columns)
        last = builder.sub(rows, v.integer(1))
        block = []
        for r in range(v.lanes):            # rows that are not there repeat the last: in columns that no one reads
            there = builder.select(builder.icmp_signed("<", v.integer(r), rows), v.integer(r), last)
            block.append(v.load(source, builder.mul(source_row, there), inside))
        s = v.lanes // 2
        while s:
            for j in range(v.lanes):
                if not j & s:
                    pair = block[j], block[j + s]
                    block[j] = v.shuffle(*pair, [v.lanes + i - s if i & s else i for i in range(v.lanes)])
                    block[j + s] = v.shuffle(*pair, [v.lanes + i if i & s else i + s for i in range(v.lanes)])
            s //= 2
        for k, row in enumerate(block):
            v.store(panel, v.integer(2 * v.lanes * k), row)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 5), generate


_many_rows, _eight_rows, _four_rows, _one_row = _tile(ROWS), _tile(8), _tile(4), _tile(1)


@jit
def address(x):
    """Where an array begins, as a signed number: Numba makes a float of the sum of an unsigned and a signed one."""
    return np.int64(x.ctypes.data)


def scratch_for(K, dtype):
    """The scratch memory of a product over K: a panel of whole blocks of rows, and room to align it."""
    lanes = WIDTH // dtype.itemsize
    return empty(((-(-min(K, DEPTH) // lanes) * 2 * lanes + 2) * lanes,), dtype)


@jit
def copy_panel(real, size, panel, b, b_row, b_column, width, depth):
    """So many rows and columns of b, at this address, as a panel. size: bytes of a `real`."""
    lanes = WIDTH // size
    if b_column == 1:
        for i in range(depth):
            _copy_row(real, panel + size * i * 2 * lanes, b + size * i * b_row, width)
    else:
        for v in range(0, width, lanes):
            for i in range(0, depth, lanes):
                _turn(real, panel + size * (i * 2 * lanes + v), b + size * (v * b_column + i),
                      b_column, min(lanes, width - v), min(lanes, depth - i))


@jit
def times_panel(real, size, c, c_row, d, d_row, a, a_row, a_column, panel, M, width, depth):
    """c (M, width) = d + a (M, depth) panel, tile by tile."""
    i = 0
    while i < M:
        rows = ROWS if i + ROWS <= M else 8 if i + 8 <= M else 4 if i + 4 <= M else 1
        to, row = c + size * i * c_row, a + size * i * a_row
        added = d + size * i * d_row if d != 0 else 0
        i += rows
        following = row + size * rows * a_row if i < M else row
        if rows == ROWS:
            _many_rows(real, to, c_row, width, added, d_row, row, a_row, a_column, following, panel, depth)
        elif rows == 8:
            _eight_rows(real, to, c_row, width, added, d_row, row, a_row, a_column, following, panel, depth)
        elif rows == 4:
            _four_rows(real, to, c_row, width, added, d_row, row, a_row, a_column, following, panel, depth)
        else:
            _one_row(real, to, c_row, width, added, d_row, row, a_row, a_column, following, panel, depth)


@jit
def product(scratch, c, c_row, d, d_row, a, a_row, a_column, b, b_row, b_column, M, N, K):
    """c (M, N) = d + a (M, K) b (K, N). Arrays are addresses and strides in entries; those of c and d have columns next to each
    other, and so have those of b or its rows. d = 0: nothing is added; d = c: added to c; d_row = 0: d is one row for all.
    """
    real, size = scratch[0], scratch.itemsize
    lanes = WIDTH // size
    panel = (address(scratch) + WIDTH - 1) // WIDTH * WIDTH
    for k in range(0, K, DEPTH):
        depth = min(DEPTH, K - k)
        if k > 0:
            d, d_row = c, c_row
        for j in range(0, N, 2 * lanes):
            width = min(2 * lanes, N - j)
            copy_panel(real, size, panel, b + size * (k * b_row + j * b_column), b_row, b_column, width, depth)
            times_panel(real, size, c + size * j, c_row, d + size * j if d != 0 else 0, d_row, a + size * k * a_column, a_row, a_column,
                         panel, M, width, depth)


def panels_for(K, N, dtype):
    """Memory for all panels of a right factor (K, N), for `pack`: what is multiplied by many times need be copied only once."""
    lanes = WIDTH // dtype.itemsize
    return empty(((-(-N // (2 * lanes)) * -(-K // lanes) * 2 * lanes + 2) * lanes,), dtype)


@jit
def panels_at(panels):
    """The address of the first of panels_for's."""
    return (address(panels) + WIDTH - 1) // WIDTH * WIDTH


@jit
def panel_bytes(K, size):
    """From one of panels_for's to the next. Row k of a panel, two registers wide, is at 2 WIDTH k."""
    lanes = WIDTH // size
    return -(-K // lanes) * lanes * 2 * WIDTH


@jit
def pack(panels, b):
    """Copy b (K, N), whose columns or rows lie next to each other, into panels_for(K, N)."""
    real, size = panels[0], panels.itemsize
    lanes, (K, N) = WIDTH // size, b.shape
    b_row, b_column = b.strides[0] // size, b.strides[1] // size
    panel = panels_at(panels)
    for j in range(0, N, 2 * lanes):
        copy_panel(real, size, panel, address(b) + size * j * b_column, b_row, b_column, min(2 * lanes, N - j), K)
        panel += panel_bytes(K, size)


@jit
def multiply_packed(c, a, panels, add):
    """c (M, N) = a (M, K) b, or with `add` c + a b, for the b (K, N) in these panels."""
    real, size = panels[0], panels.itemsize
    lanes, (M, N), K = WIDTH // size, c.shape, a.shape[1]
    c_row, a_row, a_column = c.strides[0] // size, a.strides[0] // size, a.strides[1] // size
    panel = panels_at(panels)
    for j in range(0, N, 2 * lanes):
        to = address(c) + size * j
        times_panel(real, size, to, c_row, to if add else 0, c_row, address(a), a_row, a_column, panel, M, min(2 * lanes, N - j), K)
        panel += panel_bytes(K, size)


@jit
def multiply(scratch, c, d, d_row, a, b):
    """c = d + a b of arrays, where `product` can do it. d_row is -1 where nothing is added."""
    size = scratch.itemsize
    product(scratch, address(c), c.strides[0] // size, address(d) if d_row >= 0 else 0, d_row,
            address(a), a.strides[0] // size, a.strides[1] // size,
            address(b), b.strides[0] // size, b.strides[1] // size, c.shape[0], c.shape[1], a.shape[1])


@jit_any_layout(strided="c d a b", written="scratch c")
def _multiply(scratch, c, d, d_row, a, b):
    multiply(scratch, c, d, d_row, a, b)


def beats_blas():
    """Whether a large product is faster here than in BLAS: on one thread, and with registers of 64 bytes (docs/matmul.md)."""
    return WIDTH == 64 and blas.is_serial()


def matmul(a, b, *, out, add=None):
    """out (M, N) = a (M, K) b (K, N) + add (N), (M, N) or nothing. Real arrays of one dtype; `add` may be `out`."""
    if out.strides[1] != out.itemsize and out.strides[0] == out.itemsize and add is None:
        matmul(b.T, a.T, out=out.T)                                     # the same product, read from its other side
        return out
    height = mark()
    if beats_blas() and a.size and b.size and out.strides[1] == out.itemsize:
        if b.itemsize not in b.strides:
            b = np.ascontiguousarray(b)
        scratch = scratch_for(a.shape[1], a.dtype)
        if add is None:
            _multiply(scratch, out, scratch, -1, a, b)
        else:
            add = add if add.strides[-1] == add.itemsize else np.ascontiguousarray(add)
            _multiply(scratch, out, add, 0 if add.ndim == 1 else add.strides[0] // add.itemsize, a, b)
    elif add is None:
        np.matmul(a, b, out=out)
    else:
        np.add(np.matmul(a, b, out=empty(out.shape, out.dtype)), add, out=out)
    release(height)
    return out
