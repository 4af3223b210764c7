#!/usr/bin/env python3
"""Throughput when workers go, slow down or join, and a pipeline's bubble; a cgroup holds every worker to a part of a core.

    tests/bench/capped_throughput.py [loss] [straggler] [bubble] [joiner] [--planaria build/release/planaria] [--rounds 3]

loss       four workers, then one is killed: speed after over three quarters of the speed before
straggler  four workers, then one is held to half of its share: speed over 3.5 quarters of the speed before
bubble     one pipeline of --large-job: what its first stage waits in a step beyond the slowest stage's micro-batches, over what
           1F1B takes to fill and to empty: the other stages' time for a micro-batch
joiner     two workers of --large-job and then a third: what the step before its coming and the one in which it fetches take
           beyond a step of the two, and what its first own one takes beyond a step of the three, over that

Speeds are of the median step of a window. Needs root for the cgroup's cpu controller (version 1 or 2).
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

import running_job

PERIOD_US = 10_000


class CpuCap:
    """A cgroup of one process that gets at most a part of a core."""

    def __init__(self, name):
        v1 = "/sys/fs/cgroup/cpu"
        self.v2 = not os.path.isdir(v1)
        self.path = os.path.join("/sys/fs/cgroup" if self.v2 else v1, name)
        os.mkdir(self.path)

    def hold(self, pid, share):
        self.share(share)
        with open(os.path.join(self.path, "cgroup.procs"), "w", encoding="utf-8") as file:
            file.write(str(pid))

    def share(self, share):
        quota = int(share * PERIOD_US)
        if self.v2:
            self.write("cpu.max", f"{quota} {PERIOD_US}")
        else:
            self.write("cpu.cfs_period_us", str(PERIOD_US))
            self.write("cpu.cfs_quota_us", str(quota))

    def write(self, name, text):
        with open(os.path.join(self.path, name), "w", encoding="utf-8") as file:
            file.write(text)

    def remove(self):
        os.rmdir(self.path)


class Run:
    """A coordinator and capped workers; steps() are those that its metrics tell so far."""

    def __init__(self, args, shares, settings, job=None):
        self.args = args
        self.job = job or args.job
        self.directory = tempfile.TemporaryDirectory()
        out = self.directory.name
        self.common = common = ["--out", out]
        for assignment in ["train.evaluate_every=0", "checkpoint.every_steps=0", "optimizer.warmup_steps=1",
                           f"cluster.workers={len(shares)}"] + settings:
            common += ["--set", assignment]
        self.processes = [self.start([args.planaria, "coordinator", self.job] + common, "coordinator")]
        self.workers = []
        self.caps = []
        deadline = time.time() + 30
        while (known := running_job.ports(out)) is None:
            if time.time() > deadline:
                raise RuntimeError("the coordinator didn't start")
            time.sleep(0.02)
        self.coordinator = f"{known['address']}:{known['control_port']}"
        self.telemetry = f"tcp://{known['address']}:{known['telemetry_port']}"
        for share in shares:
            self.add_worker(share)

    def add_worker(self, share):
        index = len(self.workers)
        worker = self.start([self.args.planaria, "worker", self.job, "--join", self.coordinator, "--id", str(index),
                             "--telemetry", self.telemetry] + self.common, f"worker-{index}")
        cap = CpuCap(f"planaria-bench-{os.getpid()}-{index}")
        cap.hold(worker.pid, share)
        self.workers.append(worker)
        self.caps.append(cap)
        self.processes.append(worker)

    def start(self, command, name):
        log = open(os.path.join(self.directory.name, name + ".out"), "w", encoding="utf-8")
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def steps(self):
        try:
            with open(os.path.join(self.directory.name, "metrics.jsonl"), encoding="utf-8") as file:
                lines = file.read().split("\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def stages(self):
        """The workers' rows of the coordinator's status in the order of their blocks."""
        status = running_job.get(self.directory.name, "/v1/status")
        return sorted(status["workers"], key=lambda row: row["blocks"])

    def await_step(self, step):
        while True:
            steps = self.steps()
            if steps and steps[-1]["step"] >= step:
                return
            if self.processes[0].poll() is not None:
                raise RuntimeError("the job ended before it had been measured")
            time.sleep(0.2)

    def end(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        for cap in self.caps:
            for _ in range(100):
                try:
                    cap.remove()
                    break
                except OSError:  # its last thread is still going
                    time.sleep(0.02)
        self.directory.cleanup()


def median_step(steps, first, last):
    return statistics.median(s["step_s"] for s in steps if first <= s["step"] <= last and s["step_s"] > 0)


def before_and_after(args, change):
    """Median steps before and after what change(run) does to the last of four workers."""
    window = args.window
    total = 10 + 2 * window + args.settle
    run = Run(args, [args.share] * 4, [f"train.steps={total + 1000}"])
    try:
        run.await_step(10 + window)
        struck = run.steps()[-1]["step"]
        change(run)
        run.await_step(struck + args.settle + window)
        steps = run.steps()
        return (median_step(steps, struck - window, struck), median_step(steps, struck + args.settle, 10**9), steps)
    finally:
        run.end()


def loss(args):
    before, after, _ = before_and_after(args, lambda run: run.workers[3].send_signal(signal.SIGKILL))
    return f"step {before * 1e3:.1f} ms, {after * 1e3:.1f} ms after the loss", before / after / 0.75


def straggler(args):
    before, after, steps = before_and_after(args, lambda run: run.caps[3].share(args.share / 2))
    views = {s["view"] for s in steps}
    return (f"step {before * 1e3:.1f} ms, {after * 1e3:.1f} ms with one at half speed, {len(views)} views",
            before / after / 0.875)


def bubble(args):
    run = Run(args, [args.share] * args.stages, ["train.steps=100000", f"cluster.layout={args.stages}"], args.large_job)
    try:
        run.await_step(2)
        first = run.stages()
        run.await_step(2 + args.bubble_steps)
        last = run.stages()
    finally:
        run.end()
    # Of each stage, in order.
    micro_batches = [b["stage_microbatches"] - a["stage_microbatches"] for a, b in zip(first, last)]
    took = [(b["computing_s"] - a["computing_s"]) / n for a, b, n in zip(first, last, micro_batches)]
    with open(args.large_job, "rb") as file:
        a_step = tomllib.load(file)["batch"]["micro_batches"]
    waits = (last[0]["waiting_s"] - first[0]["waiting_s"]) / (micro_batches[0] / a_step)
    beside = waits + a_step * (took[0] - max(took))
    formula = sum(took) - max(took)
    return (f"stages take {', '.join(f'{t * 1e3:.2f}' for t in took)} ms a micro-batch; besides {a_step} of the slowest's, "
            f"the first one's step takes {beside * 1e3:.2f} ms; formula {formula * 1e3:.2f} ms", beside / formula)


def joiner(args):
    run = Run(args, [args.share] * 2, ["train.steps=1000"], args.large_job)
    try:
        run.await_step(10)
        run.add_worker(args.share)
        while run.steps()[-1]["workers"] < 3:
            time.sleep(0.2)
        first = next(s["step"] for s in run.steps() if s["workers"] == 3)
        run.await_step(first + 6)
        steps = run.steps()
    finally:
        run.end()
    two = median_step(steps, 4, first - 2)  # the first ones of a process are slow
    three = median_step(steps, first + 2, 10**9)
    around = {s["step"]: s["step_s"] for s in steps}
    # The step before waits at its end; the two compute the first one alone, while the joiner fetches the state from them
    # and updates it with them; in the second it computes.
    delay = around[first - 1] - two + around[first] - two + around[first + 1] - three
    return (f"steps {two:.2f} s with two, {three:.2f} s with three, {around[first - 1]:.2f} {around[first]:.2f} "
            f"{around[first + 1]:.2f} s around the joiner's first", delay / three)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["loss", "straggler", "bubble", "joiner", []], help="all, unless some are named")
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--job", default="tests/jobs/tiny.toml")
    parser.add_argument("--large-job", default="examples/gpt_11m.toml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.4, help="of a core, for each worker")
    parser.add_argument("--window", type=int, default=100, help="steps that a speed is taken from")
    parser.add_argument("--settle", type=int, default=150, help="steps after a change that aren't looked at")
    parser.add_argument("--bubble-steps", type=int, default=10, help="that the bubble is taken from")
    parser.add_argument("--stages", type=int, default=3, help="of the pipeline whose bubble is measured")
    args = parser.parse_args()
    try:
        CpuCap(f"planaria-bench-{os.getpid()}").remove()
    except OSError as error:
        sys.exit(f"no cgroup can be made: {error}; this needs root and the cpu controller")
    measures = {"loss": loss, "straggler": straggler, "bubble": bubble, "joiner": joiner}
    for name in args.what or measures:
        ratios = []
        for _ in range(args.rounds):
            text, ratio = measures[name](args)
            ratios.append(ratio)
            print(f"{name}: {text}: ratio {ratio:.3f}", flush=True)
        print(f"{name}: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


if __name__ == "__main__":
    main()
