#!/usr/bin/env python3
"""A model of the time of a training step against the number of GPUs. Nothing here is measured.

    benchmarks/scaling_model.py [--batch 16] [--bucket_cap_mb 25] [--nvlink 230] [--gpus_per_node 8] ...

Each GPU computes the forward and the backward pass of its own batch. The gradients are exchanged in buckets, as c10d's
Reducer does, by a hierarchical ring: reduce-scatter within a node, a ring over the nodes in which each GPU exchanges its
shard, all-gather within the node. A bucket is exchanged when its gradients are computed and the bucket before has been
exchanged:

    end(k) = max(end(k - 1), ready(k)) + exchange(k)        ready(k) = backward * bytes of the buckets up to k / all bytes
    step   = forward + max(backward, end(last))
    exchange(k) = 2 (g - 1) / g * bytes / nvlink + 2 (m - 1) / m * bytes / network
                  + 2 (g - 1) * nvlink_latency + 2 (m - 1) * network_latency        g GPUs in a node, m nodes

The assumptions are the constants below; flags replace them.
"""
import argparse
import math

# Floating-point operations of a forward pass for one image, counted by PyTorch's FlopCounterMode for diffusers 0.42.1 (a
# multiplication and an addition are 2); the backward pass has twice as many. Parameters as counted there.
MODELS = {
    "SD1.5, 512 x 512": {"parameters": 859_520_964, "forward_flops": 803.3e9, "batch": 16},
    "SDXL, 1024 x 1024": {"parameters": 2_567_463_684, "forward_flops": 6761.2e9, "batch": 8},
}
# Whole steps on 8 A100 in mixed precision with precomputed latents: 290 images/s for the UNet of Stable Diffusion 2.0 (866 M
# parameters) at 512 x 512; README of github.com/mosaicml/diffusion, "How many GPUs do I need?". The same operations per second
# are assumed for both models.
PUBLISHED_IMAGES_PER_SECOND = 290 / 8
PUBLISHED_MODEL = "SD1.5, 512 x 512"
FORWARD_SHARE = 1 / 3

GPUS_PER_NODE = 8
# Bus bandwidth of an all-reduce in GB/s as nccl-tests defines it: about 230 on 8 A100 SXM4 with NVLink.
NVLINK_GB_PER_SECOND = 230.0
NVLINK_LATENCY_SECONDS = 5e-6  # of each step of a ring; assumed
# Networks between nodes, one port for a node: Gb/s of the line, and the latency of each step of a ring; assumed.
NETWORKS = {"100 Gb/s Ethernet": {"gigabits": 100.0, "latency": 20e-6},
            "400 Gb/s InfiniBand": {"gigabits": 400.0, "latency": 5e-6}}
LINE_EFFICIENCY = 0.85  # share of the line that carries gradients; assumed
FIRST_BUCKET_MB = 1.0  # the Reducer's first bucket
BUCKET_CAP_MB = 25.0  # ProcessGroupOptions::bucket_cap_mb
BYTES_OF_GRADIENT = {"float32": 4, "bf16": 2}  # on their journey; the buckets are counted in float32
COUNTS = (1, 2, 4, 8, 16, 64, 256, 1024)


def compute_seconds(model, batch, images_per_second=PUBLISHED_IMAGES_PER_SECOND):
    """Seconds of a step on one GPU, without an exchange."""
    ratio = MODELS[model]["forward_flops"] / MODELS[PUBLISHED_MODEL]["forward_flops"]
    return batch * ratio / images_per_second


def bucket_bytes(parameters, cap_mb=BUCKET_CAP_MB):
    """Bytes of float32 gradients in each bucket, in the order of the exchange."""
    left, buckets = 4 * parameters, []
    size = min(FIRST_BUCKET_MB, cap_mb) * 2**20
    while left > 0:
        buckets.append(min(size, left))
        left -= buckets[-1]
        size = cap_mb * 2**20
    return buckets


