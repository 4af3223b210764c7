#!/usr/bin/env python3
"""Loses hosts, again and again, and holds what happens against what the status promised and against the undisturbed run.

    tests/bench/host_losses.py --all | [--single] [--double] [--keeper] [--nested] [--after-drain] [--three-of-six] [--worker]
                               [--planaria build/release/planaria] [--losses N] [--seed 1] [--csv FILE]

--single        4 hosts, 3 + 1 fragments: a host at a time, 100 times
--double        6 hosts, 4 + 2: two at once, 50 times
--keeper        4 hosts, 3 + 1: a host's keeper alone, 20 times
--nested        a host while another one is made good, 10 times of 6 hosts, 4 + 2, and 10 times of 4, 3 + 1: more than was promised
                at the time may cost the steps since a checkpoint, and what was promised may not
--after-drain   4 hosts, 3 + 1: a host drains, and within half a second another one is lost, 10 times
--three-of-six  6 hosts, 4 + 2: three at once, 5 times: training must fall back to a durable checkpoint, and say so
--worker        4 hosts, 3 + 1: a host's worker alone, 20 times: how long until one is back at the living keeper

`planaria run --hosts` trains with a sharded optimizer, so that each part of the state has one host, as many jobs one after the other
as the losses need; a host's processes are those that /v1/status names. SIGKILL strikes all that is to be lost within a millisecond:
after a random time, or, where the victim was started here, also as its worker enters a drawn phase of a step, so that short phases
are hit, too. A drawn half of the hosts comes back at once, the others when /v1/snapshots says that what is left is protected again.
They come back by the same command lines; the coordinator numbers them anew. The next loss waits until all hosts are there and
protected. What is random follows the seed and the loss's number; the operating system's timing doesn't.

Held against each loss:
  promise    where `tolerated`, read just before (of a drain: before that), covers all hosts that are gone, no committed step is taken
             back: the view's step to resume is beyond the last committed one (the coordinator's log), or it returns into that one, whose
             work is kept, and commits it a second time. More may go back, by tier 1 to 3
  progress   a view without the victims, and a step after it, within --patience; protection, and all hosts, likewise
and against each run:
  result     it finishes, saves its result, and has the weights hash of the undisturbed run
  steps      committed steps come in their order, each once, but for those that a loss beyond the promise took back
  ledgers    no micro-batch of a committed step is missing; none is computed again but of steps that a view resumed; nobody
             computes for a view what is before its step to resume
Losses of whom nobody killed are told, and count as failures.
"""
import argparse
import collections
import csv
import dataclasses
import glob
import json
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.error
import urllib.request

import running_job

PHASES = ["forward", "backward", "reduce", "gate", "update", "commit"]
HERE = ("member", "joining", "draining")
CHECKPOINT_EVERY = 20


@dataclasses.dataclass
class Mode:
    hosts: int
    data: int
    parity: int
    losses: int  # unless told otherwise
    victims: int = 1
    roles: tuple = ("keeper", "worker")
    nested: bool = False
    drain: bool = False
    falls_back: bool = False


MODES = {
    "single": [Mode(4, 3, 1, 100)],
    "double": [Mode(6, 4, 2, 50, victims=2)],
    "keeper": [Mode(4, 3, 1, 20, roles=("keeper",))],
    "nested": [Mode(6, 4, 2, 10, nested=True), Mode(4, 3, 1, 10, nested=True)],
    "after-drain": [Mode(4, 3, 1, 10, drain=True)],
    "three-of-six": [Mode(6, 4, 2, 5, victims=3, falls_back=True)],
    "worker": [Mode(4, 3, 1, 20, roles=("worker",))],
}


class JobEnded(Exception):
    pass


class Stuck(Exception):
    pass


@dataclasses.dataclass
class Loss:
    mode: str
    run: int
    number: int
    seed: str
    hosts: str
    step: int = 0  # the last committed one before
    phase: str = ""
    promised: str = ""  # tolerated before each strike
    beyond: bool = False  # more than was promised
    tier: int | None = None
    returned: bool = False  # into the step committed last
    view_ms: float | None = None  # from the last strike to the view without the victims
    step_ms: float | None = None  # to the first step that it commits
    failed: int = 0  # views that began anew because a plan's state couldn't be fetched
    again: int | None = None  # committed steps that were taken back
    safe_s: float | None = None  # to `tolerated` being what it was, with or without the replacement
    joined_ms: float | None = None  # from starting the replacement to its worker (or keeper) being let in
    member_ms: float | None = None  # to the view that has it
    whole_s: float | None = None  # from the strike to all hosts being there, protected
    wrong: str = ""


