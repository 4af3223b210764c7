#!/usr/bin/env python3
"""What a snapshot after each step costs: a job with a sharded optimizer on three workers, with keepers and without.

    tests/bench/snapshot_overhead.py [--planaria build/release/planaria] [--job examples/gpt_11m.toml] [--rounds 3]

Both run at the same time, each for two seconds in turn while the other is stopped (elastic_overhead.py tells why). Printed
are, over the steps of all rounds, the median and the quartiles of the ratio between the times of the same step, the part of a
step in which the trainer thread itself is held up, and how much processor time a step takes more: all of it is contention where
workers and keepers share the processors, none where keepers have some of their own. --hosts tells on how many hosts the three workers are, as if on so many machines.
"""
import argparse
import os
import signal
import statistics
import tempfile

import running_job
from elastic_overhead import elastic, processes_of, SLICE_S


def processor_seconds(contestant):
    ticks = 0
    for pid in processes_of(contestant.process.pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def contestant_of(args, name, hosts, directory):
    settings = {"optimizer.shard": "true", "checkpoint.every_steps": 0, "cluster.threads": 1, "cluster.layout": args.layout,
                "snapshot.max_overhead": 0}
    return elastic(args, name, 3, directory, settings, ["--hosts", str(hosts)] if hosts else [])


def held_up_per_step(contestant, directory):
    """Seconds of a worker's trainer thread for a snapshot, by the job's status."""
    contestant.signal(signal.SIGCONT)
    status = running_job.get(directory, "/v1/status")
    copying = [row["copying"] for row in status["workers"] if row["copying"]]
    return sum(row["trainer_s"] for row in copying) / sum(row["copies"] for row in copying)


def one_round(args, directory, index):
    contestants = [contestant_of(args, "without", 0, os.path.join(directory, f"without-{index}")),
                   contestant_of(args, "with", args.hosts, os.path.join(directory, f"with-{index}"))]
    first, last = 2, args.steps + 2
    spent = {contestant.name: {} for contestant in contestants}
    try:
        while any(last not in contestant.ended for contestant in contestants):
            for contestant in contestants:
                contestant.run_for(SLICE_S)
                spent[contestant.name][max(contestant.ended, default=0)] = processor_seconds(contestant)
        held_up_s = held_up_per_step(contestants[-1], os.path.join(directory, f"with-{index}"))
    finally:
        for contestant in contestants:
            contestant.end()
    step_s = {c.name: [c.ended[step] - c.ended[step - 1] for step in range(first + 1, last + 1)] for c in contestants}
    return step_s, {name: processor_per_step(of, first) for name, of in spent.items()}, held_up_s


def processor_per_step(spent, first):
    steps = [step for step in sorted(spent) if step >= first]
    return (spent[steps[-1]] - spent[steps[0]]) / (steps[-1] - steps[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--job", default="examples/gpt_11m.toml")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--layout", default="1+1+1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    ratios, more, held_up = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        for index in range(args.rounds):
            step_s, processor_s, held_up_s = one_round(args, directory, index)
            held_up.append(held_up_s / statistics.median(step_s["with"]))
            ratios += [theirs / ours for theirs, ours in zip(step_s["with"], step_s["without"])]
            more.append(processor_s["with"] / processor_s["without"])
            print("a step takes %.2f s without snapshots and %.2f s with them, of processor time %.2f s and %.2f s" %
                  (statistics.median(step_s["without"]), statistics.median(step_s["with"]), processor_s["without"],
                   processor_s["with"]), flush=True)
    low, median, high = statistics.quantiles(ratios, n=4)
    print("with / without: median %.3f (quartiles %.3f and %.3f, of %d steps); processor time %.3f; the trainer thread is "
          "held up for %.4f %% of a step" %
          (median, low, high, len(ratios), statistics.median(more), 100 * statistics.median(held_up)))


if __name__ == "__main__":
    main()