def exchange_seconds(size, gpus, network, gpus_per_node=GPUS_PER_NODE, nvlink=NVLINK_GB_PER_SECOND,
                     nvlink_latency=NVLINK_LATENCY_SECONDS, line_efficiency=LINE_EFFICIENCY):
    """Seconds of a hierarchical ring all-reduce of `size` bytes."""
    inside = min(gpus, gpus_per_node)
    nodes = math.ceil(gpus / gpus_per_node)
    line = network["gigabits"] / 8 * 1e9 * line_efficiency
    return (2 * (inside - 1) / inside * size / (nvlink * 1e9) + 2 * (inside - 1) * nvlink_latency
            + 2 * (nodes - 1) / nodes * size / line + 2 * (nodes - 1) * network["latency"])


def step_seconds(compute, buckets, exchanges, forward_share=FORWARD_SHARE):
    """Returns the seconds of a step, and the share of the exchange that the backward pass hides (1 if there is none).

    buckets: bytes of each bucket; exchanges: seconds of the exchange of each.
    """
    forward, backward = compute * forward_share, compute * (1 - forward_share)
    total, ready_bytes, end = sum(buckets), 0, 0.0
    for size, seconds in zip(buckets, exchanges):
        ready_bytes += size
        end = max(end, backward * ready_bytes / total) + seconds
    exchange = sum(exchanges)
    exposed = max(0.0, end - backward)
    return forward + max(backward, end), 1 - exposed / exchange if exchange else 1.0


def row(model, gpus, network, gradient, options):
    """Milliseconds of a step, efficiency and hidden share."""
    compute = compute_seconds(model, options.batch or MODELS[model]["batch"], options.images_per_second)
    buckets = bucket_bytes(MODELS[model]["parameters"], options.bucket_cap_mb)
    factor = BYTES_OF_GRADIENT[gradient] / 4
    exchanges = [exchange_seconds(size * factor, gpus, network, options.gpus_per_node, options.nvlink,
                                  line_efficiency=options.line_efficiency) if gpus > 1 else 0.0 for size in buckets]
    step, hidden = step_seconds(compute, buckets, exchanges)
    return 1000 * step, compute / step, hidden


def tables(options):
    lines = []
    for model, facts in MODELS.items():
        batch = options.batch or facts["batch"]
        lines += [f"{model}: {facts['parameters'] / 1e6:.0f} M parameters, {batch} images for each GPU, "
                  f"{1000 * compute_seconds(model, batch, options.images_per_second):.0f} ms of computing, "
                  f"{len(bucket_bytes(facts['parameters'], options.bucket_cap_mb))} buckets", ""]
        columns = [(name, gradient) for name in NETWORKS for gradient in BYTES_OF_GRADIENT]
        lines.append("| GPUs | " + " | ".join(f"{name}, {gradient}" for name, gradient in columns) + " |")
        lines.append("|---:|" + "---|" * len(columns))
        for gpus in COUNTS:
            cells = []
            for name, gradient in columns:
                step, efficiency, hidden = row(model, gpus, NETWORKS[name], gradient, options)
                cells.append(f"{step:.0f} ms, {efficiency:.0%}, {hidden:.0%} hidden" if gpus > 1 else f"{step:.0f} ms, 100%")
            lines.append(f"| {gpus} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help="images for each GPU; by default 16 (SD1.5) and 8 (SDXL)")
    parser.add_argument("--images_per_second", type=float, default=PUBLISHED_IMAGES_PER_SECOND,
                        help=f"of one GPU that trains {PUBLISHED_MODEL} alone")
    parser.add_argument("--bucket_cap_mb", type=float, default=BUCKET_CAP_MB)
    parser.add_argument("--gpus_per_node", type=int, default=GPUS_PER_NODE)
    parser.add_argument("--nvlink", type=float, default=NVLINK_GB_PER_SECOND, help="bus bandwidth in GB/s")
    parser.add_argument("--line_efficiency", type=float, default=LINE_EFFICIENCY)
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name} is {value}, expected a number above 0")
    return options


if __name__ == "__main__":
    print(tables(parse()))
