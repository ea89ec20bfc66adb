#!/usr/bin/env python3
"""Instructions and memory traffic of one sampling step and of one training step, before and after, by cachegrind.

  python3 bench/counts.py OLD_KINEMA build/kinema MODEL CONFIG [OUT.json]

OLD_KINEMA is a build of an earlier commit, MODEL a native model and CONFIG a training configuration that both accept. Each command runs twice, with few and with
more steps, and the difference counts: start and packing drop out. Valgrind knows no AVX-512, so both run with KINEMA_ISA=avx2, one
thread; its caches are the machine's first and last level. Counts do not depend on other load."""
import json
import os
import re
import subprocess
import sys
import tempfile

KEYS = {"I": r"I\s+refs:\s+([\d,]+)", "D": r"D\s+refs:\s+([\d,]+)", "D1_miss": r"D1\s+misses:\s+([\d,]+)", "LL_miss": r"LL misses:\s+([\d,]+)"}


def count(cmd):
    env = dict(os.environ, KINEMA_ISA="avx2", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", KINEMA_CALIBRATION="none")
    r = subprocess.run(["valgrind", "--tool=cachegrind", "--cache-sim=yes", "--cachegrind-out-file=/dev/null", *cmd], env=env,
                       capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"{' '.join(cmd)}: exit {r.returncode}\n{r.stderr[-2000:]}")
    return {k: int(re.search(p, r.stderr).group(1).replace(",", "")) for k, p in KEYS.items()}


def per_step(command, few, more):
    a, b = count(command(few)), count(command(more))
    return {k: (b[k] - a[k]) / (more - few) for k in a}


def sampling(kinema, model, extra):
    return lambda n: [kinema, "generate", *model, *extra, "--steps", str(n), "--allow-flat", "-t", "1", "--quiet", "-o", "out.png"]


def training(kinema, config, batch, dtype, tmp):
    def command(n):
        with open(config) as f:
            c = json.load(f)
        for k in ("init_from", "resume"):
            c.pop(k, None)
        c.update(batch_size=batch, compute=dtype, steps=n, validation={"every": 0}, samples={"every": 0}, checkpoint={"every": 0})
        with open(f"{tmp}/train.json", "w") as f:
            json.dump(c, f)
        return [kinema, "train", "-c", f"{tmp}/train.json", "-o", f"{tmp}/run-{os.path.basename(os.path.dirname(kinema))}-{dtype}-{n}-{os.urandom(4).hex()}",
                "-t", "1", "--quiet"]
    return command


def main():
    old, new, model, config = (os.path.abspath(p) for p in sys.argv[1:5])
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        os.chdir(tmp)
        clip = ["a red ball falls", "-m", model]
        cases = [("a sampling step, f32", lambda k: per_step(sampling(k, clip, []), 1, 2)),
                 ("a training step, f32, batch 2", lambda k: per_step(training(k, config, 2, "f32", tmp), 1, 2))]
        for name, run in cases:
            before, after = run(old), run(new)
            rows.append({"case": name, "before": before, "after": after})
            print(f"{name:36} " + "  ".join(f"{k} {before[k] / 1e6:.1f} -> {after[k] / 1e6:.1f} M ({after[k] / before[k]:.2f})" for k in KEYS),
                  flush=True)
    if len(sys.argv) > 5:
        with open(sys.argv[5], "w") as f:
            json.dump(rows, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
