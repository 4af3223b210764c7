#!/usr/bin/env python3
"""How long the state of a lost host takes to be back, phase by phase, against the bytes over what the link carries.

    tests/bench/restore_time.py [--planaria build/release/planaria] [--link build/release/tests/common/transport_bench]
                                [--state-mib 768] [--runs 3]

Three hosts of one worker and one keeper each, 2 + 1 fragments, a pipeline with a sharded optimizer: one host holds the embedding, whose
state (12 bytes a parameter) is of --state-mib, and some layers', at no other host. The fragments that it is made from lie with the other two. When
a few steps are done and /v1/snapshots says that a host may be lost, SIGKILL strikes that one's processes. Printed are, of each run, the
phases that `planaria status` tells (detect: signal to suspicion of the coordinator; decide: to the view's commit; move: to the first slot of
the lost ones, for which the state must be there; recompute), `bound`: the state's bytes at the rate at which the transport moves frames of
16 MiB between two transports of this machine with nothing beside it, and move / bound. The machine's processors do all at once here: what
they share, links of several machines would not. A keeper may take a sixth of the machine's memory here and needs 4 times --state-mib.
"""
import argparse
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time

import running_job

WIDTH = 1024
JOB = """
name = "restore"
[model]
family = "gpt2"
layers = 3
heads = 8
width = {width}
vocab = {vocab}
context = 16
tied_embedding = true
[data]
path = "/usr/share/common-licenses/GPL-3"
tokenizer = "bytes"
[batch]
micro_batches = 8
sequences = 1
slots = 8
[optimizer]
learning_rate = 1e-4
warmup_steps = 1
shard = true
[train]
steps = {steps}
evaluate_every = 0
[cluster]
workers = 3
threads = 1
layout = "3"
lease_ms = 5000
prepare_timeout_ms = 60000
stall_timeout_ms = 120000
[checkpoint]
every_steps = 0
[snapshot]
data = 2
parity = 1
max_overhead = 0
[integrity]
check_every = 0
"""


def link_rate(binary):
    """Bytes a second of the transport, between two threads."""
    done = subprocess.run([binary], capture_output=True, text=True, check=True)
    return max(float(rate) for rate in re.findall(r"16384 KiB frames, handled: ([0-9.]+) GB/s", done.stdout)) * 1e9


def await_that(process, what, predicate, patience_s=300):
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the run ended before {what}")
        if found := predicate():
            return found
        time.sleep(0.05)
    raise RuntimeError(f"{what}: not within {patience_s} s")


def one_run(args, directory, index):
    out = os.path.join(directory, f"run-{index}")
    job = os.path.join(directory, "job.toml")
    with open(job, "w", encoding="utf-8") as file:
        file.write(JOB.format(width=WIDTH, vocab=args.state_mib * 2**20 // (12 * WIDTH), steps=args.steps))
    command = [args.planaria, "run", job, "--hosts", "3", "--workers", "3", "--out", out, "--quiet", "--json"]
    with open(os.path.join(directory, f"run-{index}.out"), "w+", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            def safe():
                status = running_job.get(out, "/v1/status")
                good = status and status["snapshots"] and status["snapshots"]["tolerated"] == 1 and status["step"] >= 3
                return status if good else None

            status = await_that(process, "the state is protected", safe)
            lost = max(status["snapshots"]["hosts"], key=lambda host: host["state_bytes"])
            for row in status["workers"]:
                if row["host"] == lost["host"]:
                    os.kill(row["process_id"], signal.SIGKILL)
            process.wait(1800)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
        output.seek(0)
        summary = running_job.summary(output.read())
    recovery = next(r for r in summary["recoveries"] if "lost:" in r["cause"])
    return lost["state_bytes"], recovery, summary["weights_hash"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--link", default="build/release/tests/common/transport_bench")
    parser.add_argument("--state-mib", type=int, default=768)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rate = link_rate(args.link)
    print(f"link: {rate / 1e9:.2f} GB/s")
    ratios, hashes = [], set()
    with tempfile.TemporaryDirectory() as directory:
        for index in range(args.runs):
            state_bytes, recovery, weights = one_run(args, directory, index)
            hashes.add(weights)
            bound_ms = 1e3 * state_bytes / rate
            phases = recovery["phase_ms"]
            ratios.append((phases["move"] or float("nan")) / bound_ms)
            times = " ".join(f"{name} {value:.0f}" for name, value in phases.items() if value is not None)
            print(f"run {index}: {state_bytes / 2**20:.0f} MiB lost, tier {recovery['tier']}: {times} ms; bound {bound_ms:.0f} ms, "
                  f"move / bound {ratios[-1]:.2f}", flush=True)
    print(f"move / bound: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
          f"{len(hashes)} distinct weights hash(es)")


if __name__ == "__main__":
    main()
