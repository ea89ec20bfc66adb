"""Timing shared by the twins: rounds of wall and CPU time, and a loop that serves timings over a pipe.

A twin offers `jobs`: a function (engine, dtype, work, threads) -> callable, or None where it cannot. Two ways to use it:

  twin.py CONFIG --work forward --engine torch --dtype f32      times once and prints one JSON object
  twin.py CONFIG --serve                                        reads such requests as JSON lines, answers each with a line,
                                                                and waits asleep in between: bench/table.py alternates so
"""
import json
import os
import resource
import statistics
import sys
import time
import traceback


ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)


def own_output():
    """From here on whatever a library prints goes to stderr; answers go to ANSWERS."""
    os.dup2(2, 1)


def foreign_share(run):
    """run() -> (its result, share of all CPU time that other processes used meanwhile)."""
    def busy():
        v = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
        return sum(v) - v[3] - v[4], sum(v)
    b0, a0 = busy()
    c0 = os.times()
    out = run()
    c1, (b1, a1) = os.times(), busy()
    own = sum(c1[:4]) - sum(c0[:4])
    whole = (a1 - a0) / os.sysconf("SC_CLK_TCK")
    return out, max(0.0, (b1 - b0) / os.sysconf("SC_CLK_TCK") - own) / whole if whole > 0 else 0.0


def summary(values):
    return {"best": min(values), "median": statistics.median(values), "all": values}


def measure(fn, rounds, warm):
    """Wall and process CPU seconds of `rounds` calls; `warm` calls before are left out."""
    for _ in range(warm):
        fn()
    wall, cpu = [], []
    for _ in range(rounds):
        w, c = time.perf_counter(), time.process_time()
        fn()
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    return wall, cpu


class Server:
    def __init__(self, jobs, facts):
        self.jobs, self.facts, self.ready = jobs, facts, {}

    def answer(self, request):
        key = tuple(request.get(k) for k in ("engine", "dtype", "work", "threads"))
        warm = 0
        if key not in self.ready:
            fn = self.jobs(*key)
            self.ready[key], warm = fn, 2
        fn = self.ready[key]
        reply = dict(zip(("engine", "dtype", "work", "threads"), key), **self.facts)
        if fn is None:
            return dict(reply, unsupported=True)
        wall, cpu = measure(fn, request.get("rounds", 3), warm)
        return dict(reply, seconds=summary(wall), cpu=summary(cpu),
                    peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def guarded(self, request):
        try:
            return self.answer(request)
        except Exception as e:  # one engine that fails must not take the others with it
            return dict(request, error=str(e)[:400], trace=traceback.format_exc()[-800:])

    def serve(self):
        for line in sys.stdin:
            ANSWERS.write(json.dumps(self.guarded(json.loads(line))) + "\n")


def add_flags(ap, works):
    ap.add_argument("config")
    ap.add_argument("--serve", action="store_true", help="time what JSON lines on stdin ask for")
    ap.add_argument("--work", choices=works, default=works[0])
    ap.add_argument("--engine", default="torch", help="torch, compiled, openvino (forward only)")
    ap.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: autocast, or OpenVINO's precision hint")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=3)


def finish(a, jobs, facts):
    server = Server(jobs, facts)
    if a.serve:
        server.serve()
        return
    request = {k: getattr(a, k) for k in ("engine", "dtype", "work", "threads", "rounds")}
    ANSWERS.write(json.dumps(server.guarded(request)) + "\n")
