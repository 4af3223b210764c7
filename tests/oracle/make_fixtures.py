#!/usr/bin/python3
"""Writes the fixtures that tests/worker/model/oracle_suite.hpp compares with: tests/oracle/{gpt2,llama}.bin.

PyTorch in double precision computes the logits' sum of squares, the loss and all gradients of one step, and the losses
and gradient norms of 50 training steps (AdamW, clipping, warm-up + cosine). Weights and tokens are not stored: both sides
make them with the same integer formulas (weight() and token() below). Run: /usr/bin/python3 tests/oracle/make_fixtures.py

File: for each record: u32 name length, name, u32 element size (4: float32, 8: float64), u64 count, values.
"""
import math
import os
import struct

import numpy
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(0)
DOUBLE = torch.float64

VOCAB, CONTEXT, WIDTH, LAYERS, HEADS = 48, 16, 32, 2, 4
MICRO_BATCHES, SEQUENCES, STEPS = 4, 2, 50
LEARNING_RATE, MIN_RATE, WARMUP, CLIP, DECAY = 3e-3, 3e-4, 10, 1.0, 0.1
BETAS, EPSILON, NORM_EPSILON, THETA = (0.9, 0.95), 1e-8, 1e-5, 10000.0


def layer_shapes(prefix, family):
    if family == "gpt2":
        return [(prefix + "norm1.weight", (WIDTH,)), (prefix + "norm1.bias", (WIDTH,)),
                (prefix + "attention.qkv.weight", (3 * WIDTH, WIDTH)), (prefix + "attention.qkv.bias", (3 * WIDTH,)),
                (prefix + "attention.out.weight", (WIDTH, WIDTH)), (prefix + "attention.out.bias", (WIDTH,)),
                (prefix + "norm2.weight", (WIDTH,)), (prefix + "norm2.bias", (WIDTH,)),
                (prefix + "mlp.up.weight", (128, WIDTH)), (prefix + "mlp.up.bias", (128,)),
                (prefix + "mlp.down.weight", (WIDTH, 128)), (prefix + "mlp.down.bias", (WIDTH,))]
    return [(prefix + "norm1.weight", (WIDTH,)), (prefix + "attention.qkv.weight", (2 * WIDTH, WIDTH)),
            (prefix + "attention.out.weight", (WIDTH, WIDTH)), (prefix + "norm2.weight", (WIDTH,)),
            (prefix + "mlp.gate_up.weight", (2 * 80, WIDTH)), (prefix + "mlp.down.weight", (WIDTH, 80))]


def shapes(family):
    result = [("embed.token.weight", (VOCAB, WIDTH))]
    if family == "gpt2":
        result.append(("embed.position.weight", (CONTEXT, WIDTH)))
    for i in range(LAYERS):
        result += layer_shapes("layer.%d." % i, family)
    result.append(("head.norm.weight", (WIDTH,)))
    if family == "gpt2":
        result.append(("head.norm.bias", (WIDTH,)))
    else:
        result.append(("head.token.weight", (VOCAB, WIDTH)))
    return result


def mix(x):
    """A 32-bit integer hash (murmur3's finalizer)."""
    x = x.astype(numpy.uint64)
    mask = numpy.uint64(0xFFFFFFFF)
    x ^= x >> numpy.uint64(16)
    x = (x * numpy.uint64(0x85EBCA6B)) & mask
    x ^= x >> numpy.uint64(13)
    x = (x * numpy.uint64(0xC2B2AE35)) & mask
    return x ^ (x >> numpy.uint64(16))


def weight(index, name, shape):
    """Tensor number `index`: uniform in ±1/8 (gains: 1 ± 1/8), 24 bits, exact in float32."""
    count = int(numpy.prod(shape))
    bits = mix((numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(index * 1000003)) & numpy.uint64(0xFFFFFFFF))
    values = ((bits >> numpy.uint64(8)).astype(numpy.float64) / 2.0**24 - 0.5) * 0.25
    if "norm" in name and name.endswith("weight"):
        values = 1.0 + values
    values = values.astype(numpy.float32).astype(numpy.float64)
    return torch.tensor(values.reshape(shape), dtype=DOUBLE, requires_grad=True)


