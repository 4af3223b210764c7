#!/usr/bin/env python3
"""Speed of training a GPT-2 with PyTorch on one GPU: what Planaria is held against.

    tests/bench/gpu/pytorch_training.py --model 124M --batch 64 [--mode default|max-autotune-no-cudagraphs] [--sdpa default|cudnn]
                                        [--rounds 5] [--in-turns] [--profile]

The whole step, as fast as PyTorch's own means make it: torch.compile, bf16 autocast, scaled_dot_product_attention, fused AdamW,
gradients clipped at 1, no dropout, tied embedding, the vocabulary padded to 50304. Tokens are random, in new batches each step, from
pinned memory. Compilation and the first steps aren't timed. Printed is one line of JSON: tokens a second of each round, their median, the
part of the card's bf16 peak that this is (6 operations a parameter and token, and attention's 12 * layers * width * context / 2), and the
most memory. --profile adds the time of each kind of kernel in a step.
"""
import argparse
import contextlib
import json
import math
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

MODELS = {"124M": (12, 12, 768), "355M": (24, 16, 1024), "1.56B": (48, 25, 1600)}  # layers, heads, width
VOCAB = 50304
PEAK_FLOPS = 989e12  # dense bf16, by NVIDIA's data sheet of H100 SXM and H200


class Block(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, context, width = x.shape
        q, k, v = (t.view(batch, context, self.heads, width // self.heads).transpose(1, 2)
                   for t in self.qkv(self.norm_1(x)).split(width, dim=2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, context, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, layers, heads, width, context):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(heads, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if name.endswith(("projection.weight", "down.weight")) else 1))

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))


class Training:
    def __init__(self, args):
        torch.manual_seed(1)
        torch.set_float32_matmul_precision("high")
        layers, heads, width = MODELS[args.model]
        self.args = args
        model = Gpt2(layers, heads, width, args.context).cuda()
        self.parameters = sum(p.numel() for p in model.parameters())
        decayed = [p for p in model.parameters() if p.dim() == 2]
        others = [p for p in model.parameters() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                           lr=6e-4, betas=(0.9, 0.95), fused=True)
        self.all = decayed + others
        self.model = torch.compile(model, mode=None if args.mode == "default" else args.mode)
        self.data = torch.randint(0, 50257, (64, args.batch, args.context + 1)).pin_memory()
        self.step_index = 0
        self.flops_per_token = 6 * self.parameters + 12 * layers * width * args.context // 2

    def step(self):
        batch = self.data[self.step_index % len(self.data)].cuda(non_blocking=True)
        self.step_index += 1
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = self.model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.all, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def tokens_per_s(self, steps):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
        torch.cuda.synchronize()
        return steps * self.args.batch * self.args.context / (time.perf_counter() - begin)


def kernels_of(training, steps=3):
    """Milliseconds of a step by kernel, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            training.step()
        torch.cuda.synchronize()
    rows = [(event.self_device_time_total / 1e3 / steps, event.count // steps, event.key) for event in profile.key_averages()]
    return sorted((row for row in rows if row[0] > 0), reverse=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="124M")
    parser.add_argument("--batch", type=int, default=64, help="sequences a step")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--mode", choices=["default", "max-autotune-no-cudagraphs"], default="default")
    parser.add_argument("--sdpa", choices=["default", "cudnn"], default="default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of each round")
    parser.add_argument("--in-turns", action="store_true", help="wait for a line on standard input before each round")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    attention = contextlib.nullcontext()
    if args.sdpa == "cudnn":
        attention = torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.CUDNN_ATTENTION])
    with attention:
        training = Training(args)
        for _ in range(5):
            loss = training.step()
        print("ready", file=sys.stderr, flush=True)
        rates = []
        for _ in range(args.rounds):
            if args.in_turns:
                sys.stdin.readline()
            rates.append(training.tokens_per_s(args.steps))
            if args.in_turns:
                print(f"round: {rates[-1]:.0f} tokens/s", flush=True)
        rate = statistics.median(rates)
        print(json.dumps({"model": args.model, "batch": args.batch, "mode": args.mode, "sdpa": args.sdpa, "tokens_per_s": rate,
                          "rounds": [round(r) for r in rates], "mfu": rate * training.flops_per_token / PEAK_FLOPS,
                          "memory_gib": torch.cuda.max_memory_allocated() / 2**30, "loss": loss.item(),
                          "device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
        if args.profile:
            for ms, count, name in kernels_of(training)[:40]:
                print(f"{ms:9.3f} ms {count:5d} x {name[:150]}")


if __name__ == "__main__":
    main()
