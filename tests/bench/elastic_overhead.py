#!/usr/bin/env python3
"""What the elastic machinery costs: a job in the bare loop, in one worker with two threads, in two workers with one each.

    tests/bench/elastic_overhead.py [--planaria build/release/planaria] [--job examples/gpt_11m.toml] [--rounds 5]

The three run in alternation. Each figure is the fastest of a round's steps after the first: other processes of the machine
can only slow a step down. Printed are the rounds and the median of the ratios within each round.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile


def bare(args):
    command = [args.planaria, "bench", args.job, "--threads", "2", "--steps", str(args.steps)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(re.search(r"bare loop: .* to ([0-9.]+)\)", output).group(1))


def elastic(args, workers, threads, directory):
    command = [args.planaria, "run", args.job, "--workers", str(workers), "--steps", str(args.steps + 1), "--out", directory,
               "--quiet", "--json", "--set", f"cluster.threads={threads}", "--set", "optimizer.warmup_steps=1",
               "--set", "train.evaluate_every=0"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    with open(os.path.join(directory, "metrics.jsonl"), encoding="utf-8") as file:
        steps = [json.loads(line) for line in file]
    return max(step["tokens_per_s"] for step in steps if step.get("step_s", 0) > 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--job", default="examples/gpt_11m.toml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as directory:
        for index in range(args.rounds):
            # The order turns, so that a machine that slows down doesn't favour one of them.
            measures = [("bare", lambda: bare(args)),
                        ("one", lambda: elastic(args, 1, 2, os.path.join(directory, f"one-{index}"))),
                        ("two", lambda: elastic(args, 2, 1, os.path.join(directory, f"two-{index}")))]
            figures = {}
            for name, measure in measures[index % 3:] + measures[:index % 3]:
                figures[name] = measure()
            rounds.append(figures)
            print("bare loop %.0f tokens/s, 1 worker x 2 threads %.0f, 2 workers x 1 thread %.0f" %
                  (figures["bare"], figures["one"], figures["two"]), flush=True)
    one = [figures["one"] / figures["bare"] for figures in rounds]
    two = [figures["two"] / figures["one"] for figures in rounds]
    print("1 worker / bare loop: median %.3f (%.3f to %.3f)" % (statistics.median(one), min(one), max(one)))
    print("2 workers / 1 worker: median %.3f (%.3f to %.3f)" % (statistics.median(two), min(two), max(two)))


if __name__ == "__main__":
    main()
