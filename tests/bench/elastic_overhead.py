#!/usr/bin/env python3
"""What the elastic machinery costs: a job in the bare loop, in one worker with two threads, in two workers with one each.

    tests/bench/elastic_overhead.py [--planaria build/release/planaria] [--job examples/gpt_11m.toml] [--rounds 5]

A shared machine's speed drifts by more than what is measured here, over seconds to minutes. So all three run at the same
time, each for two seconds in turn while the others are stopped, and a step's time is counted in the time that its own
processes were let run: long enough that what a thawed process catches up with (timers that ran out, caches) weighs little.
Printed are, for each round, the tokens a second of --steps steps after the first; then, over the steps of all rounds, the
median and the quartiles of the ratio between two contestants' times of the same step, taken within seconds of each other.
"""
import argparse
import os
import signal
import statistics
import subprocess
import tempfile
import time

SLICE_S = 2.0
POLL_S = 0.01


def processes_of(session):
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == session:
            found.append(int(name))
    return found


class Contestant:
    """Processes of one session, let run in slices, and when they had ended their steps."""

    def __init__(self, name, command, steps_done):
        self.name = name
        self.steps_done = steps_done
        self.ran = 0.0
        self.ended = {}  # step -> seconds that the processes had run until then
        self.log = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        self.signal(signal.SIGSTOP)

    def signal(self, number):
        for pid in processes_of(self.process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def run_for(self, seconds):
        self.signal(signal.SIGCONT)
        begin = time.monotonic()
        while True:
            now = time.monotonic()
            for step in range(len(self.ended) + 1, self.steps_done(self) + 1):
                self.ended[step] = self.ran + now - begin
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended before it had been measured:\n{self.output()}")
            if now - begin >= seconds:
                break
            time.sleep(POLL_S)
        self.signal(signal.SIGSTOP)
        self.ran += time.monotonic() - begin

    def end(self):
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


def bare(args):
    command = [args.planaria, "bench", args.job, "--threads", "2", "--steps", str(2 * args.steps + 20)]
    return Contestant("bare", command, lambda self: self.output().count("\nstep "))


def elastic(args, name, workers, directory, settings, more=()):
    settings = {**settings, "optimizer.warmup_steps": 1, "train.evaluate_every": 0,
                # Who is stopped for its rivals' turns isn't dead.
                "cluster.lease_ms": 30_000, "cluster.prepare_timeout_ms": 35_000, "cluster.stall_timeout_ms": 50_000}
    command = [args.planaria, "run", args.job, "--workers", str(workers), "--steps", str(2 * args.steps + 20),
               "--out", directory, "--quiet", *more]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]

    def steps_done(_):
        try:
            with open(os.path.join(directory, "metrics.jsonl"), encoding="utf-8") as file:
                return file.read().count("\n")
        except FileNotFoundError:
            return 0

    return Contestant(name, command, steps_done)


def one_round(args, directory, index):
    contestants = [bare(args), elastic(args, "one", 1, os.path.join(directory, f"one-{index}"), {"cluster.threads": 2}),
                   elastic(args, "two", 2, os.path.join(directory, f"two-{index}"), {"cluster.threads": 1})]
    last = args.steps + 1
    try:
        while any(last not in contestant.ended for contestant in contestants):
            for contestant in contestants:
                contestant.run_for(SLICE_S)
    finally:
        for contestant in contestants:
            contestant.end()
    return {c.name: [c.ended[step] - c.ended[step - 1] for step in range(2, last + 1)] for c in contestants}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--job", default="examples/gpt_11m.toml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8192, help="of a step of the job")
    args = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as directory:
        for index in range(args.rounds):
            rounds.append(one_round(args, directory, index))
            speeds = {name: args.tokens / statistics.mean(step_s) for name, step_s in rounds[-1].items()}
            print("bare loop %(bare).0f tokens/s, 1 worker x 2 threads %(one).0f, 2 workers x 1 thread %(two).0f" % speeds,
                  flush=True)
    for what, name, base in [("1 worker / bare loop", "one", "bare"), ("2 workers / 1 worker", "two", "one")]:
        ratios = [theirs / ours for step_s in rounds for theirs, ours in zip(step_s[base], step_s[name])]
        low, median, high = statistics.quantiles(ratios, n=4)
        print("%s: median %.3f (quartiles %.3f and %.3f, of %d steps)" % (what, median, low, high, len(ratios)))


if __name__ == "__main__":
    main()
