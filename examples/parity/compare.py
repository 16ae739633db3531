"""Checks Mixture-of-Experts layers of other libraries against this crate, forward and backward.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors numpy
    venv/bin/pip install --no-deps megatron-core        # optional: its router, dropping and losses
    cargo build --release --example parity
    venv/bin/python examples/parity/compare.py [--parity target/release/examples/parity] [NAME...]

For each case: make the other library's block with random weights, write its inputs and weights as parity's IN file, run
parity, run the block and autograd, and print the relative Frobenius error of every tensor. All in f32 on the CPU. Exit code 1
when an error is over 1e-5 or a routing differs. To check a layer of your own, write one more function that returns a Case.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import torch
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-5
T, H, I, E, K = 256, 128, 96, 64, 8
GROUPS = (8, 4)
AUX, Z = 0.01, 0.001


@dataclass
class Result:
    """What a library computes. ids and weights [T, K] before dropping, in any order within a token."""

    output: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    kept: torch.Tensor | None = None  # [T, E], bool; None: everything
    aux: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    z: torch.Tensor = field(default_factory=lambda: torch.zeros(()))


@dataclass
class Case:
    """A library's layer: parity's config, the weights, and a function of x [T, H] that uses them."""

    config: dict
    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    forward: Callable[[torch.Tensor], Result]
    bias: torch.Tensor | None = None
    tokens: int = T


def config(score_function, scaling=1.0, groups=None, capacity=None, policy="probability", aux=0.0, z=0.0, top_k=K):
    return {
        "hidden_size": H,
        "intermediate_size": I,
        "num_experts": E,
        "top_k": top_k,
        "score_function": score_function,
        "scaling_factor": scaling,
        "n_group": groups and groups[0],
        "topk_group": groups and groups[1],
        "capacity_factor": capacity,
        "drop_policy": policy,
        "aux_loss_coeff": aux,
        "z_loss_coeff": z,
    }


# ---------------------------------------------------------------- transformers


class Nothing(torch.nn.Module):
    """In the place of shared experts, which are not part of the routed layer."""

    def forward(self, x):
        return torch.zeros_like(x)


def transformers_case(block, router, parity_config, aux=None):
    """A transformers block whose router returns (logits, weights, ids) and whose experts are fused tensors."""
    with torch.no_grad():
        router.weight.normal_(std=H**-0.5)
        block.experts.gate_up_proj.normal_(std=1.4 * H**-0.5)
        block.experts.down_proj.normal_(std=1.4 * I**-0.5)
    block.experts.config._experts_implementation = "eager"
    if hasattr(block, "shared_experts"):
        block.shared_experts = Nothing()
    bias = getattr(router, "e_score_correction_bias", None)
    if bias is not None:
        bias.normal_(std=0.2)
    routed = {}
    router.register_forward_hook(lambda _module, _inputs, outputs: routed.update(value=outputs))

    def forward(x):
        output = block(x[None])
        output = output[0] if isinstance(output, tuple) else output
        logits, weights, ids = routed["value"]
        result = Result(output.reshape(x.shape), ids, weights)
        if aux is not None:
            result.aux = aux(logits)
        return result

    return Case(parity_config, router.weight, block.experts.gate_up_proj, block.experts.down_proj, forward, bias)


def mixtral(aux=False):
    from transformers import MixtralConfig
    from transformers.models.mixtral import modeling_mixtral as mixtral

    theirs = MixtralConfig(hidden_size=H, intermediate_size=I, num_local_experts=E, num_experts_per_tok=K)
    block = mixtral.MixtralSparseMoeBlock(theirs)
    if not aux:
        return transformers_case(block, block.gate, config("softmax_after_topk"))
    # Its load-balancing loss lacks Megatron's 1/K.
    loss = lambda logits: AUX * mixtral.load_balancing_loss_func((logits,), E, K)
    return transformers_case(block, block.gate, config("softmax_after_topk", aux=AUX * K), loss)


def qwen3_moe(norm_topk_prob=True):
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    sizes = dict(hidden_size=H, moe_intermediate_size=I, num_experts=E, num_experts_per_tok=K)
    block = Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(**sizes, norm_topk_prob=norm_topk_prob))
    score = "softmax_after_topk" if norm_topk_prob else "softmax_before_topk"
    return transformers_case(block, block.gate, config(score))


def olmoe():
    from transformers import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

    theirs = OlmoeConfig(hidden_size=H, intermediate_size=I, num_experts=E, num_experts_per_tok=K)
    assert not theirs.norm_topk_prob
    block = OlmoeSparseMoeBlock(theirs)
    return transformers_case(block, block.gate, config("softmax_before_topk"))


def deepseek_v3():
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    theirs = DeepseekV3Config(
        hidden_size=H, moe_intermediate_size=I, n_routed_experts=E, num_experts_per_tok=K,
        n_group=GROUPS[0], topk_group=GROUPS[1], routed_scaling_factor=2.5, norm_topk_prob=True,
    )  # fmt: skip
    block = DeepseekV3MoE(theirs)
    return transformers_case(block, block.gate, config("sigmoid", scaling=2.5, groups=GROUPS))


def deepseek_v2():
    from transformers import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

    theirs = DeepseekV2Config(
        hidden_size=H, moe_intermediate_size=I, n_routed_experts=E, num_experts_per_tok=K, n_shared_experts=1,
        n_group=GROUPS[0], topk_group=GROUPS[1], topk_method="group_limited_greedy", routed_scaling_factor=16.0,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    block = DeepseekV2Moe(theirs)
    return transformers_case(block, block.gate, config("softmax_before_topk", scaling=16.0, groups=GROUPS))


def glm4_moe():
    from transformers import Glm4MoeConfig
    from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeMoE

    theirs = Glm4MoeConfig(
        hidden_size=H, moe_intermediate_size=I, n_routed_experts=E, num_experts_per_tok=K, n_shared_experts=1,
        n_group=1, topk_group=1, routed_scaling_factor=1.5, norm_topk_prob=True,
    )  # fmt: skip
    block = Glm4MoeMoE(theirs)
    return transformers_case(block, block.gate, config("sigmoid", scaling=1.5, groups=(1, 1)))


def granite_moe():
    from transformers import GraniteMoeConfig
    from transformers.models.granitemoe.modeling_granitemoe import GraniteMoeMoE

    theirs = GraniteMoeConfig(hidden_size=H, intermediate_size=I, num_local_experts=E, num_experts_per_tok=K)
    block = GraniteMoeMoE(theirs)
    return transformers_case(block, block.router, config("softmax_after_topk"))


def gpt_oss():
    """Its router (with a zero bias, which parity's file has no place for) before SwiGLU experts; its own experts have another
    activation and biases."""
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter

    case = mixtral()
    router = GptOssTopKRouter(GptOssConfig(hidden_size=H, num_local_experts=E, num_experts_per_tok=K))
    with torch.no_grad():
        router.weight.copy_(case.router)
    case.router = router.weight

    def forward(x):
        _, weights, ids = router(x)
        return Result(experts(x, dense(ids, weights), case.gate_up, case.down), ids, weights)

    case.forward = forward
    return case


# ---------------------------------------------------------------- Megatron-Core


def dense(ids, weights):
    """[T, K] → [T, E]."""
    return torch.zeros(len(ids), E).scatter(1, ids, weights)


def experts(x, probabilities, gate_up, down):
    """SwiGLU experts, every one on every token; probabilities [T, E]."""
    gate, up = torch.einsum("th,efh->tef", x, gate_up).chunk(2, -1)
    y = torch.einsum("tei,ehi->teh", torch.nn.functional.silu(gate) * up, down)
    return torch.einsum("te,teh->th", probabilities, y)


def megatron(score="softmax_after_topk", policy=None, biased=False, groups=None, scaling=1.0, top_k=K, renormalize=False):
    """Megatron-Core's router, token dropping at capacity factor 0.8 and both losses, before dense SwiGLU experts.

    Where Megatron leaves something open or has nothing, the definition is written out here: "position" keeps the first by token
    (its topk over a 0/1 map may keep any), "slot_major" is GShard's order, `renormalize` is DeepSpeed's. The balancing loss counts
    the assignments that were made; Megatron's caller counts those of a router without groups and bias.
    """
    from megatron.core.transformer.moe import moe_utils

    router = torch.nn.Parameter(torch.randn(E, H) * H**-0.5)
    gate_up = torch.nn.Parameter(torch.randn(E, 2 * I, H) * 1.4 * H**-0.5)
    down = torch.nn.Parameter(torch.randn(E, H, I) * 1.4 * I**-0.5)
    bias = torch.randn(E) * 0.2 if biased else None
    function = "sigmoid" if score == "sigmoid" else "softmax"
    factor = 0.8

    def drop(probabilities, chosen, ids):
        if policy == "probability":
            return moe_utils.apply_router_token_dropping(probabilities, chosen, top_k, factor)[1]
        capacity = moe_utils.get_capacity(T * top_k, E, factor)
        if policy == "position":
            return chosen & (chosen.cumsum(0) <= capacity)
        slots = torch.nn.functional.one_hot(ids.T, E)  # [K, T, E]
        place = slots.reshape(-1, E).cumsum(0).reshape(slots.shape)
        return (slots.bool() & (place <= capacity)).any(0)

    def forward(x):
        logits = x @ router.T
        probabilities, chosen = moe_utils.topk_routing_with_score_function(
            logits, top_k, use_pre_softmax=score == "softmax_before_topk", score_function=function,
            expert_bias=bias, scaling_factor=scaling,
            num_groups=groups and groups[0], group_topk=groups and groups[1],
        )  # fmt: skip
        weights, ids = probabilities.masked_fill(~chosen, -1.0).topk(top_k, 1)
        same, scores = moe_utils.compute_routing_scores_for_aux_loss(logits, top_k, function)
        assert biased or groups or torch.equal(same, chosen)
        aux = moe_utils.switch_load_balancing_loss_func(scores, chosen.sum(0), T, top_k, E, AUX)
        z = moe_utils.z_loss_func(logits, Z)
        kept = chosen
        if policy:
            kept = drop(probabilities.detach(), chosen, ids)
            assert kept.sum() < chosen.sum()
        final = probabilities * kept
        if renormalize:
            total = final.sum(1, keepdim=True)
            final = final / torch.where(total > 0, total, 1.0) * scaling
        return Result(experts(x, final, gate_up, down), ids, weights, kept, aux, z)

    ours = config(
        score, scaling=scaling, groups=groups, capacity=factor if policy else None,
        policy=policy or "probability", aux=AUX, z=Z, top_k=top_k,
    )  # fmt: skip
    ours["renormalize_after_drop"] = renormalize
    return Case(ours, router, gate_up, down, forward, bias)


CASES = {
    "mixtral": mixtral,
    "mixtral with its aux loss": lambda: mixtral(aux=True),
    "qwen3-moe": qwen3_moe,
    "qwen3-moe, norm_topk_prob=False": lambda: qwen3_moe(False),
    "olmoe": olmoe,
    "deepseek-v3": deepseek_v3,
    "deepseek-v2": deepseek_v2,
    "glm-4.5": glm4_moe,
    "granite-moe": granite_moe,
    "gpt-oss router": gpt_oss,
    "megatron": megatron,
    "megatron, pre-softmax": lambda: megatron("softmax_before_topk"),
    "megatron, sigmoid, bias, groups": lambda: megatron("sigmoid", None, True, GROUPS, 2.5),
    "megatron, drops by probability": lambda: megatron(policy="probability"),
    "megatron, pre-softmax, drops": lambda: megatron("softmax_before_topk", "probability"),
    "megatron, pre-softmax, top-1, drops": lambda: megatron("softmax_before_topk", "probability", top_k=1),
    "megatron, sigmoid, drops": lambda: megatron("sigmoid", "probability", scaling=2.5),
    "megatron, sigmoid, bias, groups, drops": lambda: megatron("sigmoid", "probability", True, GROUPS, 2.5),
    "drops by position": lambda: megatron(policy="position"),
    "drops slot-major (GShard)": lambda: megatron(policy="slot_major"),
    "pre-softmax, drops, renormalised": lambda: megatron("softmax_before_topk", "probability", renormalize=True),
    "sigmoid, drops, renormalised": lambda: megatron("sigmoid", "position", scaling=2.5, renormalize=True),
}


# ---------------------------------------------------------------- comparison


def relative(got, want):
    """‖got − want‖ / ‖want‖."""
    difference, norm = (got.double() - want.double()).norm(), want.double().norm()
    return (difference / norm if norm else difference).item()


def compare(case, parity, directory):
    """{tensor: error} of parity's file against the library; raises where the routing differs."""
    x = torch.randn(case.tokens, H, requires_grad=True)
    grad_output = torch.randn(case.tokens, H)
    tensors = {
        "x": x,
        "router.weight": case.router,
        "experts.gate_up_proj": case.gate_up,
        "experts.down_proj": case.down,
        "grad_output": grad_output,
    }
    if case.bias is not None:
        tensors["router.selection_bias"] = case.bias
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    source, target = directory / "IN.safetensors", directory / "OUT.safetensors"
    save_file(tensors, source, metadata={"config": json.dumps(case.config)})
    subprocess.run([parity, source, target], check=True, stdout=subprocess.DEVNULL)
    got = load_file(target)

    theirs = case.forward(x)
    ((theirs.output * grad_output).sum() + theirs.aux + theirs.z).backward()

    weights, order = theirs.weights.detach().sort(dim=1, descending=True, stable=True)
    ids = theirs.ids.gather(1, order)
    if not torch.equal(ids.int(), got["topk_indices"]):
        raise AssertionError(f"topk_indices differ in {(ids != got['topk_indices']).sum()} places")
    kept = torch.ones_like(ids).bool() if theirs.kept is None else theirs.kept.gather(1, ids)
    if not torch.equal(kept.int(), got["kept"]):
        raise AssertionError(f"kept differs in {(kept.int() != got['kept']).sum()} places")
    rows = torch.bincount(ids[kept], minlength=E)
    if not torch.equal(rows.int(), got["tokens_per_expert"]):
        raise AssertionError("tokens_per_expert differ")
    want = {
        "output": theirs.output,
        "topk_weights": weights,
        "aux_loss": theirs.aux[None],
        "z_loss": theirs.z[None],
        "grad_x": x.grad,
        "grad_router.weight": case.router.grad,
        "grad_experts.gate_up_proj": case.gate_up.grad,
        "grad_experts.down_proj": case.down.grad,
    }
    for name, tensor in want.items():
        assert got[name].shape == tensor.shape, f"{name}: {got[name].shape} against {tensor.shape}"
    return {name: relative(got[name], tensor.detach()) for name, tensor in want.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", type=Path, default=Path("target/release/examples/parity"), help="the built example")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"cases to run: {'; '.join(CASES)}")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(CASES)
    if unknown:
        parser.error(f"unknown case {', '.join(sorted(unknown))}")
    short = ["output", "weights", "aux", "z", "d x", "d router", "d gate_up", "d down"]
    print(f"{'':40}" + "".join(f"{name:>10}" for name in short))
    failed = 0
    for name in arguments.names or CASES:
        torch.manual_seed(0)
        try:
            with tempfile.TemporaryDirectory() as directory:
                errors = compare(CASES[name](), arguments.parity.absolute(), Path(directory))
        except ModuleNotFoundError as error:
            print(f"{name:40}  not run: {error}")
            continue
        except (AssertionError, subprocess.CalledProcessError) as error:
            print(f"{name:40}  FAILED: {error}")
            failed += 1
            continue
        bad = any(not error <= TOLERANCE for error in errors.values())
        failed += bad
        print(f"{name:40}" + "".join(f"{error:10.1e}" for error in errors.values()) + ("  FAILED" if bad else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
