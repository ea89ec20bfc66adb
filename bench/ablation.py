#!/usr/bin/env python3
"""The router ablation on CIFAR-10: five variants of one transformer at equal activated FLOPs, several seeds.

  python3 bench/ablation.py --data cifar10.tar -o ablation/ --jobs 2      # all of it; start it again to go on
  python3 bench/ablation.py -o ablation/ --table                          # only the table of what is there

A run that was stopped goes on from its newest checkpoint; one that is done is not run again. Each run is one thread
by default, --jobs of them at a time. OUT/VARIANT-SEED/ are run folders, OUT/VARIANT-SEED.loss.json what
`kinema evaluate --suite loss` says, OUT/table.md the table. Needs nothing but kinema and Python's own library."""
import argparse
import concurrent.futures
import json
import os
import signal
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VARIANTS = {
    "dense": "dense",
    "tc": "token choice, auxiliary loss",
    "prototypes": "prototypes",
    "rcl": "prototypes + RCL",
    "promoe": "prototypes + RCL + conditional routing",
}
children = set()
stopping = False


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", help="CIFAR-10 as class folders or a tar of them, with parts train and test")
    p.add_argument("-o", "--output", required=True, help="folder of the runs")
    p.add_argument("--kinema", default=f"{HERE}/build/kinema")
    p.add_argument("--configs", default=f"{HERE}/docs/ablation", help="folder of VARIANT.json")
    p.add_argument("--variants", default=",".join(VARIANTS))
    p.add_argument("--seeds", default="1,2,3")
    p.add_argument("--steps", type=int, help="in place of the configurations'")
    p.add_argument("--jobs", type=int, default=1, help="runs at a time")
    p.add_argument("-t", "--threads", type=int, default=1, help="threads of each run")
    p.add_argument("--table", action="store_true", help="run nothing")
    return p.parse_args()


def run(command, log):
    """Runs a command, its output appended to a log; False if it failed or was stopped."""
    if stopping:
        return False
    with open(log, "a") as f:
        child = subprocess.Popen(command, stdout=f, stderr=f)
        children.add(child)
        code = child.wait()
        children.discard(child)
    if code and not stopping:
        print(f"{' '.join(command)}\n  exit code {code}, see {log}", file=sys.stderr, flush=True)
    return code == 0


def newest(folder):
    """Step of the newest checkpoint, 0 without one."""
    try:
        with open(f"{folder}/latest") as f:
            return int(f.read().strip().split("-")[1])
    except (OSError, IndexError, ValueError):
        return 0


def one(a, variant, seed):
    name = f"{a.output}/{variant}-{seed}"
    with open(f"{a.configs}/{variant}.json") as f:
        config = json.load(f)
    config["seed"] = seed
    config["steps"] = a.steps or config["steps"]
    with open(f"{name}.json", "w") as f:
        json.dump(config, f, indent=1)
    at = newest(name)
    log = f"{name}.log"
    threads = ["-t", str(a.threads), "-q"]
    if at < config["steps"]:
        print(f"{variant} seed {seed}: from step {at} to {config['steps']}", flush=True)
        train = [a.kinema, "train", "-c", f"{name}.json", "--data", a.data, "-o", name, *threads]
        # a folder without a complete checkpoint is started anew
        if not run(train + (["--resume"] if at else []), log):
            return
        if os.path.exists(f"{name}.loss.json"):
            os.remove(f"{name}.loss.json")
    if os.path.exists(f"{name}.loss.json") or stopping:
        return
    with open(f"{name}.loss.tmp", "w") as f:
        child = subprocess.Popen([a.kinema, "evaluate", "--suite", "loss", "-m", name, "--data", a.data, *threads], stdout=f)
        children.add(child)
        code = child.wait()
        children.discard(child)
    if code == 0:
        os.replace(f"{name}.loss.tmp", f"{name}.loss.json")
        print(f"{variant} seed {seed}: done", flush=True)
    elif not stopping:
        print(f"{variant} seed {seed}: evaluate: exit code {code}", file=sys.stderr, flush=True)


def speed(name):
    """Median steps per second and the last step, from the log."""
    rates, last = [], 0
    with open(f"{name}/log.jsonl") as f:
        for line in f:
            o = json.loads(line)
            last = o["step"]
            if "time" in o:
                rates.append(o["time"]["it_per_s"])
    return statistics.median(rates), last


def table(a):
    rows, times, linear = [], {}, None
    steps = set()
    for v in a.variants.split(","):
        results, rates = [], []
        for seed in a.seeds.split(","):
            name = f"{a.output}/{v}-{seed}"
            if os.path.exists(f"{name}.loss.json"):
                with open(f"{name}.loss.json") as f:
                    results.append(json.load(f))
                rate, last = speed(name)
                rates.append(rate)
                steps.add(last)
        if not results:
            continue
        means = [r["mean"] for r in results]
        spread = statistics.stdev(means) if len(means) > 1 else float("nan")
        rows.append((v, statistics.mean(means), spread, min(means), max(means), len(means), statistics.median(rates)))
        for t in results[0]["velocity_error"]:
            times.setdefault(t, []).append(statistics.mean(r["velocity_error"][t] for r in results))
        linear = results[0]["linear_denoiser"]
    if not rows:
        return "no run is finished\n"
    out = [f"steps: {', '.join(map(str, sorted(steps)))}", "",
           "| variant | validation loss | deviation | min | max | seeds | it/s |", "|---|---|---|---|---|---|---|"]
    for v, mean, spread, lo, hi, n, rate in rows:
        out.append(f"| {VARIANTS.get(v, v)} | {mean:.5f} | {spread:.5f} | {lo:.5f} | {hi:.5f} | {n} | {rate:.2f} |")
    out.append(f"| best linear denoiser of each time | {linear['mean']:.5f} | | | | | |")
    out += ["", "| time | " + " | ".join(VARIANTS.get(r[0], r[0]) for r in rows) + " | linear |",
            "|---" * (len(rows) + 2) + "|"]
    for t, values in times.items():
        out.append(f"| {t} | " + " | ".join(f"{x:.5f}" for x in values) + f" | {linear['velocity_error'][t]:.5f} |")
    return "\n".join(out) + "\n"


def stop(number, _frame):
    global stopping
    stopping = True
    for child in list(children):
        child.send_signal(number)


def main():
    a = arguments()
    os.makedirs(a.output, exist_ok=True)
    if not a.table:
        if not a.data:
            sys.exit("ablation: --data is missing")
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
            # a seed of every variant first, so that an early table compares like with like
            for f in [pool.submit(one, a, v, int(s)) for s in a.seeds.split(",") for v in a.variants.split(",")]:
                f.result()
    text = table(a)
    with open(f"{a.output}/table.md", "w") as f:
        f.write(text)
    print(text, end="")
    return 130 if stopping else 0


if __name__ == "__main__":
    sys.exit(main())
