"""What other libraries take for the layers that were measured: the same sizes, distributions of values and even routing, in bf16.

    others.py [--device cuda|cpu] [--seconds S] [--records FILE] [--shape NAME=T,H,I,E,K]... [--only WHAT]...

Shapes are those that FILE (default: kit.jsonl of $KIT_OUT) has times of; --shape gives others. Prints a line for each comparison and
appends it as a JSON object to $KIT_RECORD. Times are those of CUDA events around replays of a CUDA graph, where the library does not
wait for the device and can be captured, else around calls; the record says which. As many sets of inputs take turns as twice the L2
cache needs, 8 at most. A comparison that fails, or that there is no time for, is recorded with the reason.

Without a GPU, `TRITON_INTERPRET=1 others.py --device cpu --shape tiny=96,128,128,8,2` tries it.
"""

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

BF16 = torch.bfloat16
MOST_SETS = 8
SHAPES = {"sonic-h1536-i256-e128": (24576, 1536, 256, 128, 8), "Qwen3-30B-A3B-T4096": (4096, 2048, 768, 128, 8)}


@dataclass(frozen=True)
class Shape:
    name: str
    tokens: int
    hidden: int
    inner: int
    experts: int
    top_k: int

    @property
    def rows(self):
        return self.tokens * self.top_k

    def flops(self, passes):
        """Of the experts' products: 3 of them forward, 6 more backward."""
        return 2.0 * passes * self.rows * self.inner * self.hidden

    def weight_bytes(self):
        return 2 * 3 * min(self.experts, self.rows) * self.inner * self.hidden


class NotHere(Exception):
    """A reason to leave a comparison out."""


# ---------------------------------------------------------------- inputs


@dataclass
class Inputs:
    x: torch.Tensor
    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    output_grad: torch.Tensor

    def trained(self):
        return [self.x, self.router, self.gate_up, self.down]


