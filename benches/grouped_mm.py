"""The layer of benches/torch.rs in PyTorch, on tensors that the bench wrote: one step for each line of its input.

    python3 grouped_mm.py FOLDER TYPE THREADS T H I E K

Reads FOLDER/NAME.f32, answers the lines `forward` and `both` with the seconds that they took, and `results` by writing the last
outputs and gradients to the same folder.
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

folder, dtype, threads, *sizes = sys.argv[1:]
T, H, I, E, K = map(int, sizes)
dtype = getattr(torch, dtype)
torch.set_num_threads(int(threads))


def file(name, shape, write=False):
    size = torch.Size(shape).numel()
    return torch.from_file(str(Path(folder) / f"{name}.f32"), shared=write, size=size).view(shape)


shapes = {"x": (T, H), "router": (E, H), "gate_up": (E, 2 * I, H), "down": (E, H, I)}
leaves = {name: file(name, shape).to(dtype).requires_grad_() for name, shape in shapes.items()}
output_grad = file("output_grad", (T, H)).to(dtype)


def forward():
    x, router, gate_up, down = leaves.values()
    # The router works in f32, as ours.
    top, ids = torch.topk(F.linear(x.float(), router.float()), K)
    weights = torch.softmax(top, dim=-1).reshape(-1)
    experts, order = torch.sort(ids.reshape(-1), stable=True)
    ends = torch.bincount(experts, minlength=E).cumsum(0).to(torch.int32)
    token = order // K
    h = F.grouped_mm(x[token], gate_up.transpose(1, 2), offs=ends)
    gate, up = h.chunk(2, dim=-1)
    y = F.grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)
    weighted = y.float() * weights[order, None]
    return torch.zeros(T, H).index_add(0, token, weighted).to(dtype)


def step(backward):
    for leaf in leaves.values():
        leaf.grad = None
    start = time.perf_counter()
    output = forward()
    if backward:
        output.backward(output_grad)
    return time.perf_counter() - start, output


print(f"PyTorch {torch.__version__}", flush=True)
for line in sys.stdin:
    command = line.strip()
    if command == "results":
        results = {"output": output.detach()} | {f"{name}_grad": leaf.grad for name, leaf in leaves.items()}
        for name, value in results.items():
            file(f"torch_{name}", value.shape, write=True).copy_(value)
        print("written", flush=True)
    elif command in ("forward", "both"):
        seconds, output = step(command == "both")
        print(seconds, flush=True)
    else:
        sys.exit(f"`{command}`: expected forward, both or results")
