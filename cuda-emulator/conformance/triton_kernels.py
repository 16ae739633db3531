"""Triton kernels, compiled offline for sm_80 (those with 8-bit floats for sm_89), run by the driver library named on the command
line and compared with numpy."""

import ctypes
import os
import sys

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import numpy as np
import triton
import triton.language as tl
from driver import Driver
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def add(x, y, out, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)


@triton.jit
def softmax(x, out, columns, B: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, B)
    value = tl.load(x + row * columns + i, mask=i < columns, other=-float("inf")).to(tl.float32)
    value = tl.exp(value - tl.max(value, axis=0))
    tl.store(out + row * columns + i, value / tl.sum(value, axis=0), mask=i < columns)


@triton.jit
def layer_norm(x, weight, bias, out, columns, B: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, B)
    inside = i < columns
    value = tl.load(x + row * columns + i, mask=inside, other=0.0)
    centred = tl.where(inside, value - tl.sum(value, axis=0) / columns, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / columns + 1e-5)
    result = centred * scale * tl.load(weight + i, mask=inside) + tl.load(bias + i, mask=inside)
    tl.store(out + row * columns + i, result, mask=inside)


@triton.jit
def matmul(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    from_a = a + rows[:, None] * K + inner[None, :]
    from_b = b + inner[:, None] * N + columns[None, :]
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        tile_a = tl.load(from_a, mask=(rows[:, None] < M) & (inner[None, :] < K - k), other=0.0)
        tile_b = tl.load(from_b, mask=(inner[:, None] < K - k) & (columns[None, :] < N), other=0.0)
        total = tl.dot(tile_a, tile_b, total)
        from_a += BK
        from_b += BK * N
    tl.store(c + rows[:, None] * N + columns[None, :], total, mask=(rows[:, None] < M) & (columns[None, :] < N))


@triton.jit
def matmul_int8(a, b, c, B: tl.constexpr):
    i = tl.arange(0, B)
    tile_a = tl.load(a + i[:, None] * B + i[None, :])
    tile_b = tl.load(b + i[:, None] * B + i[None, :])
    tl.store(c + i[:, None] * B + i[None, :], tl.dot(tile_a, tile_b, out_dtype=tl.int32))


@triton.jit
def to_fp8(x, wide, narrow, out, B: tl.constexpr):
    i = tl.arange(0, B)
    value = tl.load(x + i)
    tl.store(wide + i, value.to(tl.float8e4nv))
    tl.store(narrow + i, value.to(tl.float8e5))
    back = value.to(tl.float8e4nv).to(tl.float32)
    tl.store(out + i, back + value.to(tl.float8e5).to(tl.float32))


@triton.jit
def attention(q, k, v, out, n, scale, B: tl.constexpr, D: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    d = tl.arange(0, D)
    query = tl.load(q + i[:, None] * D + d[None, :])
    best = tl.full((B,), -float("inf"), tl.float32)
    weight = tl.zeros((B,), tl.float32)
    total = tl.zeros((B, D), tl.float32)
    for start in range(0, n, B):
        j = start + tl.arange(0, B)
        key = tl.load(k + j[:, None] * D + d[None, :])
        score = tl.dot(query, tl.trans(key)) * scale
        score = tl.where(i[:, None] >= j[None, :], score, -float("inf"))
        peak = tl.maximum(best, tl.max(score, axis=1))
        part = tl.exp(score - peak[:, None])
        shrink = tl.exp(best - peak)
        weight = weight * shrink + tl.sum(part, axis=1)
        value = tl.load(v + j[:, None] * D + d[None, :])
        total = tl.dot(part.to(tl.bfloat16), value, total * shrink[:, None])
        best = peak
    tl.store(out + i[:, None] * D + d[None, :], total / weight[:, None])


@triton.jit
def histogram(x, out, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.atomic_add(out + tl.load(x + i, mask=i < n, other=0), 1, mask=i < n)


@triton.jit
def atomics(x, out, B: tl.constexpr):
    value = tl.load(x + tl.program_id(0) * B + tl.arange(0, B))
    slot = out + tl.arange(0, B) % 4
    tl.atomic_max(slot, value)
    tl.atomic_min(slot + 4, value)
    tl.atomic_or(slot + 8, value)
    tl.atomic_xor(slot + 12, value)
    tl.atomic_and(slot + 16, value)


@triton.jit
def locked_sum(x, out, lock, B: tl.constexpr):
    value = tl.load(x + tl.program_id(0) * B + tl.arange(0, B))
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    i = out + tl.arange(0, B)
    tl.store(i, tl.load(i) + value)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@triton.jit
def reductions(x, sums, least, where, B: tl.constexpr, C: tl.constexpr):
    i = tl.arange(0, B)[:, None] * C + tl.arange(0, C)[None, :]
    value = tl.load(x + i)
    tl.store(sums + tl.arange(0, C), tl.sum(value, axis=0))
    tl.store(least + tl.arange(0, B), tl.min(value, axis=1))
    tl.store(where + tl.arange(0, B), tl.argmax(value, axis=1))


@triton.jit
def combine(decay_a, value_a, decay_b, value_b):
    return decay_a * decay_b, value_a * decay_b + value_b


@triton.jit
def scans(x, sums, recurrence, B: tl.constexpr):
    i = tl.arange(0, B)
    value = tl.load(x + i)
    tl.store(sums + i, tl.cumsum(value, axis=0))
    _, state = tl.associative_scan((tl.full((B,), 0.5, tl.float32), value), 0, combine)
    tl.store(recurrence + i, state)


@triton.jit
def sorting(x, out, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(out + i, tl.sort(tl.load(x + i)))


@triton.jit
def functions(x, out, B: tl.constexpr):
    i = tl.arange(0, B)
    value = tl.load(x + i)
    tl.store(out + i, tl.exp2(value))
    tl.store(out + B + i, tl.log2(value))
    tl.store(out + 2 * B + i, tl.sin(value))
    tl.store(out + 3 * B + i, tl.cos(value))
    tl.store(out + 4 * B + i, tl.sqrt(value))
    tl.store(out + 5 * B + i, tl.sigmoid(value))
    tl.store(out + 6 * B + i, tl.erf(value))
    tl.store(out + 7 * B + i, tl.floor(value * 10))
    tl.store(out + 8 * B + i, tl.div_rn(1.0, value))


@triton.jit
def integers(x, y, out, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    b = tl.load(y + i)
    tl.store(out + i, a // b)
    tl.store(out + B + i, a % b)
    tl.store(out + 2 * B + i, tl.umulhi(a.to(tl.uint32), b.to(tl.uint32)).to(tl.int32))
    tl.store(out + 3 * B + i, (a << 3) ^ (b >> 2))


NAMES = {
    "float32": "fp32",
    "float16": "fp16",
    "uint16": "bf16",
    "uint8": "fp8e4nv",
    # Nothing computes with 8-bit booleans here: they stand for the other 8-bit format.
    "bool": "fp8e5",
    "int32": "i32",
    "int8": "i8",
    "uint32": "u32",
    "int64": "i64",
}


def to_bf16(x):
    """bfloat16 bits, rounded to the nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def fp8_values(exponent_bits):
    """What the non-negative bit patterns below infinity and NaN stand for."""
    fraction_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    count = {4: 0x7F, 5: 0x7C}[exponent_bits]
    codes = np.arange(count)
    exponent, fraction = codes >> fraction_bits, codes & 2**fraction_bits - 1
    normal = (1 + fraction / 2**fraction_bits) * 2.0 ** (exponent - bias)
    return np.where(exponent == 0, fraction / 2**fraction_bits * 2.0 ** (1 - bias), normal)


def to_fp8_bits(x, exponent_bits):
    """The nearest number's bits, of two the even ones; what is too large becomes the largest."""
    values, x = fp8_values(exponent_bits), np.asarray(x, np.float64)
    above = np.searchsorted(values, np.abs(x)).clip(1, len(values) - 1)
    low, high = np.abs(x) - values[above - 1], values[above] - np.abs(x)
    code = np.where((low < high) | (low == high) & (above % 2 == 1), above - 1, above)
    return (code | np.signbit(x) * 0x80).astype(np.uint8)


class Suite:
    def __init__(self, library):
        self.driver = Driver(library)
        self.wrong = 0

    def run(self, kernel, grid, arguments, warps=4, stages=3, fusion=True, capability=80, **constants):
        """Arguments are numpy arrays (unsigned ones of 16 bits hold bfloat16, of 8 bits E4M3), whole numbers (i32) and floats (fp32)."""
        names = [name for name in kernel.arg_names if name not in constants]
        signature, values, attributes = {}, [], {}
        for name, argument in zip(names, arguments, strict=True):
            index = kernel.arg_names.index(name)
            if isinstance(argument, np.ndarray):
                signature[name] = "*" + NAMES[argument.dtype.name]
                values.append(argument)
                attributes[(index,)] = [["tt.divisibility", 16]]
            elif isinstance(argument, float):
                signature[name] = "fp32"
                values.append(ctypes.c_float(argument))
            else:
                signature[name] = "i32"
                values.append(ctypes.c_int32(argument))
                if argument % 16 == 0:
                    attributes[(index,)] = [["tt.divisibility", 16]]
        signature |= {name: "constexpr" for name in constants}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
        options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": fusion}
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        shared = compiled.metadata.shared
        function = self.driver.function(compiled.asm["ptx"], compiled.metadata.name, shared)
        # Two pointers to scratch memory follow, which these kernels do not use.
        values += [ctypes.c_uint64(0), ctypes.c_uint64(0)]
        self.driver.launch(function, (*grid, 1, 1)[:3], 32 * warps, shared, values)
        return compiled.asm["ptx"]

    def test(self, name, body):
        """`body` returns pairs of what was found and expected, with tolerances."""
        try:
            for found, expected, tolerance in body():
                np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        except Exception as error:  # Each test counts on its own.
            self.wrong += 1
            print(f"WRONG {name}: {type(error).__name__}: {error}", flush=True)
            self.driver.restart()
        else:
            print(f"ok    {name}", flush=True)


def main():
    suite = Suite(sys.argv[1])
    random = np.random.default_rng(7)

    def normal(*shape):
        return random.standard_normal(shape, np.float32)

    def test_add():
        x, y, out = normal(1000), normal(1000), np.zeros(1000, np.float32)
        suite.run(add, (4,), [x, y, out, 1000], B=256)
        return [(out, x + y, 0)]

    def test_softmax():
        x, out = normal(8, 300), np.zeros((8, 300), np.float32)
        suite.run(softmax, (8,), [x, out, 300], B=512)
        e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
        return [(out, e / e.sum(1, keepdims=True), 1e-6)]

    def test_softmax_bf16():
        x, out = to_bf16(normal(4, 128)), np.zeros((4, 128), np.uint16)
        suite.run(softmax, (4,), [x, out, 128], warps=1, B=128)
        e = np.exp(from_bf16(x).astype(np.float64))
        return [(from_bf16(out), e / e.sum(1, keepdims=True), 4e-3)]

    def test_layer_norm():
        x, w, b, out = normal(5, 200), normal(200), normal(200), np.zeros((5, 200), np.float32)
        # With fused multiply-adds the sums of squares differ between the lanes of a warp in their last bit, and the lanes
        # store them to one address: which one stays is undefined, and reported.
        suite.run(layer_norm, (5,), [x, w, b, out, 200], warps=8, fusion=False, B=256)
        c = x.astype(np.float64)
        c -= c.mean(1, keepdims=True)
        return [(out, c / np.sqrt((c * c).mean(1, keepdims=True) + 1e-5) * w + b, 2e-5)]

    def product(kind, m, n, k, bm, bn, bk, warps, stages):
        def body():
            # Whole numbers: every partial sum is exact.
            a = random.integers(-4, 5, (m, k)).astype(np.float32)
            b = random.integers(-4, 5, (k, n)).astype(np.float32)
            c = np.zeros((m, n), np.float32)
            cast = {"bf16": to_bf16, "fp16": lambda x: x.astype(np.float16), "tf32": lambda x: x, "fp8": lambda x: to_fp8_bits(x, 4)}[kind]
            grid = (-(-m // bm), -(-n // bn))
            capability = 89 if kind == "fp8" else 80
            arguments = [cast(a), cast(b), c, m, n, k]
            ptx = suite.run(matmul, grid, arguments, warps, stages, capability=capability, BM=bm, BN=bn, BK=bk)
            assert "mma.sync" in ptx and (stages == 1 or "cp.async" in ptx)
            return [(c, a @ b, 0)]

        return body

    def test_matmul_random():
        a, b, c = to_bf16(normal(64, 256)), to_bf16(normal(256, 64)), np.zeros((64, 64), np.float32)
        suite.run(matmul, (1, 1), [a, b, c, 64, 64, 256], BM=64, BN=64, BK=32)
        return [(c, from_bf16(a).astype(np.float64) @ from_bf16(b), 1e-4)]

    def test_int8():
        a = random.integers(-128, 128, (64, 64)).astype(np.int8)
        b = random.integers(-128, 128, (64, 64)).astype(np.int8)
        c = np.zeros((64, 64), np.int32)
        suite.run(matmul_int8, (1,), [a, b, c], B=64)
        return [(c, a.astype(np.int32) @ b.astype(np.int32), 0)]

    def test_fp8():
        many = normal(400) * 2.0 ** random.integers(-12, 12, 400).astype(np.float32)
        x = np.concatenate([many, np.float32([0, -0.0, 1e9, -1e9, 17, 19, 464, 2.0**-10])])
        x = np.resize(x, 512).astype(np.float32)
        wide, narrow, out = np.zeros(512, np.uint8), np.zeros(512, np.bool_), np.zeros(512, np.float32)
        suite.run(to_fp8, (1,), [x, wide, narrow, out], capability=89, B=512)
        codes = [to_fp8_bits(x, 4), to_fp8_bits(x, 5)]
        numbers = [np.where(c & 0x80, -1, 1) * fp8_values(e)[c & 0x7F] for c, e in zip(codes, (4, 5), strict=True)]
        return [(wide, codes[0], 0), (narrow.view(np.uint8), codes[1], 0), (out, sum(numbers), 0)]

    def test_attention():
        n, d = 128, 64
        q, k, v = (to_bf16(normal(n, d)) for _ in range(3))
        out = np.zeros((n, d), np.float32)
        suite.run(attention, (n // 64,), [q, k, v, out, n, d**-0.5], B=64, D=d)
        s = from_bf16(q).astype(np.float64) @ from_bf16(k).T * d**-0.5
        e = np.exp(np.where(np.tri(n, dtype=bool), s, -np.inf))
        return [(out, e / e.sum(1, keepdims=True) @ from_bf16(v), 2e-2)]

    def test_histogram():
        x, out = random.integers(0, 50, 3000).astype(np.int32), np.zeros(50, np.int32)
        suite.run(histogram, (6,), [x, out, 3000], B=512)
        return [(out, np.bincount(x, minlength=50), 0)]

    def test_atomics():
        x = random.integers(-(2**31), 2**31, 1024).astype(np.int32)
        out = np.zeros(20, np.int32)
        out[:4], out[4:8], out[16:] = -(2**31), 2**31 - 1, -1
        suite.run(atomics, (4,), [x, out], B=256)
        lanes = x.reshape(-1, 4)
        fold = [np.maximum, np.minimum, np.bitwise_or, np.bitwise_xor, np.bitwise_and]
        return [(out, np.concatenate([f.reduce(lanes, axis=0) for f in fold]), 0)]

    def test_lock():
        x, out, lock = random.integers(0, 100, (16, 128)).astype(np.int32), np.zeros(128, np.int32), np.zeros(1, np.int32)
        suite.run(locked_sum, (16,), [x, out, lock], B=128)
        return [(out, x.sum(0), 0), (lock, [0], 0)]

    def test_reductions():
        x = normal(64, 32)
        sums, least, where = np.zeros(32, np.float32), np.zeros(64, np.float32), np.zeros(64, np.int32)
        suite.run(reductions, (1,), [x, sums, least, where], B=64, C=32)
        return [(sums, x.sum(0), 1e-5), (least, x.min(1), 0), (where, x.argmax(1), 0)]

    def test_scans():
        x, sums, states = normal(512), np.zeros(512, np.float32), np.zeros(512, np.float32)
        suite.run(scans, (1,), [x, sums, states], B=512)
        state, expected = 0.0, []
        for value in x.astype(np.float64):
            state = state * 0.5 + value
            expected.append(state)
        return [(sums, np.cumsum(x.astype(np.float64)), 1e-4), (states, expected, 1e-5)]

    def test_sort():
        x, out = normal(256), np.zeros(256, np.float32)
        suite.run(sorting, (1,), [x, out], B=256)
        return [(out, np.sort(x), 0)]

    def test_functions():
        x = random.uniform(0.01, 3, 256).astype(np.float32)
        out = np.zeros((9, 256), np.float32)
        suite.run(functions, (1,), [x, out], B=256)
        y = x.astype(np.float64)
        erf = np.vectorize(__import__("math").erf)
        expected = [2**y, np.log2(y), np.sin(y), np.cos(y), np.sqrt(y), 1 / (1 + np.exp(-y)), erf(y), np.floor(x * np.float32(10)), 1 / y]
        return [(found, wanted, 2e-6) for found, wanted in zip(out, expected, strict=True)]

    def test_integers():
        x = random.integers(-(2**31), 2**31, 256).astype(np.int32)
        y = random.integers(1, 1000, 256).astype(np.int32) * random.choice([-1, 1], 256).astype(np.int32)
        out = np.zeros((4, 256), np.int32)
        suite.run(integers, (1,), [x, y, out], B=256)
        a, b = x.astype(np.int64), y.astype(np.int64)
        quotient = np.trunc(a / b).astype(np.int64)
        high = ((a & 0xFFFFFFFF).astype(np.uint64) * (b & 0xFFFFFFFF).astype(np.uint64) >> np.uint64(32)).astype(np.uint32).view(np.int32)
        shifted = (a << 3).astype(np.int32) ^ (y >> 2)
        return [(out, np.stack([quotient, a - quotient * b, high, shifted]).astype(np.int32), 0)]

    tests = {
        "vector add": test_add,
        "softmax f32": test_softmax,
        "softmax bf16": test_softmax_bf16,
        "layer norm": test_layer_norm,
        "matmul bf16, 4 warps, 3 stages": product("bf16", 100, 72, 80, 64, 64, 32, 4, 3),
        "matmul bf16, 8 warps, 4 stages": product("bf16", 128, 128, 256, 128, 128, 32, 8, 4),
        "matmul f16, 2 stages": product("fp16", 64, 64, 128, 32, 64, 64, 2, 2),
        "matmul tf32": product("tf32", 64, 64, 64, 64, 64, 32, 4, 3),
        "matmul e4m3": product("fp8", 64, 64, 128, 64, 64, 64, 4, 3),
        "conversions to and from 8 bits": test_fp8,
        "matmul bf16, random": test_matmul_random,
        "matmul int8": test_int8,
        "attention": test_attention,
        "histogram": test_histogram,
        "atomics": test_atomics,
        "spin lock between blocks": test_lock,
        "reductions": test_reductions,
        "scans": test_scans,
        "sort": test_sort,
        "functions": test_functions,
        "integer arithmetic": test_integers,
    }
    for name, body in tests.items():
        suite.test("Triton " + name, body)
    sys.exit(suite.wrong != 0)


if __name__ == "__main__":
    main()