def inputs(shape, device, seed):
    """The distributions of the benches: logits as wide as Gumbel's distribution, so that the experts are a draw without preference."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size, scale=1.0):
        return (torch.randn(*size, generator=generator, device=device, dtype=BF16) * scale).requires_grad_()

    spread = math.pi / math.sqrt(6)
    return Inputs(
        x=normal(shape.tokens, shape.hidden),
        router=normal(shape.experts, shape.hidden, scale=spread * shape.hidden**-0.5),
        gate_up=normal(shape.experts, 2 * shape.inner, shape.hidden, scale=1.4 * shape.hidden**-0.5),
        down=normal(shape.experts, shape.hidden, shape.inner, scale=1.4 * shape.inner**-0.5),
        output_grad=normal(shape.tokens, shape.hidden).detach(),
    )


def sets(shape, device):
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device == "cuda" else 0
    number = min(MOST_SETS, max(1, math.ceil(2 * cache / shape.weight_bytes())))
    return [inputs(shape, device, seed) for seed in range(1, number + 1)]


# ---------------------------------------------------------------- the layer, by torch's grouped product


def grouped_mm(rows, weight, offsets):
    """By the weights of each expert, transposed. Public since torch 2.10."""
    public = getattr(torch.nn.functional, "grouped_mm", None)
    return (public or torch._grouped_mm)(rows, weight.transpose(-2, -1), offs=offsets)


def routed(x, router, top_k):
    """Ids and weights [T, K]: softmax over the chosen."""
    logits = torch.nn.functional.linear(x, router).float()
    top, ids = logits.topk(top_k)
    return ids, top.softmax(-1)


def sorted_rows(ids, experts):
    """The assignment in each row, and where the rows of each expert end. Nothing waits for the device."""
    chosen = ids.flatten()
    order = chosen.argsort(stable=True)
    counts = torch.zeros(experts, device=ids.device, dtype=torch.int32)
    counts.scatter_add_(0, chosen, torch.ones_like(chosen, dtype=torch.int32))
    return order, counts.cumsum(0, dtype=torch.int32)


def grouped_layer(shape, given):
    ids, weights = routed(given.x, given.router, shape.top_k)
    order, offsets = sorted_rows(ids, shape.experts)
    rows = given.x.index_select(0, order // shape.top_k)
    gate, up = grouped_mm(rows, given.gate_up, offsets).chunk(2, -1)
    a = torch.nn.functional.silu(gate) * up
    y = grouped_mm(a, given.down, offsets) * weights.flatten()[order, None].to(BF16)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return y.index_select(0, back).view(shape.tokens, shape.top_k, shape.hidden).sum(1)


# ---------------------------------------------------------------- time


def spread(samples):
    samples = sorted(samples)
    at = lambda share: samples[round(share * (len(samples) - 1))]
    return {"median": at(0.5), "low": at(0.25), "high": at(0.75)}


class Clock:
    def __init__(self, device):
        self.device = device
        # Whether the last time is that of a graph.
        self.is_graph = False

    def time(self, runs, graph=True, budget=0.3):
        """Seconds of one of the runs, which take turns: {median, low, high}, and the number of samples."""
        once = (lambda: [run() for run in runs]) if self.device == "cpu" else self.prepared(runs, graph)
        samples, start = [], time.monotonic()
        while len(samples) < 5 or (len(samples) < 50 and time.monotonic() - start < budget):
            samples.append(self.lap(once) / len(runs))
        return spread(samples), len(samples)

    def prepared(self, runs, graph):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                for run in runs:
                    run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.is_graph = False
        if graph:
            captured = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(captured):
                    # Results stay alive, or the next run would write over them: as they do in a step of training.
                    kept = [run() for run in runs]
            except RuntimeError as error:
                print(f"no graph: {str(error).splitlines()[0]}", flush=True)
                torch.cuda.synchronize()
            else:
                captured.replay()
                torch.cuda.synchronize()
                del kept
                self.is_graph = True
                return captured.replay
        return lambda: [run() for run in runs]

    def lap(self, once):
        if self.device == "cpu":
            start = time.perf_counter()
            once()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        once()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


# ---------------------------------------------------------------- comparisons


class Comparison:
    """What is compared on one shape; each gives (operation, FLOPs, seconds, samples) one after the other."""

    def __init__(self, shape, device, clock):
        self.shape, self.device, self.clock = shape, device, clock

    def dense(self):
        """Each of the layer's products as one dense product of as many FLOPs, in order of the operations of millet."""
        shape = self.shape
        rows, hidden, inner = shape.rows, shape.hidden, shape.inner
        products = {  # m, n, k of c = a·bᵀ, and whether both lie with k outside, as they do for the weights' gradients
            "up": (rows, 2 * inner, hidden, False),
            "down": (rows, hidden, inner, False),
            "down-backward": (rows, inner, hidden, False),
            "down-weight-grad": (hidden, inner, rows, True),
            "up-weight-grad": (2 * inner, hidden, rows, True),
            "input-grad": (rows, hidden, 2 * inner, False),
        }
        for operation, (m, n, k, outside) in products.items():
            def tensor(size):
                made = torch.randn(k, size, device=self.device, dtype=BF16) if outside else None
                return made.t() if outside else torch.randn(size, k, device=self.device, dtype=BF16)

            a, b = tensor(m), tensor(n)
            out = torch.empty(m, n, device=self.device, dtype=BF16)
            seconds, samples = self.clock.time([lambda: torch.mm(a, b.t(), out=out)])
            yield operation, 2.0 * m * n * k, seconds, samples

    def layer(self, runs, graph=True):
        """Forward, and forward with backward; `runs` are functions of nothing with what they train and the gradient."""
        with torch.no_grad():
            seconds, samples = self.clock.time([run for run, _, _ in runs], graph)
        yield "inference", self.shape.flops(3), seconds, samples

        def both(run, trained, gradient):
            return lambda: torch.autograd.grad(run(), trained, gradient)

        seconds, samples = self.clock.time([both(*one) for one in runs], graph)
        yield "forward+backward", self.shape.flops(9), seconds, samples

    def grouped(self):
        runs = [(lambda given=given: grouped_layer(self.shape, given), given.trained(), given.output_grad)
                for given in sets(self.shape, self.device)]  # fmt: skip
        yield from self.layer(runs)

    def triton(self):
        """The two products of forward, without activation and combine; the best of a few tiles."""
        import grouped_product

        shape = self.shape
        # Triton's interpreter, which takes the place of a device, has no products of bf16.
        dtype = torch.float16 if self.device == "cpu" else BF16
        given = inputs(shape, self.device, 1)
        with torch.no_grad():
            ids, _ = routed(given.x, given.router, shape.top_k)
            order, offsets = sorted_rows(ids, shape.experts)
            token = (order // shape.top_k).int()
            a = torch.randn(shape.rows, shape.inner, device=self.device, dtype=dtype)
            own = torch.arange(shape.rows, device=self.device, dtype=torch.int32)
            for operation, x, rows, weight in (("up", given.x, token, given.gate_up), ("down", a, own, given.down)):
                x, weight = x.to(dtype), weight.to(dtype)
                want = grouped_mm(x[rows], weight, offsets)
                best, why = None, "no tile divides it"
                for tile in grouped_product.TILES:
                    try:
                        run = grouped_product.prepared(x, rows, weight, offsets, tile)
                        error = relative(run(), want)
                        if not error < 1e-2:
                            raise ValueError(f"wrong by {error:.1e} with the tile {tile}")
                        seconds, samples = self.clock.time([run], budget=0.15)
                    except Exception as error:  # another tile may do
                        why = str(error)
                        continue
                    if best is None or seconds["median"] < best[0]["median"]:
                        best = seconds, samples
                if best is None:
                    raise NotHere(why)
                yield operation, 2.0 * want.numel() * weight.shape[2], *best

    def transformers(self, implementation):
        from transformers import Qwen3MoeConfig
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

        shape = self.shape
        if implementation == "batched_mm" and self.device == "cuda":
            # It copies the weights of every assignment.
            needed = 2 * 3 * shape.rows * shape.inner * shape.hidden * 3
            free = torch.cuda.mem_get_info()[0]
            if needed > free:
                raise NotHere(f"copies of weights take {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
        config = Qwen3MoeConfig(
            hidden_size=shape.hidden, moe_intermediate_size=shape.inner, num_experts=shape.experts,
            num_experts_per_tok=shape.top_k, norm_topk_prob=True,
        )  # fmt: skip

        def one(given):
            with torch.device("meta"):
                block = Qwen3MoeSparseMoeBlock(config)
            block = block.to(BF16)
            block.gate.weight = torch.nn.Parameter(given.router.detach())
            block.experts.gate_up_proj = torch.nn.Parameter(given.gate_up.detach())
            block.experts.down_proj = torch.nn.Parameter(given.down.detach())
            block.experts.config._experts_implementation = implementation

            def run():
                output = block(given.x[None])
                return (output[0] if isinstance(output, tuple) else output).view(given.x.shape)

            return run, [given.x, *block.parameters()], given.output_grad

        given = sets(shape, self.device)
        runs = [one(these) for these in given]
        with torch.no_grad():
            # Logits in bf16 are often level, and then libraries choose differently.
            error = relative(runs[0][0](), grouped_layer(shape, given[0]))
        if not error < 0.1:
            raise NotHere(f"its output differs by {error:.1e} from that of grouped_mm")
        graph = implementation != "eager"  # which looks up on the host who has tokens
        yield from self.layer(runs, graph)


COMPARISONS = {
    "torch dense": Comparison.dense,
    "torch grouped_mm": Comparison.grouped,
    "triton": Comparison.triton,
    "transformers grouped_mm": lambda one: one.transformers("grouped_mm"),
    "transformers eager": lambda one: one.transformers("eager"),
    "transformers batched_mm": lambda one: one.transformers("batched_mm"),
}


def relative(got, want):
    """‖got − want‖ / ‖want‖."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


# ---------------------------------------------------------------- which, and what of it is kept


def measured(path):
    """Shapes that the records have times of on a GPU, in their order. Routing is even here, so other loads have no comparison."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            one = json.loads(line)
            name = one["case"]
            if one["kind"] == "time" and one["backend"] == "cuda" and one["bench"] in ("layer", "experts"):
                if not name.endswith(("-zipf", "-hot", "-empty", "-biased")):
                    found[name] = tuple(int(one["sizes"][key]) for key in "THIEK")
        except (ValueError, KeyError, TypeError):
            continue  # cut off, or of another kind
    return found


def record(line):
    path = os.environ.get("KIT_RECORD")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def shape_argument(text):
    name, _, sizes = text.rpartition("=")
    sizes = sizes.split(",")
    if not name or len(sizes) != 5 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"NAME=T,H,I,E,K is expected, but {text!r} was given")
    return name, tuple(map(int, sizes))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("KIT_EXPECTED", 60)), help="begin nothing after so long")
    parser.add_argument("--records", type=Path, default=Path(os.environ.get("KIT_OUT", ".")) / "kit.jsonl")
    parser.add_argument("--shape", type=shape_argument, action="append", default=[])
    parser.add_argument("--only", choices=list(COMPARISONS), action="append", default=[])
    return parser.parse_args()


