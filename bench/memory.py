#!/usr/bin/env python3
"""Peak memory of `kinema generate` and `kinema train` against what --dry-run says.

  python3 bench/memory.py BUILD [OUT.json]      # BUILD holds kinema and random_model (ninja random_model)

Models: the bundled one, and ProMoE-B with random weights in bf16 and f32 (in_channels 3: pixels, since no VAE is at hand)."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEAK = "import resource,subprocess,sys;subprocess.run(sys.argv[1:],check=True,stdout=2);" \
       "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss*1024)"


def peak(cmd):
    return int(subprocess.run([sys.executable, "-c", PEAK, *cmd], check=True, capture_output=True, text=True).stdout)


def planned(cmd):
    out = subprocess.run(cmd + ["--dry-run"], check=True, capture_output=True, text=True).stdout
    return int(out.split("peak memory:")[1].split()[0])


def row(name, cmd, weights=None):
    r = {"case": name, "planned": planned(cmd), "peak": peak(cmd)}
    r["plan_error"] = r["planned"] / r["peak"] - 1
    if weights:
        r["weights"] = weights
        r["peak_over_weights"] = r["peak"] / weights
    print(f"{name:44} planned {r['planned'] / 1e6:8.1f} MB  peak {r['peak'] / 1e6:8.1f} MB  {100 * r['plan_error']:+.1f} %"
          + (f"  {r['peak_over_weights']:.2f} x weights" if weights else ""), flush=True)
    return r


def train_config(path, batch, dtype):
    with open(f"{HERE}/models/bundled.train/1-layout.json") as f:
        c = json.load(f)
    c.update(batch_size=batch, compute=dtype, steps=3, validation={"every": 0}, samples={"every": 0}, checkpoint={"every": 0})
    with open(path, "w") as f:
        json.dump(c, f)


def main():
    build, rows = sys.argv[1], []
    kinema = f"{build}/kinema"
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with tempfile.TemporaryDirectory() as tmp:
        with open(f"{HERE}/bench/configs/promoe-b.json") as f:
            config = dict(json.load(f), in_channels=3)
        with open(f"{tmp}/b.json", "w") as f:
            json.dump(config, f)
        for stored in ("bf16", "f32"):
            subprocess.run([f"{build}/random_model", f"{tmp}/b.json", f"{tmp}/{stored}", stored], check=True)
            size = os.path.getsize(f"{tmp}/{stored}/transformer/diffusion_pytorch_model.safetensors")
            for dtype in ("bf16", "f32", "int8"):
                cmd = [kinema, "generate", "-m", f"{tmp}/{stored}", "--class", "7", "--steps", "2", "--allow-flat", "--dtype", dtype,
                       "-o", f"{tmp}/o.png", "--quiet"]
                rows.append(row(f"generate ProMoE-B, stored {stored}, --dtype {dtype}", cmd, size))
        # the f32 directory is the last one made: as .pth, and that in two types
        subprocess.run([kinema, "convert", f"{tmp}/f32", "-o", f"{tmp}/b.pth", "--dtype", "f32"], check=True)
        for dtype in ("f32", "bf16"):
            used = peak([kinema, "convert", f"{tmp}/b.pth", "-o", f"{tmp}/from-{dtype}", "--dtype", dtype])
            size = os.path.getsize(f"{tmp}/from-{dtype}/transformer/diffusion_pytorch_model.safetensors")
            rows.append({"case": f"convert ProMoE-B.pth, --dtype {dtype}", "peak": used, "weights": size,
                         "peak_over_weights": used / size})
            print(f"convert ProMoE-B.pth, --dtype {dtype}: peak {used / 1e6:.1f} MB, {used / size:.2f} x weights", flush=True)
        for dtype in ("f32", "bf16", "int8"):
            rows.append(row(f"generate bundled, --dtype {dtype}",
                            [kinema, "generate", "-p", "a red ball falls", "--dtype", dtype, "-o", f"{tmp}/o.mp4", "--quiet"]))
        for batch in (1, 16):
            for dtype in ("f32", "bf16"):
                train_config(f"{tmp}/t.json", batch, dtype)
                rows.append(row(f"train bundled, batch {batch}, {dtype}",
                                [kinema, "train", "-c", f"{tmp}/t.json", "-o", f"{tmp}/run-{batch}-{dtype}", "--quiet"]))
    if len(sys.argv) > 2:
        with open(sys.argv[2], "w") as f:
            json.dump(rows, f, indent=1)
            f.write("\n")


main()
