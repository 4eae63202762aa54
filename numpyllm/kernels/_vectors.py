"""Vector registers: how wide they are here, and LLVM's instructions on them, for what Python and Numba cannot say."""

import platform

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils


def _registers():
    """The width of the vector registers in bytes, and the rows of a tile: rows x 2 + 3 registers should be there.

    AVX-512 has 32 of 64 bytes, AVX2 16 of 32, the x86 before it 16 of 16, ARM and others 32 of 16.
    """
    if numba.config.CPU_FEATURES is not None:
        features = {name[1:] for name in numba.config.CPU_FEATURES.split(",") if name.startswith("+")}
    else:
        features = {name for name, there in llvmlite.binding.get_host_cpu_features().items() if there}
    if "avx512f" in features:
        return 64, 12
    if platform.machine().lower() in ("x86_64", "amd64"):
        return 32 if {"avx2", "fma"} <= features else 16, 6
    return 16, 12


WIDTH, ROWS = _registers()
INTEGER, BIT = ir.IntType(64), ir.IntType(1)


class Vectors:
    """LLVM's instructions on vectors of one type, and on arrays given as addresses. Offsets count entries."""

    def __init__(self, builder, real):
        self.builder, self.bits = builder, real.bitwidth
        self.number = ir.FloatType() if real.bitwidth == 32 else ir.DoubleType()
        self.lanes = 8 * WIDTH // real.bitwidth
        self.vector = ir.VectorType(self.number, self.lanes)
        self.mask = ir.VectorType(BIT, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def integer(self, value):
        return ir.Constant(INTEGER, value)

    def _place(self, address, offset, type_):
        numbers = self.builder.inttoptr(address, self.number.as_pointer())
        return self.builder.bitcast(self.builder.gep(numbers, [offset]), type_.as_pointer())

    def _call(self, name, result, *arguments):
        kind = ir.FunctionType(result, [a.type for a in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def number_at(self, address, offset):
        return self.builder.load(self._place(address, offset, self.number))

    def load(self, address, offset, mask=None):
        """A vector; where the mask is not set, 0, and memory is not touched."""
        place = self._place(address, offset, self.vector)
        if mask is None:
            return self.builder.load(place, align=self.bits // 8)
        return self._call(f"llvm.masked.load.v{self.lanes}f{self.bits}.p0", self.vector,
                          place, ir.Constant(ir.IntType(32), self.bits // 8), mask, self.zero)

    def store(self, address, offset, value, mask=None):
        place = self._place(address, offset, self.vector)
        if mask is None:
            self.builder.store(value, place, align=self.bits // 8)
        else:
            self._call(f"llvm.masked.store.v{self.lanes}f{self.bits}.p0", ir.VoidType(),
                       value, place, ir.Constant(ir.IntType(32), self.bits // 8), mask)

    def fetch_early(self, address, offset, write=True):
        """Have the memory there brought into the nearest cache, without waiting for it."""
        byte = ir.IntType(8)
        flags = (ir.Constant(ir.IntType(32), value) for value in (int(write), 3, 1))
        self._call("llvm.prefetch.p0", ir.VoidType(), self._place(address, offset, byte), *flags)

    def multiply_add(self, x, y, z):
        """x y + z, in one instruction where the processor has it."""
        return self.builder.fadd(self.builder.fmul(x, y, flags=["contract"]), z, flags=["contract"])

    def spread(self, value):
        """A vector with this value in each place."""
        vector = ir.VectorType(value.type, self.lanes)
        one = self.builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(one, one, [0] * self.lanes)

    def shuffle(self, x, y, places):
        """Entries of x, then of y, counted through, in this order."""
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), places))

    def first(self, n):
        """The mask of the first n places."""
        numbers = ir.Constant(ir.VectorType(INTEGER, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self.spread(n))
