"""Inner products with weights that may be stored in fewer bytes, in vector registers: the time of decoding.

What the compiler makes by itself of such a loop keeps up with the memory for float32, not for bfloat16 and int8. So it is
written in LLVM's own language, as in matmul.py: four rows at once, each with two sums side by side, for an addition takes four turns.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ._jit import jit_borrowing
from ._vectors import INTEGER, WIDTH
from .matmul import address

SUMS = 2                    # of each row, side by side
LINE = 64                   # bytes of memory that come together
ROWS = 4                    # at once: what is loaded of x serves all of them


def number(x):
    """A stored weight as a number: bfloat16 is the upper half of a float32."""


@overload(number)
def _typed_number(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return (lambda x: np.float32(x)) if x == types.int8 else (lambda x: x)


def _rows(rows):
    """Make `multiply(real, stored, y, x, w, w_row, n)`: y_r = the inner product of x and row r of w, over the first n entries.

    n is a positive multiple of SUMS registers. Arrays come as addresses, w_row counts entries; real and stored are any
    values of the types of x and w.
    """
    @intrinsic
    def multiply(typing, real, stored, y, x, w, w_row, n):
        def generate(context, builder, signature, arguments):
            _, _, y, x, w, w_row, n = arguments
            lanes = 8 * WIDTH // real.bitwidth
            number = ir.FloatType() if real.bitwidth == 32 else ir.DoubleType()
            vector = ir.VectorType(number, lanes)
            entry = ir.IntType(stored.bitwidth) if isinstance(stored, types.Integer) else number
            integer = lambda value: ir.Constant(INTEGER, value)
            place = lambda base, type_, offset: builder.gep(builder.inttoptr(base, type_.as_pointer()), [offset])

            def load(base, type_, offset):
                wide = ir.VectorType(type_, lanes).as_pointer()
                return builder.load(builder.bitcast(place(base, type_, offset), wide), align=1)

            def fetch_early(offset):
                where = place(w, ir.IntType(8), offset)
                flags = (ir.Constant(ir.IntType(32), value) for value in (0, 3, 1))
                kind = ir.FunctionType(ir.VoidType(), [where.type, *[ir.IntType(32)] * 3])
                builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [where, *flags])

            def numbers(value):
                if stored == types.int8:
                    return builder.sitofp(value, vector)
                if stored == types.uint16:
                    wide = ir.VectorType(ir.IntType(32), lanes)
                    bits = builder.shl(builder.zext(value, wide), ir.Constant(wide, [16] * lanes))
                    halves = builder.bitcast(bits, ir.VectorType(ir.FloatType(), lanes))
                    return halves if real.bitwidth == 32 else builder.fpext(halves, vector)
                return value

            before = builder.block
            loop, after = (builder.append_basic_block(name) for name in ("multiply", "deliver"))
            starts = [builder.mul(w_row, integer(r)) for r in range(rows)]
            builder.branch(loop)

            builder.position_at_end(loop)
            i = builder.phi(INTEGER)
            sums = [[builder.phi(vector) for _ in range(SUMS)] for _ in range(rows)]
            offsets = [builder.add(i, integer(k * lanes)) for k in range(SUMS)]
            xs = [load(x, number, offset) for offset in offsets]
            for line in range(0, rows * SUMS * lanes * stored.bitwidth // 8, LINE):     # of the next rows, in the order of memory
                fetch_early(builder.add(builder.mul(builder.add(i, w_row), integer(rows * stored.bitwidth // 8)), integer(line)))
            more = []
            for start, row in zip(starts, sums):
                ws = [numbers(load(w, entry, builder.add(start, offset))) for offset in offsets]
                more.append([builder.fadd(builder.fmul(a, b, flags=["contract"]), so_far, flags=["contract"])
                             for a, b, so_far in zip(xs, ws, row)])
            next_i = builder.add(i, integer(SUMS * lanes))
            zero = ir.Constant(vector, [0.0] * lanes)
            for phi, first, value in zip([i, *sum(sums, [])], [integer(0), *[zero] * rows * SUMS], [next_i, *sum(more, [])]):
                phi.add_incoming(first, before)
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", next_i, n), loop, after)

            builder.position_at_end(after)
            kind = ir.FunctionType(number, [number, vector])
            add_up = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{lanes}f{real.bitwidth}")
            for r, row in enumerate(more):
                total = builder.call(add_up, [ir.Constant(number, 0.0), builder.fadd(*row)], fastmath=["reassoc"])
                builder.store(total, place(y, number, integer(r)))
            return context.get_dummy_value()

        return types.void(real, stored, *[types.int64] * 5), generate
    return multiply


_many_rows, _one_row = _rows(ROWS), _rows(1)


@jit_borrowing
def inner_products(N, y, x, w, first, last):
    """y[n, j] = sum_i x[n, i] w[j, i] for n < N and these rows j. x (., n_in) and y (., n_out) of one type, float32 or float64,
    w (n_out, n_in) of the same type, bfloat16's bits (uint16), or int8; all contiguous.

    A sum does not depend on how many there are: the same order for one x and for several, for one row and for four.
    """
    n_in, size = w.shape[1], x.itemsize
    step = SUMS * WIDTH // size
    whole = n_in // step * step
    from_x, from_w, to = address(x), address(w), address(y)
    j = first
    while j < last and whole > 0:
        rows = ROWS if j + ROWS <= last else 1
        for n in range(N):
            place, row = to + size * (n * y.shape[1] + j), from_w + w.itemsize * j * n_in
            if rows == ROWS:
                _many_rows(x[0, 0], w[0, 0], place, from_x + size * n * n_in, row, n_in, whole)
            else:
                _one_row(x[0, 0], w[0, 0], place, from_x + size * n * n_in, row, n_in, whole)
        j += rows
    if whole < n_in:
        for j in range(first, last):
            for n in range(N):
                total = y[n, j] if whole > 0 else x.dtype.type(0)
                for i in range(whole, n_in):
                    total += x[n, i] * number(w[j, i])
                y[n, j] = total
