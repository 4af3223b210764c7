#!/usr/bin/python3
"""CPU training speed of ours against PyTorch on the same shapes, in one run, in alternation.

The peer: GPT-2, 6 layers, 6 heads, 384 wide, T = 256, 256 tokens in the vocabulary, batches of 8 sequences, 2 threads, fp32,
fused attention where this PyTorch has it, AdamW and gradient clipping; the same work a step as ours.

  compare_pytorch.py [--binary build/release/tests/bench/training_speed] [--rounds 3] [--steps 3] [--threads 2]
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import time

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ModuleNotFoundError:
    sys.exit("compare_pytorch: no PyTorch for this Python: deploy/install-packages.sh --dev, and run it with /usr/bin/python3")

LAYERS, HEADS, WIDTH, CONTEXT, VOCAB, BATCH = 6, 6, 384, 256, 256, 8


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("hidden", torch.triu(torch.ones(CONTEXT, CONTEXT, dtype=torch.bool), 1))

    def attention(self, x):
        q, k, v = [t.view(BATCH, CONTEXT, HEADS, -1).transpose(1, 2) for t in self.qkv(x).split(WIDTH, -1)]
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) * (WIDTH // HEADS) ** -0.5
            y = scores.masked_fill(self.hidden, float("-inf")).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(BATCH, CONTEXT, WIDTH))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens):
        x = self.token(tokens) + self.position.weight
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.token.weight)


def peer(steps, threads):
    torch.set_num_threads(threads)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    start = 0.0
    for step in range(steps + 1):
        if step == 1:
            start = time.monotonic()  # the first step warms up
        tokens = torch.randint(VOCAB, (BATCH, CONTEXT + 1))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).reshape(-1, VOCAB), tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return steps * BATCH * CONTEXT / (time.monotonic() - start)


def ours(binary, steps, threads):
    output = subprocess.run([binary, str(threads), str(steps)], check=True, capture_output=True, text=True).stdout
    return float(re.search(r"([0-9.]+) tokens/s", output).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="build/release/tests/bench/training_speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not os.path.exists(options.binary):
        sys.exit(f"compare_pytorch: no {options.binary}: cmake --preset release -DPLANARIA_BUILD_BENCH=ON and build training_speed")
    pairs = []
    for _ in range(options.rounds):
        pairs.append((ours(options.binary, options.steps, options.threads), peer(options.steps, options.threads)))
        print("ours %.0f tokens/s, PyTorch %s %.0f tokens/s" % (pairs[-1][0], torch.__version__, pairs[-1][1]), flush=True)
    print("ratio (median of %d): %.2f" % (len(pairs), statistics.median(a / b for a, b in pairs)))


if __name__ == "__main__":
    sys.exit(main())