def token(k):
    return (k * k * 7 + k // 3) % VOCAB


def micro_batch(step, index):
    """Step from 1; sequence n starts at token 5 n mod 997."""
    rows = []
    for j in range(SEQUENCES):
        start = 5 * (((step - 1) * MICRO_BATCHES + index) * SEQUENCES + j) % 997
        rows.append([token(start + i) for i in range(CONTEXT + 1)])
    table = torch.tensor(rows)
    return table[:, :-1], table[:, 1:]


def rotate(x):
    half = x.shape[-1] // 2
    angle = torch.arange(CONTEXT, dtype=DOUBLE)[:, None] * THETA ** (-2.0 * torch.arange(half, dtype=DOUBLE) / x.shape[-1])
    cos, sin = torch.cos(angle), torch.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(qkv, kv_heads, rope):
    size = WIDTH // HEADS
    q, k, v = torch.split(qkv, [HEADS * size, kv_heads * size, kv_heads * size], dim=-1)
    q, k, v = [t.view(SEQUENCES, CONTEXT, -1, size).transpose(1, 2) for t in (q, k, v)]
    if rope:
        q, k = rotate(q), rotate(k)
    k, v = [t.repeat_interleave(HEADS // kv_heads, dim=1) for t in (k, v)]
    scores = q @ k.transpose(-1, -2) / math.sqrt(size)
    hidden = torch.triu(torch.ones(CONTEXT, CONTEXT, dtype=torch.bool), 1)
    out = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
    return out.transpose(1, 2).reshape(SEQUENCES, CONTEXT, WIDTH)


def logits(p, tokens, family):
    gpt2 = family == "gpt2"

    def norm(x, name):
        if gpt2:
            return F.layer_norm(x, (WIDTH,), p[name + ".weight"], p[name + ".bias"], NORM_EPSILON)
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + NORM_EPSILON) * p[name + ".weight"]

    def linear(x, name):
        return F.linear(x, p[name + ".weight"], p.get(name + ".bias"))

    x = p["embed.token.weight"][tokens]
    if gpt2:
        x = x + p["embed.position.weight"]
    for i in range(LAYERS):
        at = "layer.%d." % i
        qkv = linear(norm(x, at + "norm1"), at + "attention.qkv")
        x = x + linear(attention(qkv, HEADS if gpt2 else 2, not gpt2), at + "attention.out")
        y = norm(x, at + "norm2")
        if gpt2:
            y = F.gelu(linear(y, at + "mlp.up"), approximate="tanh")
        else:
            gate, up = linear(y, at + "mlp.gate_up").chunk(2, dim=-1)
            y = F.silu(gate) * up
        x = x + linear(y, at + "mlp.down")
    return F.linear(norm(x, "head.norm"), p["embed.token.weight" if gpt2 else "head.token.weight"])


def rate(step):
    if step <= WARMUP:
        return LEARNING_RATE * step / WARMUP
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return MIN_RATE + (LEARNING_RATE - MIN_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


def sum_loss(p, step, family):
    total = 0
    for index in range(MICRO_BATCHES):
        tokens, targets = micro_batch(step, index)
        out = logits(p, tokens, family)
        total = total + F.cross_entropy(out.reshape(-1, VOCAB), targets.reshape(-1), reduction="sum")
    return total


def write(path, records):
    with open(path, "wb") as out:
        for name, values in records:
            array = numpy.ascontiguousarray(values)
            name = name.encode()
            out.write(struct.pack("<I", len(name)) + name + struct.pack("<IQ", array.itemsize, array.size))
            out.write(array.tobytes())


def make(family, folder):
    p = {name: weight(index, name, shape) for index, (name, shape) in enumerate(shapes(family))}
    records = []
    first_logits = logits(p, micro_batch(1, 0)[0], family)
    records.append(("last_row_logits", first_logits[-1, -1].detach().numpy().astype(numpy.float64)))
    loss = sum_loss(p, 1, family)
    loss.backward()
    for name, tensor in p.items():
        records.append(("gradient." + name, tensor.grad.numpy().astype(numpy.float32)))

    decayed = [t for t in p.values() if t.dim() >= 2]
    others = [t for t in p.values() if t.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
                                  betas=BETAS, eps=EPSILON)
    losses, norms = [], []
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        loss = sum_loss(p, step, family) / (MICRO_BATCHES * SEQUENCES * CONTEXT)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(list(p.values()), CLIP)))
        optimizer.step()
        losses.append(float(loss))
    records.append(("losses", numpy.array(losses)))
    records.append(("norms", numpy.array(norms)))
    write(os.path.join(folder, family + ".bin"), records)
    print(family, "loss %.6f -> %.6f, norm %.3f -> %.3f" % (losses[0], losses[-1], norms[0], norms[-1]))


if __name__ == "__main__":
    for name in ("gpt2", "llama"):
        make(name, os.path.dirname(os.path.abspath(__file__)))