def main():
    given = arguments()
    start = time.monotonic()
    shapes = dict(given.shape) or measured(given.records) or SHAPES
    shapes = [Shape(name, *sizes) for name, sizes in shapes.items()]
    clock = Clock(given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    versions = f"torch {torch.__version__}"
    times, reasons = 0, 0
    # What says most, on every shape, before what says less.
    wanted = given.only or list(COMPARISONS)
    for place, what in enumerate(wanted):
        for shape in shapes:
            same = {"what": what, "case": shape.name, "dtype": "bf16", "device": name}
            try:
                if time.monotonic() - start > given.seconds:
                    raise NotHere("no time was left")
                for operation, flops, seconds, samples in COMPARISONS[what](Comparison(shape, given.device, clock)):
                    sizes = dict(zip("THIEK", (shape.tokens, shape.hidden, shape.inner, shape.experts, shape.top_k)))
                    record({
                        "kind": "other", **same, "operation": operation, "flops": flops, "seconds": seconds, "samples": samples,
                        "graph": clock.is_graph, "sizes": sizes, "conditions": versions,
                    })  # fmt: skip
                    median = seconds["median"]
                    print(f"{what}, {shape.name}, {operation}: {median * 1e3:.3f} ms, {flops / median / 1e12:.3g} TFLOP/s", flush=True)
                    times += 1
            except Exception as error:  # a library may fail in any way, and the others still tell something
                lines = str(error).splitlines() or [""]
                reason = lines[0] if isinstance(error, NotHere) else f"{type(error).__name__}: {lines[0]}"
                record({
                    "kind": "left_out", "bench": "others", "what": what, "case": shape.name, "backend": "cuda", "reason": reason[:300],
                })  # fmt: skip
                print(f"{what}, {shape.name}: left out: {reason}", flush=True)
                reasons += 1
            if given.device == "cuda":
                try:
                    torch.cuda.synchronize()
                except RuntimeError as error:
                    # What a library broke stays broken in this process: the next goes on with the other comparisons.
                    print(f"{what}, {shape.name}, lost the device: {str(error).splitlines()[0]}", flush=True)
                    rest = [option for name in wanted[place + 1 :] for option in ("--only", name)]
                    if not rest:
                        return 1
                    left = max(0.0, given.seconds - (time.monotonic() - start))
                    again = [sys.executable, __file__, "--seconds", f"{left:.0f}", "--records", str(given.records), *rest]
                    for one in shapes:
                        again += ["--shape", f"{one.name}={one.tokens},{one.hidden},{one.inner},{one.experts},{one.top_k}"]
                    os.execv(sys.executable, again)
                torch.cuda.empty_cache()
    print(f"{versions}: {times} times, {reasons} left out, {len(shapes)} shapes")
    return 0 if times else 1


if __name__ == "__main__":
    sys.exit(main())
