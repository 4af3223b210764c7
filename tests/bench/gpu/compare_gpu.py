#!/usr/bin/env python3
"""Speed of training a GPT-2 on one GPU: Planaria and PyTorch in turns, in one run.

    tests/bench/gpu/compare_gpu.py --model 124M [--batch 64] [--rounds 5] [--steps 20] [--settings default,cudnn,max-autotune]
                                   [--text DIRECTORY] [--json FILE] [--binary build/release/planaria]

Both sides are made ready first: kernels measured, models compiled, memory touched. Then each round gives each side as many steps, one
after the other, and the table tells medians, least and most, and the ratio to the best of PyTorch's settings. Planaria's side is the
whole step as it trains (`planaria bench --device cuda`): text from files through the tokenizer, clip, AdamW. PyTorch's is
pytorch_training.py, whose help says what it does. The text's tokens are bytes; the models' vocabulary has 50257 all the same.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
MODELS = {"124M": (12, 12, 768, 64), "355M": (24, 16, 1024, 32), "1.56B": (48, 25, 1600, 16)}  # layers, heads, width, sequences
CONTEXT = 1024
PEAK_FLOPS = 989e12  # dense bf16, by NVIDIA's data sheet of H100 SXM and H200
SETTINGS = {"default": [], "cudnn": ["--sdpa", "cudnn"], "max-autotune": ["--mode", "max-autotune-no-cudagraphs"]}


class Contestant:
    """A process that does one round for each line it is given."""

    def __init__(self, name, command):
        self.name = name
        self.rates = []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read_until(self, wanted):
        for line in self.process.stdout:
            if found := re.search(wanted, line):
                return found
        sys.exit(f"compare_gpu: {self.name} ended with {self.process.wait()}; run it alone to see why")

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()


class Planaria(Contestant):
    def __init__(self, args, job):
        self.steps = args.steps
        super().__init__("Planaria", [args.binary, "bench", job, "--device", "cuda", "--steps", str(args.steps), "--rounds",
                                      str(args.rounds + 1), "--in-turns"])
        self.parameters = int(self.read_until(r"^([0-9]+) parameters").group(1))
        self.round()  # its kernels are loaded, its memory is touched

    def round(self):
        self.go()
        seconds = [1 / float(self.read_until(r"^step [0-9]+: ([0-9]+) tokens/s").group(1)) for _ in range(self.steps)]
        return 1 / statistics.mean(seconds)


class PyTorch(Contestant):
    def __init__(self, args, setting):
        super().__init__(f"PyTorch, {setting}", [args.python, str(HERE / "pytorch_training.py"), "--model", args.model, "--batch",
                                                 str(args.batch), "--rounds", str(args.rounds + 1), "--steps", str(args.steps),
                                                 "--in-turns"] + SETTINGS[setting])
        self.round()

    def round(self):
        self.go()
        return float(self.read_until(r"^round: ([0-9]+) tokens/s").group(1))


def write_job(args, path):
    layers, heads, width, _ = MODELS[args.model]
    path.write_text(f'''name = "compare"
[model]
family = "gpt2"
layers = {layers}
heads = {heads}
width = {width}
vocab = 50257
context = {CONTEXT}
[data]
path = "{args.text}"
tokenizer = "bytes"
validation_fraction = 0.05
[batch]
micro_batches = {args.micro_batches}
sequences = {args.batch // args.micro_batches}
slots = {args.micro_batches}
[optimizer]
learning_rate = 6e-4
warmup_steps = 10
[train]
steps = 1000
[cluster]
workers = 1
''')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="124M")
    parser.add_argument("--batch", type=int, help="sequences a step; default 64, 32 and 16")
    parser.add_argument("--micro-batches", type=int, default=1, help="in which Planaria takes them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of each round")
    parser.add_argument("--settings", default="default", help="of PyTorch: default, cudnn, max-autotune; several with commas")
    parser.add_argument("--text", default="/usr/share/common-licenses")
    parser.add_argument("--binary", default="build/release/planaria")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--json", help="a file for the figures")
    args = parser.parse_args()
    args.batch = args.batch or MODELS[args.model][3]
    args.text = os.path.abspath(args.text)
    with tempfile.TemporaryDirectory() as directory:
        job = pathlib.Path(directory) / "job.toml"
        write_job(args, job)
        ours = Planaria(args, str(job))
        sides = [ours] + [PyTorch(args, setting) for setting in args.settings.split(",")]
        for number in range(args.rounds):
            for side in sides:
                side.rates.append(side.round())
            print(f"round {number + 1}: " + ", ".join(f"{side.name} {side.rates[-1]:.0f}" for side in sides) + " tokens/s", flush=True)
        for side in sides:
            side.process.stdin.close()
            side.process.wait()
    layers, _, width, _ = MODELS[args.model]
    operations = 6 * ours.parameters + 12 * layers * width * CONTEXT // 2
    rivals = sorted(sides[1:], key=lambda side: statistics.median(side.rates))
    ratios = [a / b for a, b in zip(ours.rates, rivals[-1].rates)] if rivals else []
    print(f"{args.model}, {args.batch} sequences of {CONTEXT}, {args.rounds} rounds of {args.steps} steps")
    for side in sides:
        rate = statistics.median(side.rates)
        print(f"{side.name:24} median {rate:9.0f} tokens/s ({min(side.rates):.0f} to {max(side.rates):.0f}), "
              f"{100 * rate * operations / PEAK_FLOPS:.1f} % of the bf16 peak")
    if ratios:
        print(f"ratio to the best of PyTorch: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({
            "model": args.model, "batch": args.batch, "context": CONTEXT, "steps": args.steps, "operations_per_token": operations,
            "tokens_per_s": {side.name: side.rates for side in sides}, "ratio": statistics.median(ratios) if ratios else None}, indent=1))


if __name__ == "__main__":
    main()
