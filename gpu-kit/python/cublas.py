"""The rate of one 8192³ product of bf16 by cuBLAS: in a burst on an idle device, and after three seconds of products."""

import json
import os
import sys
import time

import torch

SIZE = 8192
FLOPS = 2 * SIZE**3


def rate(product, count):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        product()
    end.record()
    end.synchronize()
    return FLOPS * count / (start.elapsed_time(end) / 1e3)


def main():
    # Random numbers: a GPU multiplies zeros at higher clocks.
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def product():
        torch.matmul(a, b, out=out)

    for _ in range(3):
        product()
    torch.cuda.synchronize()
    time.sleep(1)
    rates = {"burst": rate(product, 10)}
    until = time.monotonic() + 3
    while time.monotonic() < until:
        rate(product, 20)
    rates["after 3 s"] = rate(product, 20)
    with open(os.environ["KIT_RECORD"], "a", encoding="utf-8") as file:
        for when, value in rates.items():
            line = {"kind": "cublas", "when": when, "size": SIZE, "dtype": "bf16", "flops_per_second": value}
            file.write(json.dumps(line) + "\n")
    print(f"torch {torch.__version__}: " + ", ".join(f"{value / 1e12:.0f} TFLOP/s {when}" for when, value in rates.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
