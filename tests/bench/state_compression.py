#!/usr/bin/env python3
"""What lossless compression would save of a snapshot: of the state after a step, and of its difference to the step before.

    tests/bench/state_compression.py [--planaria build/release/planaria] [--job examples/gpt_11m.toml] [--steps 12]

Trains on one worker with a checkpoint after each step, takes the last two, and has zstd, at level 1 and on one core, compress each
kind of tensor (parameters, first and second moment): as it is; byte by byte (all first bytes, all second ones ..), which brings
the exponents together; and likewise the bits in which it differs from the step before. Printed: compressed over plain bytes, and MB/s.
A fragment that is sent or added up costs far less than that a byte: see erasure_bench and transport_bench.
"""
import argparse
import json
import os
import re
import subprocess
import tempfile

KINDS = {"master": "parameters", "first_moment": "first moment", "second_moment": "second moment"}


def tensors_of(checkpoint):
    """The bytes of all float tensors, by kind."""
    found = {}
    for name in sorted(os.listdir(checkpoint)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(checkpoint, name), "rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            base = file.tell()
            for tensor, about in sorted(head.items()):
                if tensor == "__metadata__" or about["dtype"] != "F32":
                    continue
                file.seek(base + about["data_offsets"][0])
                found.setdefault(tensor.partition("/")[0], bytearray()).extend(
                    file.read(about["data_offsets"][1] - about["data_offsets"][0]))
    return found


def planes(data):
    return b"".join(data[i::4] for i in range(4))


def difference(new, old):
    size = len(new)
    return (int.from_bytes(new, "little") ^ int.from_bytes(old, "little")).to_bytes(size, "little")


def compressed(data, directory):
    path = os.path.join(directory, "data")
    with open(path, "wb") as file:
        file.write(data)
    told = subprocess.run(["zstd", "-b1", "-i2", "-T1", path], capture_output=True, text=True, check=True)
    ratio, rate = re.findall(r"x([0-9.]+)\)?,\s*([0-9.]+) MB/s", told.stdout + told.stderr)[-1]
    return 1 / float(ratio), float(rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--job", default="examples/gpt_11m.toml")
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "run")
        subprocess.run([args.planaria, "run", args.job, "--workers", "1", "--steps", str(args.steps), "--out", out, "--quiet",
                        "--set", "checkpoint.every_steps=1", "--set", "checkpoint.keep=2", "--set", "optimizer.warmup_steps=4",
                        "--set", "train.evaluate_every=0"], check=True, stdout=subprocess.DEVNULL)
        old, new = (tensors_of(os.path.join(out, "checkpoints", f"step-{step:08}")) for step in (args.steps - 1, args.steps))
        print(f"{'tensors':<28}{'MB':>6}  " + "".join(f"{name:>24}" for name in ("as it is", "by bytes", "change, by bytes")))
        for kind in sorted(new):
            data, before = bytes(new[kind]), bytes(old[kind])
            line = f"{KINDS.get(kind, kind):<28}{len(data) / 1e6:>6.0f}  "
            for form in (data, planes(data), planes(difference(data, before))):
                ratio, rate = compressed(form, directory)
                line += f"{ratio:>12.3f} at {rate:>4.0f} MB/s"
            print(line, flush=True)


if __name__ == "__main__":
    main()
