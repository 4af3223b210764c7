#!/usr/bin/env python3
"""Measures recoveries on real processes: from the fatal signal to the first lost slot starting on a survivor.

    tests/bench/recovery_time.py [--planaria build/release/planaria] [--job tests/jobs/tiny.toml] [--runs 30]
                                 [--workers 3] [--layout 2+1] [--set key=value ...]

Each run kills (or, with --stop, freezes) one of the workers, another one in another phase each time; with --layout stages of
pipelines, of which the others must hold the same blocks. Printed: median and 95th percentile of
detect, decide, move, their sum (overhead), the time from the signal to the step's commit (total), and `catch up`: the time
from the first lost slot's start to the commit over what the work that was left takes at the survivors' speed. That work is
the lost micro-batches, those of the survivors that weren't done when they reported, and the rest of a step (reduce, gate, update,
acknowledge). Speed and rest are of the survivors' next steps, by their ledgers: a step's rest lasts from the last micro-batch to the
next step's first.
"""
import argparse
import glob
import os
import statistics
import struct
import subprocess
import tempfile
import tomllib

import running_job

PHASES = ["forward", "backward", "reduce", "gate", "update", "commit"]


def run_once(args, index, directory):
    phase = PHASES[index % len(PHASES)]
    step = 8 + index % 5
    kind = "stop" if args.stop else "kill"
    victim = (index + index // len(PHASES)) % args.workers
    scenario = os.path.join(directory, f"{index}.toml")
    with open(scenario, "w", encoding="utf-8") as file:
        file.write(f'[[fault]]\nkind = "{kind}"\nat_step = {step}\nphase = "{phase}"\nworker = {victim}\n')
        if args.stop:
            file.write("for_s = 3.0\n")
    command = [args.planaria, "run", args.job, "--workers", str(args.workers), "--steps", "30", "--scenario", scenario,
               "--set", "optimizer.warmup_steps=5", "--set", "train.evaluate_every=0", "--set", "checkpoint.every_steps=0",
               "--out", os.path.join(directory, str(index)), "--quiet", "--json"]
    if args.layout:
        command += ["--layout", args.layout]
    for assignment in args.set:
        command += ["--set", assignment]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = running_job.summary(done.stdout)
    recoveries = [r for r in summary["recoveries"] if "lost:" in r["cause"]]
    for recovery in recoveries:
        recovery["catch_up"] = catch_up(recovery, args.micro_batches, os.path.join(directory, str(index)))
    return phase, summary["weights_hash"], recoveries


def finished_micro_batches(directory):
    """For each step, when its first and its last micro-batch were finished, in ms (docs/FORMATS.md, Ledger)."""
    steps = {}
    for path in glob.glob(os.path.join(directory, "workers", "*", "ledger.*")):
        with open(path, "rb") as file:
            records = file.read()[64:]
        for step, at_ns, _, _, _, _, _, flags in struct.iter_unpack("<QqIIIIII", records[: len(records) // 40 * 40]):
            if flags & 1:
                first, last = steps.get(step, (at_ns / 1e6, at_ns / 1e6))
                steps[step] = min(first, at_ns / 1e6), max(last, at_ns / 1e6)
    return steps


def catch_up(recovery, micro_batches, directory):
    phases = recovery["phase_ms"]
    if phases.get("overhead") is None or phases.get("total") is None or recovery["own_work"] is None:
        return None
    done = finished_micro_batches(directory)
    later = [s for s in range(recovery["at_step"] + 2, recovery["at_step"] + 13) if s in done and s + 1 in done]
    if not later:
        return None
    speed = statistics.median(micro_batches / (done[s][1] - done[s][0]) for s in later)  # micro-batches a millisecond
    rest = statistics.median(done[s + 1][0] - done[s][1] for s in later)
    own = max(0.0, recovery["own_work"] - speed * (phases["decide"] + phases["move"]))  # they went on meanwhile
    return (phases["total"] - phases["overhead"]) / ((recovery["lost_work"] + own) / speed + rest)


def spread(values):
    values = sorted(values)
    if not values:
        return "none"
    p95 = values[min(len(values) - 1, round(0.95 * (len(values) - 1)))]
    return f"median {statistics.median(values):7.1f}   p95 {p95:7.1f}   max {values[-1]:7.1f}   n {len(values)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--job", default="tests/jobs/tiny.toml")
    parser.add_argument("--set", action="append", default=[], help="override a key of the job, e.g. model.context=128")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--layout", help="stages of each pipeline, e.g. 2+2 with --workers 4")
    parser.add_argument("--stop", action="store_true", help="freeze instead of kill")
    args = parser.parse_args()
    with open(args.job, "rb") as file:
        args.micro_batches = tomllib.load(file)["batch"]["micro_batches"]
    collected = {"detect": [], "decide": [], "move": [], "overhead": [], "total": []}
    ratios = []
    hashes = set()
    with tempfile.TemporaryDirectory() as directory:
        for index in range(args.runs):
            phase, weights, recoveries = run_once(args, index, directory)
            hashes.add(weights)
            for recovery in recoveries:
                for name, values in collected.items():
                    value = recovery["phase_ms"].get(name)
                    if value is not None:
                        values.append(value)
                if recovery["catch_up"] is not None:
                    ratios.append(recovery["catch_up"])
                times = " ".join(f"{n} {recovery['phase_ms'].get(n) or float('nan'):.1f}" for n in collected)
                print(f"run {index:3} {phase:9} step {recovery['at_step']:3} lost slots {recovery['lost_slots']:3} "
                      f"work {recovery['lost_work'] or 0:5.1f} own {recovery['own_work'] or 0:5.1f} {times} "
                      f"catch up {recovery['catch_up'] or float('nan'):.2f}", flush=True)
    for name, values in collected.items():
        print(f"{name:9} ms  {spread(values)}")
    if ratios:
        ratios.sort()
        print(f"catch up      median {statistics.median(ratios):7.2f}   p95 {ratios[round(0.95 * (len(ratios) - 1))]:7.2f}   "
              f"max {ratios[-1]:7.2f}   n {len(ratios)}")
    print(f"{len(hashes)} distinct weights hash(es) over {args.runs} runs")


if __name__ == "__main__":
    main()
