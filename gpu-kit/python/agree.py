"""One small layer in bf16, forward and backward, by millet on the device and by torch on the same values.

    agree.py [--device cuda|cpu] [--parity PROGRAM]

The example `parity` reads the values from a file and writes its results to another. Both are compared with torch in f64: millet's error
may be twice that of a plain computation in bf16 and 1e-5 more, which is the rule of millet's own tests. The experts chosen must be
the same. --device is where torch computes; millet uses its own device, which is the emulator where there is no GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TOKENS, HIDDEN, INNER, EXPERTS, TOP_K = 256, 128, 96, 32, 4
CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_experts": EXPERTS,
    "top_k": TOP_K,
    "score_function": "softmax_after_topk",
    "scaling_factor": 1.0,
    "capacity_factor": None,
    "drop_policy": "probability",
    "aux_loss_coeff": 0.0,
    "z_loss_coeff": 0.0,
}


def values(device):
    generator = torch.Generator().manual_seed(7)

    def normal(*size, scale=1.0):
        return (torch.randn(*size, generator=generator) * scale).to(torch.bfloat16).to(device)

    return {
        "x": normal(TOKENS, HIDDEN),
        "router.weight": normal(EXPERTS, HIDDEN, scale=HIDDEN**-0.5),
        "experts.gate_up_proj": normal(EXPERTS, 2 * INNER, HIDDEN, scale=1.4 * HIDDEN**-0.5),
        "experts.down_proj": normal(EXPERTS, HIDDEN, INNER, scale=1.4 * INNER**-0.5),
        "grad_output": normal(TOKENS, HIDDEN),
    }


def plain(given, dtype, ids=None):
    """Ids, the output and the gradients, one expert after the other; logits and their softmax in f32 at least."""
    *trained, gradient = [tensor.detach().to(dtype) for tensor in given.values()]
    x, router, gate_up, down = [tensor.requires_grad_() for tensor in trained]
    wide = torch.promote_types(dtype, torch.float32)
    logits = x.to(wide) @ router.to(wide).T
    if ids is None:
        ids = logits.topk(TOP_K).indices
    weights = logits.gather(1, ids).softmax(-1).to(dtype)
    output = torch.zeros_like(x)
    for expert in range(EXPERTS):
        token, slot = (ids == expert).nonzero(as_tuple=True)
        gate, up = (x[token] @ gate_up[expert].T).chunk(2, -1)
        rows = (torch.nn.functional.silu(gate) * up) @ down[expert].T
        output = output.index_add(0, token, rows * weights[token, slot, None])
    gradients = torch.autograd.grad(output, (x, router, gate_up, down), gradient)
    names = ["output", *(f"grad_{name}" for name in list(given)[:4])]
    return ids, dict(zip(names, (output.detach(), *gradients)))


def relative(got, want):
    """‖got − want‖ / ‖want‖."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--parity", default="parity", help="the built example; `parity` on the path unless given")
    arguments = parser.parse_args()
    given = values(arguments.device)
    with tempfile.TemporaryDirectory() as directory:
        source, target = (str(Path(directory) / name) for name in ("in.safetensors", "out.safetensors"))
        save_file({name: tensor.cpu() for name, tensor in given.items()}, source, metadata={"config": json.dumps(CONFIG)})
        subprocess.run([arguments.parity, source, target, "--device", "cuda", "--dtype", "bf16"], check=True, stdout=subprocess.DEVNULL)
        got = {name: tensor.to(arguments.device) for name, tensor in load_file(target).items()}
    ids, exact = plain(given, torch.float64)
    _, rounded = plain(given, torch.bfloat16, ids)
    differing = int((ids.sort().values != got["topk_indices"].sort().values).sum())
    wrong = [] if differing == 0 else [f"{differing} ids"]
    for name, want in exact.items():
        error, plain_error = relative(got[name], want), relative(rounded[name], want)
        most = 2 * plain_error + 1e-5
        line = {"kind": "agree", "tensor": name, "error": error, "torch_error": plain_error, "tolerance": most, "dtype": "bf16"}
        if os.environ.get("KIT_RECORD"):
            with open(os.environ["KIT_RECORD"], "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        print(f"{name}: error {error:.1e}, of torch {plain_error:.1e}")
        if not error <= most:
            wrong.append(name)
    if wrong:
        print(f"millet differs from torch in {', '.join(wrong)}")
        return 1
    print(f"millet agrees with torch {torch.__version__}: {len(exact)} tensors and the ids of {TOKENS} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