class Hook(threading.Thread):
    """The chaos end of workers' fault hooks (worker/shell/fault_hook.hpp): tells when one enters a phase."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path = path
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen()
        self.changed = threading.Condition()
        self.workers = {}
        self.announced = set()
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        pid = None
        try:
            for line in connection.makefile():
                words = line.split()
                with self.changed:
                    if words[0] == "hello":
                        pid = int(words[1])
                        self.workers[pid] = connection
                    elif words[0] == "phase":
                        self.announced.add(pid)
                    self.changed.notify_all()
        except OSError:
            pass
        with self.changed:
            self.workers.pop(pid, None)
        connection.close()

    def knows(self, pid):
        with self.changed:
            return pid in self.workers

    def await_phase(self, pid, step, phase, timeout_s):
        """Whether the worker stands at that point, now."""
        with self.changed:
            connection = self.workers.get(pid)
            if connection is None:
                return False
            self.announced.discard(pid)
            try:
                connection.sendall(f"arm {step} {phase}\n".encode())
            except OSError:
                return False
            return self.changed.wait_for(lambda: pid in self.announced, timeout_s)

    def go_on(self):
        with self.changed:
            for connection in self.workers.values():
                try:
                    connection.sendall(b"go\n")
                except OSError:
                    pass  # it was killed

    def close(self):
        self.server.close()


class Run:
    """One job under `planaria run --hosts`, whose lost processes are started again from here."""

    def __init__(self, args, mode, directory, disturbed=True):
        self.args, self.mode, self.directory = args, mode, directory
        self.out = os.path.join(directory, "run")
        self.log = []
        self.commands = {}
        self.started = []
        self.victims = set()  # incarnations
        self.hook = None
        command = [args.planaria, "run", args.job, "--hosts", str(mode.hosts), "--workers", str(mode.hosts), "--steps",
                   str(args.steps), "--out", self.out, "--quiet", "--json"] + settings(args, mode)
        if disturbed:
            # A fault that never strikes: without it `run` gives up once all workers that it started itself are gone.
            scenario = os.path.join(directory, "scenario.toml")
            with open(scenario, "w", encoding="utf-8") as file:
                file.write('[[fault]]\nkind = "join"\nat_s = 86400\n')
            command += ["--scenario", scenario]
            self.hook = Hook(os.path.join(directory, "hook"))
        self.output = open(os.path.join(directory, "run.out"), "w+", encoding="utf-8")
        self.errors = open(os.path.join(directory, "run.err"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(command, stdout=self.output, stderr=self.errors)

    # What it tells.

    def get(self, path):
        answer = running_job.get(self.out, path)
        if answer is None and (self.process.poll() is not None or os.path.exists(os.path.join(self.out, "result.json"))):
            raise JobEnded()
        return answer

    def post(self, path):
        request = urllib.request.Request(running_job.url(self.out) + path, data=b"{}", headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
        except OSError as error:
            raise JobEnded() from error

    def read_log(self):
        while True:
            after = self.log[-1]["sequence"] if self.log else 0
            page = self.get(f"/v1/events?after={after}&limit=1000&steps=1")
            if not page or not page["events"]:
                return
            self.log += page["events"]

    def read_whole_log(self):
        command = [self.args.planaria, "status", self.out, "--log", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.log = [json.loads(line) for line in done.stdout.splitlines()]

    def await_that(self, what, predicate, pause_s=0.02):
        deadline = time.monotonic() + self.args.patience
        while True:
            found = predicate()
            if found:
                return found
            if self.process.poll() is not None:
                raise JobEnded()
            if time.monotonic() > deadline:
                raise Stuck(f"{what}: not within {self.args.patience:.0f} s")
            time.sleep(pause_s)

    def protected(self):
        """The status, if it knows of all losses and what is left is protected as all hosts were."""
        status = self.get("/v1/status")
        if not status or status["status"] != "training" or not status["snapshots"]:
            return None
        snapshots = status["snapshots"]
        if (snapshots["tolerated"] or 0) < self.mode.parity or snapshots["alone"]:
            return None
        members = {(row["worker"], row["incarnation"]) for row in status["workers"] if row["member"]}
        return None if members & self.victims else status  # the status is up to half a second old

    def whole(self):
        """The same, if all hosts are there; their processes' commands are noted."""
        status = self.protected()
        if not status:
            return None
        if sum(host["there"] and host["keeper"] is not None for host in status["snapshots"]["hosts"]) < self.mode.hosts:
            return None
        rows = [row for row in status["workers"] if row["member"] and row["status"] == "member"]
        if len(rows) != 2 * self.mode.hosts:
            return None
        for row in rows:
            key = (row["host"], row["role"])
            command = command_line(row["process_id"])
            if command:
                self.commands[key] = command
        return status

    # What is done to it.

    def is_process(self, row):
        """Whether the number is still that of a process of this run."""
        return self.out in command_line(row["process_id"])

    def kill(self, rows):
        for row in rows:
            if self.is_process(row):
                os.kill(row["process_id"], signal.SIGKILL)
        self.victims |= {(row["worker"], row["incarnation"]) for row in rows}
        return time.time()

    def start_again(self, host, roles):
        for role in roles:
            command = list(self.commands[host, role])
            if "--fault-hook" in command:
                command[command.index("--fault-hook") + 1] = self.hook.path
            log = open(os.path.join(self.out, f"again-{role}-{host}.log"), "a", encoding="utf-8")
            self.started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
            log.close()
        self.started = [process for process in self.started if process.poll() is None]

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.process.wait()
        self.output.close()
        self.errors.close()
        if self.hook:
            self.hook.close()

    def summary(self):
        """Of a run that has ended; none where it told none."""
        self.output.seek(0)
        told = running_job.summary(self.output.read())
        self.errors.seek(0)
        self.complaint = " ".join(self.errors.read().split())[-300:]
        return told


