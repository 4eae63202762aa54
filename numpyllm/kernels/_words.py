"""Eight bytes of text at a time, in one 64-bit word, the first of them lowest; and memory without its array.

A mask marks bytes by their highest bits. The sums cannot carry from one byte into the next, as both summands are below 128.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import jit

HIGH = np.uint64(0x8080_8080_8080_8080)
LOW_7 = np.uint64(0x7F7F_7F7F_7F7F_7F7F)
EACH = 0x0101_0101_0101_0101
CASE = np.uint64(0x20 * EACH)       # the bit between "A" and "a"


@intrinsic
def trailing_zeros(typing_context, word):
    """Number of zero bits below the lowest one bit of a uint64; 64 of zero. One instruction, which NumPy has no name for."""
    def build(context, builder, signature, arguments):
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))
    return types.int64(types.uint64), build


@intrinsic
def leading_zeros(typing_context, word):
    """Number of zero bits above the highest one bit of a uint64; 64 of zero."""
    def build(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], context.get_constant(types.boolean, False))
    return types.int64(types.uint64), build


@intrinsic
def between(typing_context, memory, i, least, greatest):
    """Which of the 64 bytes from memory[i] on, which must exist, are in least ... greatest: one bit each, the first lowest."""
    def build(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(8), 64)

        def everywhere(value):
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), builder.trunc(value, ir.IntType(8)), ir.IntType(32)(0))
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), 64), None))

        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), vector.as_pointer())
        offset = builder.sub(builder.load(place, align=1), everywhere(arguments[2]))
        width = builder.sub(arguments[3], arguments[2])
        return builder.bitcast(builder.icmp_unsigned("<=", offset, everywhere(width)), ir.IntType(64))
    return types.uint64(memory, types.int64, types.int64, types.int64), build


@intrinsic
def pointer(typing_context, array):
    """The memory of a contiguous array: p[i] reads and writes it. Whoever takes one keeps the array alive.

    Numba counts references where an array enters and leaves a function, which costs as much as all the rest of a
    function that looks at one character; a pointer is but a number, and no negative index of it counts from the end.
    """
    def build(context, builder, signature, arguments):
        return context.make_array(array)(context, builder, arguments[0]).data
    return types.CPointer(array.dtype)(array), build


@intrinsic
def prefetch(typing_context, memory, i):
    """Have the processor fetch the line that memory[i] is in, while it goes on."""
    def build(context, builder, signature, arguments):
        place, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [place], ir.FunctionType(ir.VoidType(), [place, flag, flag, flag]))
        address = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), place)
        builder.call(fetch, [address, flag(0), flag(3), flag(1)])           # to read, to be kept, data
        return context.get_dummy_value()
    return types.void(memory, types.int64), build


@jit
def load(data, i):
    """The word of the bytes data[i] to data[i + 7], which must exist. LLVM makes one load of this."""
    at, word = np.uint64(i), np.uint64(0)
    for k in range(8):
        word |= np.uint64(data[at + np.uint64(k)]) << np.uint64(8 * k)
    return word


@jit
def not_between(word, least, greatest):
    """Mask of the bytes that are not in least ... greatest, both below 128."""
    low = word & LOW_7
    below = ~(low + np.uint64((128 - least) * EACH))
    above = low + np.uint64((127 - greatest) * EACH)
    return (below | above | word) & HIGH


@jit
def first_marked(mask):
    """Place of the first marked byte, 8 if there is none."""
    return trailing_zeros(mask) >> 3
