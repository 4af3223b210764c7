#!/usr/bin/env python3
"""What the elastic machinery costs: a job in the bare loop, in one worker with two threads, in two workers with one each.

    tests/bench/elastic_overhead.py [--planaria build/release/planaria] [--job examples/gpt_11m.toml] [--rounds 10]

The three run in alternation, in many short rounds: a shared machine's speed drifts over minutes by more than what is
measured here. Each figure is the fastest of a round's steps after the first: other processes of the machine can only slow
a step down. Printed are the rounds, the ratios within each round (median and quartiles) and the ratio of each one's
fastest step of all rounds.
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


def compared(rounds, name, base):
    """Describes how much of `base`'s tokens a second `name` reaches."""
    ratios = [figures[name] / figures[base] for figures in rounds]
    low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    fastest = max(figures[name] for figures in rounds) / max(figures[base] for figures in rounds)
    return "median %.3f of %d rounds (quartiles %.3f and %.3f, all %.3f to %.3f); fastest to fastest %.3f" % (
        median, len(ratios), low, high, min(ratios), max(ratios), fastest)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--job", default="examples/gpt_11m.toml")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2, help="measured in each round, after one that isn't")
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
    print("1 worker / bare loop: " + compared(rounds, "one", "bare"))
    print("2 workers / 1 worker: " + compared(rounds, "two", "one"))


if __name__ == "__main__":
    main()