def settings(args, mode):
    assignments = ["optimizer.shard=true", "train.evaluate_every=0", f"checkpoint.every_steps={CHECKPOINT_EVERY}",
                   f"snapshot.data={mode.data}", f"snapshot.parity={mode.parity}", f"cluster.lease_ms={args.lease_ms}"]
    assignments += args.set
    return [word for assignment in assignments for word in ("--set", assignment)]


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode().split("\0")[:-1]
    except OSError:
        return []


def rows_of(status, hosts, roles):
    return [row for row in status["workers"] if row["host"] in hosts and row["role"] in roles and row["status"] in HERE]


def is_view(event):
    return event["kind"] == "view committed"


def is_step(event):
    return event["kind"] == "step committed"


def incarnations(view):
    return {(member["worker"], member["incarnation"]) for member in view["members"]}


def taken_back(log, since=0):
    """Of each view after that record: how many committed steps it takes back. One that it returns into isn't."""
    last, found = 0, []
    for event in log:
        if is_step(event):
            last = event["step"]
        elif is_view(event):
            back = last + 1 - event["resume"]["step"] - event["resume"]["returns"]
            if event["sequence"] > since and back > 0:
                found.append((event, back))
            last = min(last, event["resume"]["step"] - 1)
    return found


class Striker:
    """Strikes one run, and measures."""

    def __init__(self, args, name, mode, run, index):
        self.args, self.name, self.mode, self.run, self.index = args, name, mode, run, index

    def loss(self, number):
        """One loss from a whole run to a whole run."""
        run, mode = self.run, self.mode
        seed = f"{self.args.seed}/{self.name}/{number}"
        rng = random.Random(seed)
        status = run.await_that("all hosts there and protected", run.whole, 0.05)
        hosts = sorted({row["host"] for row in rows_of(status, {h["host"] for h in status["snapshots"]["hosts"]}, ("worker",))})
        chosen = rng.sample(hosts, max(mode.victims, 2 if mode.nested or mode.drain else 1))
        loss = Loss(self.name, self.index, number, seed, "+".join(chosen))
        at_once = rng.random() < 0.5 or len(mode.roles) == 1
        killed, drained = (chosen[1:], chosen[:1]) if mode.drain else (chosen, [])
        try:
            self.strike(loss, rng, status, killed, drained)
            started = self.replace(killed) if at_once else None
            self.measure(loss)
            if started is None:
                self.await_safe(loss)
                started = self.replace(killed)
            leaving = rows_of(status, drained, mode.roles)
            run.await_that(f"{drained} drained and gone", lambda: not any(run.is_process(row) for row in leaving))
            self.replace(drained)
            self.measure_return(loss, started, killed)
        except JobEnded:  # what it left tells the rest
            if loss.view_ms is None:
                run.read_whole_log()
                if not self.see(loss):
                    loss.wrong = "the job ended before the loss was made good"
        except Stuck as stuck:
            loss.wrong = f"stuck: {stuck}"
        return loss

    def replace(self, hosts):
        for host in hosts:
            self.run.start_again(host, self.mode.roles)
        return time.time()

    def strike(self, loss, rng, status, killed, drained):
        run, mode = self.run, self.mode
        run.read_log()
        self.since = run.log[-1]["sequence"]
        for row in rows_of(status, drained, mode.roles):
            run.post(f"/v1/workers/{row['worker']}/drain")
            run.victims.add((row["worker"], row["incarnation"]))
        if drained:
            time.sleep(rng.uniform(0, 0.5))
        groups = [[host] for host in killed] if mode.nested else [killed]
        promises = []
        gone = set()
        for group in groups:
            rows = rows_of(status, group, mode.roles)
            rng.shuffle(rows)
            aimed = self.aim(rng, status, rows_of(status, group[:1], ("worker",)), nested=bool(gone))
            phase = aimed or self.phase_of(status, group)
            before = run.get("/v1/snapshots")
            self.killed_at = run.kill(rows)
            if aimed:
                run.hook.go_on()
            promised = before["tolerated"] if before else None
            # Whom the status doesn't know to be gone yet counts against its promise.
            unknown = {host["host"] for host in before["hosts"] if host["there"]} & gone if before else set()
            if promised is not None and set(before["alone"]) & set(group):
                promised = 0
            promises.append(str(promised).replace("None", "null"))
            # Who drains stays a source until a snapshot without it is complete: a drain takes nothing from the promise.
            if drained:
                promises.insert(0, str(status["snapshots"]["tolerated"]))
                promised = max(promised or 0, status["snapshots"]["tolerated"])
            loss.beyond = loss.beyond or len(unknown) + len(group) > (promised or 0)
            loss.phase += ("," if loss.phase else "") + phase
            gone |= set(group)
        loss.promised = ",".join(promises)
        self.lost = {(row["worker"], row["incarnation"]) for row in rows_of(status, set().union(*groups), mode.roles)}

    def aim(self, rng, status, workers, nested):
        """Waits for the moment; the phase that the first host's worker stands in, where it was waited for."""
        run = self.run
        phase = "fetch" if nested else rng.choice(PHASES)
        if rng.random() < 0.7 and workers and run.hook.knows(workers[0]["process_id"]):
            run.read_log()
            newest = next((event["step"] for event in reversed(run.log) if is_step(event)), 0)
            step, timeout_s = (newest + 1, 0.5) if nested else (newest + 3, 5)
            if run.hook.await_phase(workers[0]["process_id"], step, phase, timeout_s):
                return phase
        time.sleep(rng.uniform(0, 0.15) if nested else rng.uniform(0, 2 * (status["step_s"] or 0.1)))
        return None

    def phase_of(self, status, group):
        """By its worker's last heartbeat."""
        status = self.run.get("/v1/status") or status
        phases = [row["phase"] for row in rows_of(status, group, ("worker",))]
        return "~" + phases[0] if phases else "?"

    def see(self, loss):
        """Whether the log has the view without the victims and a step after it."""
        log = self.run.log
        loss.step = next((e["step"] for e in reversed(log) if is_step(e) and e["unix_ms"] < self.killed_at * 1e3), 0)
        views = [e for e in log if is_view(e) and e["sequence"] > self.since]
        without = next((e for e in views if not incarnations(e) & self.lost), None)
        if without is None:
            return False
        step = next((e for e in log if is_step(e) and e["sequence"] > without["sequence"]), None)
        ended = next((e for e in log if e["kind"] == "finished"), None)
        if step is None and ended is None:
            return False
        until = [e for e in views if e["sequence"] <= without["sequence"]]
        loss.tier = max(e["resume"]["tier"] for e in until)
        loss.returned = any(e["resume"]["returns"] for e in until)
        loss.view_ms = without["unix_ms"] - self.killed_at * 1e3
        if step:
            loss.step_ms = step["unix_ms"] - self.killed_at * 1e3
        loss.failed = sum("could not be fetched" in e["reason"] for e in views)
        back = [(e, n) for e, n in taken_back(log, self.since) if e["sequence"] <= without["sequence"]]
        loss.again = max((n for _, n in back), default=0)
        wrong = []
        if not loss.beyond and (loss.again > 0 or loss.tier >= 1):
            wrong.append(f"{loss.promised} promised, but {loss.again} steps were taken back by tier {loss.tier}: "
                         f"{without['reason']}")
        if self.mode.falls_back:
            reasons = " ".join(e["reason"] for e in until)
            if not loss.beyond:
                wrong.append(f"{loss.promised} tolerated, where {self.mode.victims} can't be")
            if loss.tier < 2 or ("durable checkpoint" not in reasons and "initial state" not in reasons):
                wrong.append(f"no fall back to a checkpoint, or none that is told: tier {loss.tier}: {reasons}")
        loss.wrong = "; ".join(wrong)
        return True

    def measure(self, loss):
        def seen():
            self.run.read_log()
            return self.see(loss)

        self.run.await_that(f"{loss.hosts} lost: a view without it and a step", seen, 0.01)

    def await_safe(self, loss):
        self.run.await_that("protection by those that are left", self.run.protected, 0.02)
        loss.safe_s = time.time() - self.killed_at

    def measure_return(self, loss, started, chosen):
        run = self.run
        run.await_that(f"{loss.hosts} back and protected", run.whole, 0.05)
        loss.whole_s = time.time() - self.killed_at
        run.read_log()
        role = self.mode.roles[-1]
        accepted = {}
        for event in run.log:
            if event["kind"] == "worker accepted" and event["sequence"] > self.since and event["host"] in chosen:
                accepted[event["worker"], event["incarnation"]] = event["unix_ms"]
        for event in run.log:
            if not is_view(event):
                continue
            for member in event["members"]:
                at = accepted.get((member["worker"], member["incarnation"]))
                if at is not None and member["role"] == role and loss.member_ms is None:
                    loss.joined_ms = at - started * 1e3
                    loss.member_ms = event["unix_ms"] - started * 1e3


def ledgers(directory):
    """All records (docs/FORMATS.md, Ledger): step, micro-batch, first block, end block, view."""
    for path in glob.glob(os.path.join(directory, "workers", "*", "ledger.*")):
        with open(path, "rb") as file:
            records = file.read()[64:]
        for step, _, micro_batch, first, end, _, view, flags in struct.iter_unpack("<QqIIIIII", records[: len(records) // 40 * 40]):
            if not flags & 1:
                break
            yield step, micro_batch, first, end, view


def check_run(args, run, losses, reference):
    """What is wrong with a run that has ended; and the micro-batches that it computed again."""
    wrong = []
    summary = run.summary()
    if summary is None or run.process.returncode != 0:
        wrong.append(f"exit code {run.process.returncode}: {run.complaint}")
    if summary is None:
        return wrong, None
    if summary["status"] != "finished":
        wrong.append(f"{summary['status']}: {summary['reason']}")
    if summary["weights_hash"] != reference:
        wrong.append(f"weights {summary['weights_hash']} instead of {reference}")
    if summary["ledger"]["missing"] != 0:
        wrong.append(f"{summary['ledger']['missing']} micro-batches of committed steps are in no ledger")
    run.read_whole_log()
    allowed = sum(1 for loss in losses if loss.beyond)
    if len(taken_back(run.log)) > allowed:
        told = "; ".join(f"view {event['view']} takes {back} steps back" for event, back in taken_back(run.log))
        wrong.append(f"{allowed} losses may take steps back: {told}")
    expected, first_of, resumed, redone = 1, {}, set(), set()
    for event in run.log:
        if is_view(event):
            resume = event["resume"]["step"]
            first_of[event["view"]] = resume
            resumed.add(resume)
            if resume < expected:
                redone |= set(range(resume, expected + 1))  # taken back, with the one that was under way
            expected = min(expected, resume)
        elif is_step(event):
            if event["step"] != expected:
                wrong.append(f"step {event['step']} was committed where {expected} was due")
            expected = event["step"] + 1
    counts = collections.Counter()
    early = 0
    for step, micro_batch, first, end, view in ledgers(run.out):
        early += step < first_of.get(view, 0)
        for block in range(first, end):
            counts[step, micro_batch, block] += 1
    if early:
        wrong.append(f"{early} ledger records of a view are of steps before the one that it resumed")
    unasked = {key[0] for key, count in counts.items() if count > 1} - resumed - redone
    if unasked:
        wrong.append(f"micro-batches of steps {sorted(unasked)[:5]} were computed again, which no view resumed")
    previous = set()
    for event in run.log:
        if event["kind"] == "view prepared":
            strangers = [(w, i) for w, i in previous if w in event["excluded"] and (w, i) not in run.victims]
            if strangers:
                wrong.append(f"lost, though nobody killed them: {strangers}: {event['reason']}")
        elif is_view(event):
            previous = incarnations(event)
    return wrong, summary["ledger"]["repeated"]


def spread(values):
    values = sorted(v for v in values if v is not None)
    if not values:
        return f"{'–':>24}"
    return f"{statistics.median(values):8.0f}{values[round(0.95 * (len(values) - 1))]:8.0f}{values[-1]:8.0f}"


def line_of(loss):
    def number(value, unit, form=".0f"):
        return "–" if value is None else f"{value:{form}} {unit}"

    text = (f"{loss.mode} {loss.number:3} run {loss.run} seed {loss.seed} {loss.hosts} step {loss.step} {loss.phase} "
            f"promised {loss.promised}{' (beyond)' if loss.beyond else ''} tier {loss.tier}{' returned' if loss.returned else ''} view {number(loss.view_ms, 'ms')} "
            f"step {number(loss.step_ms, 'ms')} taken back {loss.again} "
            f"{f'plans that failed {loss.failed} ' if loss.failed else ''}safe {number(loss.safe_s, 's', '.2f')} "
            f"let in {number(loss.joined_ms, 'ms')} back {number(loss.member_ms, 'ms')} whole {number(loss.whole_s, 's', '.2f')}")
    return text + (f"  WRONG: {loss.wrong}" if loss.wrong else "")


class Campaign:
    def __init__(self, args, directory):
        self.args, self.directory = args, directory
        self.losses, self.failures, self.repeated = [], [], collections.Counter()
        self.runs = 0
        self.reference = None

    def undisturbed(self):
        directory = os.path.join(self.directory, "undisturbed")
        os.mkdir(directory)
        run = Run(self.args, Mode(4, 3, 1, 0), directory, disturbed=False)
        try:
            run.process.wait()
            summary = run.summary()
        finally:
            run.end()
        if run.process.returncode != 0 or summary is None or not summary["weights_hash"]:
            sys.exit(f"the undisturbed run failed with exit code {run.process.returncode}: {run.complaint}")
        self.reference = summary["weights_hash"]
        print(f"undisturbed: {self.args.steps} steps in {summary['wall_s']:.1f} s, weights {self.reference}", flush=True)

    def run_mode(self, name, mode):
        wanted = self.args.losses or mode.losses
        done = barren = 0
        while done < wanted and barren < 2:
            struck = self.one_run(name, mode, done, wanted)
            barren = 0 if struck else barren + 1
            done += struck
        if done < wanted:
            self.failures.append(f"{name}: {done} of {wanted} losses struck: two runs ended without any")

    def one_run(self, name, mode, done, wanted):
        """How many losses a run had."""
        self.runs += 1
        directory = os.path.join(self.directory, str(self.runs))
        os.mkdir(directory)
        run = Run(self.args, mode, directory)
        losses, wrong, repeated = [], [], None
        try:
            self.strike_until_end(run, Striker(self.args, name, mode, run, self.runs), losses, done, wanted)
            run.process.wait(self.args.patience)
        except Stuck as stuck:
            wrong.append(f"stuck: {stuck}")
        except subprocess.TimeoutExpired:
            wrong.append("the job has a result, but `run` doesn't end")
        finally:
            if run.process.poll() is None:
                self.keep_status(run, directory)
            else:
                found, repeated = check_run(self.args, run, losses, self.reference)
                wrong += found
            run.end()
            self.losses += losses
            self.repeated[name] += repeated or 0
        wrong += [f"loss {loss.number}: {loss.wrong}" for loss in losses if loss.wrong]
        print(f"run {self.runs}: {name}, {len(losses)} losses, {'–' if repeated is None else repeated} micro-batches computed "
              f"again: {'held' if not wrong else 'WRONG, see ' + directory}", flush=True)
        for complaint in wrong:
            print(f"  {complaint}", flush=True)
            self.failures.append(f"run {self.runs} ({name}): {complaint}")
        if not wrong and not self.args.keep:
            shutil.rmtree(directory)
        return len(losses)

    def strike_until_end(self, run, striker, losses, done, wanted):
        try:
            run.await_that("the run's status page", lambda: os.path.exists(os.path.join(run.out, "coordinator.json")))
            while done + len(losses) < wanted:
                status = run.await_that("all hosts there and protected", run.whole, 0.05)
                if striker.mode.falls_back and not status["checkpoints"]:
                    time.sleep(0.1)
                    continue
                if status["total_steps"] - status["step"] < self.args.margin_s / (status["step_s"] or 0.1):
                    break
                loss = striker.loss(done + len(losses))
                losses.append(loss)
                print(line_of(loss), flush=True)
                if loss.wrong.startswith("stuck"):
                    raise Stuck(f"after loss {loss.number}")
            # What is left of the job is watched, too: it may not stand still.
            while run.process.poll() is None:
                before = run.get("/v1/status") or {}
                run.await_that("a step", lambda: (run.get("/v1/status") or {}).get("step") != before.get("step"), 0.5)
        except JobEnded:
            pass

    @staticmethod
    def keep_status(run, directory):
        try:
            status = run.get("/v1/status")
        except JobEnded:
            return
        with open(os.path.join(directory, "status.json"), "w", encoding="utf-8") as file:
            json.dump(status, file, indent=1)

    def table(self):
        columns = ["ms to the view", "ms to the step", "ms until back in", "ms until whole"]
        print(f"\n{'':14}{'':>5}{'':>6}{'tiers':>15}" + "".join(f"{column:>25}" for column in columns) + f"{'again':>14}")
        print(f"{'mode':14}{'n':>5}{'held':>6}{'0 1 2 3':>15}" + f"{'median':>9}{'p95':>8}{'most':>8}" * 4 + "   steps  µ-b.")
        for name in dict.fromkeys(loss.mode for loss in self.losses):
            losses = [loss for loss in self.losses if loss.mode == name]
            tiers = collections.Counter(loss.tier for loss in losses)
            held = sum(not loss.wrong for loss in losses)
            print(f"{name:14}{len(losses):5}{held:6}  {' '.join(str(tiers[t]) for t in range(4)):>13} "
                  f"{spread([loss.view_ms for loss in losses])} {spread([loss.step_ms for loss in losses])} "
                  f"{spread([loss.member_ms for loss in losses])} "
                  f"{spread([loss.whole_s * 1e3 for loss in losses if loss.whole_s is not None])} "
                  f"{max((loss.again or 0 for loss in losses), default=0):7} {self.repeated[name] / len(losses):5.0f}")
        print("steps: the most that a loss took back; µ-b.: micro-batches computed again, a loss; back in: from a "
              "replacement's start to the view that has it")

    def write_csv(self):
        with open(self.args.csv, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Loss)])
            writer.writeheader()
            writer.writerows(dataclasses.asdict(loss) for loss in self.losses)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria")
    parser.add_argument("--job", default="tests/jobs/tiny.toml")
    parser.add_argument("--set", action="append", default=[], help="override a key of the job, e.g. model.context=128")
    parser.add_argument("--all", action="store_true", help="all of:")
    for name in MODES:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--losses", type=int, help="of each mode (each part of it), instead of its own number")
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease-ms", type=int, default=1500, help="longer than a busy machine lets a living process wait")
    parser.add_argument("--patience", type=float, default=60, help="seconds after which something that should happen is stuck")
    parser.add_argument("--margin-s", type=float, default=6, help="before a run's end, in which nothing is struck")
    parser.add_argument("--csv", help="a file for the losses")
    parser.add_argument("--keep", action="store_true", help="what all runs wrote, not only those with something wrong")
    args = parser.parse_args()
    names = [name for name in MODES if args.all or getattr(args, name.replace("-", "_"))]
    if not names:
        parser.error("name what to lose: --all or some of " + " ".join(f"--{name}" for name in MODES))
    with open(args.job, "rb") as file:
        tomllib.load(file)
    directory = tempfile.mkdtemp(prefix="host-losses-")
    campaign = Campaign(args, directory)
    try:
        campaign.undisturbed()
        for name in names:
            for mode in MODES[name]:
                campaign.run_mode(name, mode)
    finally:
        if campaign.losses:
            campaign.table()
        if args.csv:
            campaign.write_csv()
    for failure in campaign.failures:
        print(failure)
    if campaign.failures:
        print(f"{len(campaign.failures)} failures; what they left is in {directory}")
    elif not args.keep:
        shutil.rmtree(directory)
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
