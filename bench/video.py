#!/usr/bin/env python3
"""Speed and memory of the published video models: kinema, diffusers and (where it is built) stable-diffusion.cpp in turns within
one run, on one Wan2.1-1.3B directory of random weights; ratios from that run, best of rounds. Cost against frames and resolution.

  python3 bench/video.py --model DIR [--python VENV/bin/python] [--sd SD_CLI --sd-weights FILE]     all rows
  python3 bench/video.py --model DIR --only step_small                                           one row again
  python3 bench/video.py --write                                   only docs/SPEED.md and the plot, from the stored results
  python3 bench/video.py --model DIR --scaling                     cost against frames and size

DIR: `build/tests/cli/video_model wan-1.3b models/bundled/tokenizer/spiece.model DIR`. FILE: `bench/peers/sd_weights.py DIR FILE f16`.
Raw results go to docs/bench/video.json, the table between the markers of docs/SPEED.md.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "bench", "peers"))
import harness  # noqa: E402

BEGIN, END = "<!-- video: bench/video.py -->", "<!-- end of video -->"
STORE = os.path.join(ROOT, "docs", "bench", "video.json")
SIZES = {"small": (5, 112, 208), "large": (5, 240, 416)}
TEXT_BLOCK = 2 * 512 * (4 * 4096 * 4096 + 3 * 4096 * 10240) + 4 * 512 * 512 * 4096  # operations of one of UMT5-xxl's blocks


class Run:
    def __init__(self, a):
        self.a, self.twin, self.env, self.amx = a, None, dict(os.environ, OMP_WAIT_POLICY="passive"), None

    def own(self, work, dtype, size, model=None):
        cmd = [os.path.join(self.a.build, "video_parts"), model or self.a.model, work, dtype, str(self.a.threads), str(self.a.rounds),
               *(str(v) for v in size)]
        p = subprocess.run(cmd, env=self.env, capture_output=True, text=True)
        if p.returncode:
            raise RuntimeError(p.stderr.strip()[-300:])
        j = json.loads(p.stdout)
        self.amx = j["isa"] == "amx"
        return min(j["seconds"]), j

    def peer(self, work, dtype):
        if not self.a.python:
            return None, None
        if not self.twin:
            self.twin = subprocess.Popen([self.a.python, os.path.join(ROOT, "bench", "peers", "video_twin.py"), self.a.model, "--serve"],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.env, text=True)
        self.twin.stdin.write(json.dumps({"engine": "torch", "dtype": dtype, "work": work, "threads": self.a.threads,
                                          "rounds": self.a.rounds}) + "\n")
        self.twin.stdin.flush()
        j = json.loads(self.twin.stdout.readline())
        if "seconds" not in j:
            raise RuntimeError(j.get("error", "the twin failed"))
        return j["seconds"]["best"], j

    def sd(self, work, size):
        """Seconds of a step (the best but the first, which loads the weights) or of the decoder in stable-diffusion.cpp."""
        if not self.a.sd:
            return None, None
        f, h, w = size
        env = {k: v for k, v in self.env.items() if k != "OMP_WAIT_POLICY"}
        with tempfile.TemporaryDirectory() as d:
            cmd = [self.a.sd, "-M", "vid_gen", "--diffusion-model", self.a.sd_weights, "--vae",
                   os.path.join(self.a.model, "vae", "diffusion_pytorch_model.safetensors"), "-p", "x", "--cfg-scale", "1",
                   "--steps", "4" if work == "step" else "1", "-W", str(w), "-H", str(h), "--video-frames", str(f),
                   "-t", str(self.a.threads), "-v", *self.a.sd_options.split(), "-o", os.path.join(d, "x.avi")]
            p = subprocess.Popen(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            text = ""
            for line in p.stdout:
                text += line
                if work == "step" and "sampling completed" in line:
                    p.kill()  # the decoder is of no use here
            p.wait()
        if work == "step":
            seconds = [float(v) if unit == "s/it" else 1 / float(v) for v, unit in re.findall(r"([\d.]+)(s/it|it/s)", text)][1:]
        else:
            seconds = [float(v) for v in re.findall(r"vae decode graph completed, taking ([\d.]+)s", text)]
        if not seconds:
            raise RuntimeError(text.strip()[-300:])
        return min(seconds), {"seconds": seconds, "command": " ".join(cmd)}

    def row(self, key):
        """One row; the twin ends with it, so that its time counts as our own."""
        try:
            return ROWS[key][1](self)
        finally:
            if self.twin:
                self.twin.stdin.close()
                self.twin.wait()
                self.twin = None


def ratio_row(run, work, size, want, own_dtypes, peer_dtypes):
    """kinema in some types beside diffusers in the same, and stable-diffusion.cpp."""
    best, raw = {}, []
    for _ in range(run.a.turns):
        for d in own_dtypes:
            s, j = run.own(work, d, size)
            best[f"kinema {d}"] = min(best.get(f"kinema {d}", 1e9), s)
            raw.append(j)
        for d in peer_dtypes:
            s, j = run.peer(f"{work} {size[0]} {size[1]} {size[2]}", d)
            if s:
                best[f"diffusers {d}"] = min(best.get(f"diffusers {d}", 1e9), s)
                raw.append(j)
        s, j = run.sd(work, size)
        if s:
            best["sd.cpp"] = min(best.get("sd.cpp", 1e9), s)
            raw.append(j)
    out = {"seconds": best, "ratios": {}, "raw": raw}
    for peer, own, bar in want:
        if peer in best and own in best:
            out["ratios"][f"{own} against {peer}"] = [best[peer] / best[own], bar]
    return out


def step(name):
    def fn(run):
        want = [("sd.cpp", "kinema f32", 2.0), ("sd.cpp", "kinema bf16", 5.0), ("diffusers f32", "kinema f32", 1.3),
                ("diffusers bf16", "kinema bf16", 2.5)]
        return ratio_row(run, "step", SIZES[name], want, ["f32", "bf16", "int8"], ["f32", "bf16"])
    return fn


def decode(run):
    want = [("sd.cpp", "kinema f32", 4.0), ("sd.cpp", "kinema bf16", None), ("diffusers f32", "kinema f32", 1.3),
            ("diffusers bf16", "kinema bf16", 1.3)]
    return ratio_row(run, "decode", SIZES["small"], want, ["f32", "bf16"], ["f32", "bf16"])


def text(run):
    """512 tokens through two of UMT5-xxl's 24 blocks, streamed from the mapped file, against the faster of what the products and what
    the reading of the weights need at the peaks measured in the same run."""
    peaks = json.loads(subprocess.run([run.a.kinema, "bench", "ops", "--filter", "linear 1024x768x3072", "--dtype", "bf16", "--rounds", "3",
                                       "--json", "-t", str(run.a.threads)], env=run.env, capture_output=True, text=True).stdout)["peaks"]
    s, j = run.own("text", "bf16", SIZES["small"])
    peer, k = run.peer("text", "bf16")
    with open(os.path.join(run.a.model, "text_encoder", "config.json")) as f:
        blocks = json.load(f)["num_layers"]
    flop = TEXT_BLOCK * blocks * 1e-9
    read = 2e-9 * (4 * 4096 * 4096 + 3 * 4096 * 10240) * blocks
    limit = max(flop / (peaks["amx_bf16"] or peaks["f32"]), read / (peaks["triad_dram"] * 1.5))
    out = {"seconds": {"kinema bf16": s, "limit": limit}, "ratios": {"limit against kinema bf16": [limit / s, 0.7]},
           "raw": [j, k, peaks]}
    if peer:
        out["seconds"]["diffusers bf16"] = peer
        out["ratios"]["kinema bf16 against diffusers bf16"] = [peer / s, None]
    return out


def mopa(run):
    """Physical attention of 1,024 tokens with 6 of 29 categories live beside all heads; per-head norm: over its share of heads."""
    out = {"seconds": {}, "ratios": {}, "raw": []}
    for dtype in ("f32", "bf16"):
        j = json.loads(subprocess.run([run.a.kinema, "bench", "ops", "--filter", "mopa", "--dtype", dtype, "--rounds", str(run.a.rounds),
                                       "--json", "-t", str(run.a.threads)], env=run.env, capture_output=True, text=True).stdout)
        out["raw"].append(j)
        for row in j["rows"]:
            if "ratio" in row:
                wan = " wan" in row["shape"]
                out["seconds"][f"{'Wan' if wan else 'per-head norm'} {dtype}"] = row["seconds"]
                name = f"{'Wan form' if wan else 'per-head norm, over its share of heads'}, {dtype}"
                out["ratios"][name] = [row["ratio"] / (1 if wan else 6 / 29), -0.65 if wan else -1.3]
    return out


def memory(run):
    """Peak of a whole `kinema generate` in bf16 beside the largest of its phases, and beside its own plan."""
    f, h, w = SIZES["large"]
    with tempfile.TemporaryDirectory() as d:
        cmd = [run.a.kinema, "generate", "a red ball falls onto a wooden floor", "-m", run.a.model, "-W", str(w), "-H", str(h), "--frames",
               str(f), "--steps", "2", "--dtype", "bf16", "-t", str(run.a.threads), "-q", "--allow-flat", "-o", os.path.join(d, "x.mp4")]
        env = dict(run.env, KINEMA_TEXT_CACHE="none")
        planned = int(re.search(r"(\d+) bytes", subprocess.run(cmd + ["--dry-run"], env=env, capture_output=True, text=True).stdout)[1])
        p = subprocess.Popen(cmd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        err = p.stderr.read()
        rss = os.wait4(p.pid, 0)[2].ru_maxrss * 1024
    parts = {work: run.own(work, "bf16", SIZES["large"])[1]["peak_rss"] for work in ("text", "step", "decode")}
    return {"seconds": {}, "bytes": dict(parts, generate=rss, planned=planned), "raw": [err[-200:]],
            "ratios": {"generate against its largest part": [rss / max(parts.values()), -1.2],
                       "plan against generate": [abs(planned / rss - 1), -0.1]}}


ROWS = {"step_small": ("Wan2.1-1.3B step, 208x112x5", step("small")), "step_large": ("Wan2.1-1.3B step, 416x240x5", step("large")),
        "decode": ("Wan VAE decode, 208x112x5", decode), "text": ("UMT5-xxl, 512 tokens (2 of 24 blocks)", text),
        "mopa": ("MoPA with 6 of 29 categories live, 1,024 tokens, against all", mopa),
        "memory": ("peak of memory, 416x240x5, bf16", memory)}


def scaling(run):
    rows = []
    for frames, h, w in [(1, 112, 208), (5, 112, 208), (9, 112, 208), (17, 112, 208), (5, 64, 96), (5, 160, 288), (5, 240, 416)]:
        for work in ("step", "decode"):
            s, j = run.own(work, "bf16", (frames, h, w))
            rows.append({"work": work, "frames": frames, "height": h, "width": w, "seconds": s, "peak_rss": j["peak_rss"],
                         "tokens": (frames + 3) // 4 * (h // 16) * (w // 16)})
    return rows


def draw(rows, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(8, 3), dpi=80)
    for ax, label, keep in ((axes[0], "frames at 208x112", lambda r: (r["height"], r["width"]) == (112, 208)),
                            (axes[1], "pixels at 5 frames", lambda r: r["frames"] == 5)):
        for work in ("step", "decode"):
            mine = sorted((r["frames"] if ax is axes[0] else r["height"] * r["width"], r["seconds"]) for r in rows if keep(r) and r["work"] == work)
            ax.plot([m[0] for m in mine], [m[1] for m in mine], "o-", label=work)
        ax.set_xlabel(label)
        ax.set_ylabel("s")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.legend(fontsize=7)
    fig.tight_layout()
    fig.savefig(path)
    plt.close(fig)


def verdict(value, bar):
    if bar is None:
        return f"{value:.2f}"
    held = value <= -bar if bar < 0 else value >= bar
    return f"{value:.2f} ({'<=' if bar < 0 else '>='} {abs(bar)}: {'holds' if held else 'missed'})"


def write(store):
    lines = [BEGIN, "", "| work | best, s | ratios and bars | other load |", "|---|---|---|---|"]
    for key, (title, _) in ROWS.items():
        r = store["rows"].get(key)
        if not r:
            lines.append(f"| {title} | not measured | | |")
            continue
        left = "; ".join(f"{n} {s:.3f}" for n, s in r["seconds"].items()) or "; ".join(f"{n} {b / 1e6:.0f} MB" for n, b in r["bytes"].items())
        lines.append(f"| {title} | {left} | " + "; ".join(f"{n}: {verdict(*v)}" for n, v in r["ratios"].items()) + (f" | {r['foreign']:.2f} |" if "foreign" in r else " | |"))
    if store.get("scaling"):
        lines += ["", "bf16, one step and one decode (frames first, then sizes at 5 frames):", "", "| frames | size | tokens | step, s | decode, s | peak, MB (step, decode) |", "|---|---|---|---|---|---|"]
        both = {}
        for r in store["scaling"]:
            both.setdefault((r["frames"], r["width"], r["height"], r["tokens"]), {})[r["work"]] = r
        for (f, w, h, t), v in both.items():
            lines.append(f"| {f} | {w}x{h} | {t} | {v['step']['seconds']:.3f} | {v['decode']['seconds']:.3f} | {v['step']['peak_rss'] / 1e6:.0f}, "
                         f"{v['decode']['peak_rss'] / 1e6:.0f} |")
        lines += ["", "![cost against frames and size](bench/video-scaling.png)"]
    lines += ["", END]
    path = os.path.join(ROOT, "docs", "SPEED.md")
    text = open(path).read()
    if BEGIN in text:
        text = text[:text.index(BEGIN)] + "\n".join(lines) + text[text.index(END) + len(END):]
        open(path, "w").write(text)
    print("\n".join(lines))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--kinema", default=os.path.join(ROOT, "build", "kinema"))
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("--model")
    ap.add_argument("--python", help="of an environment with torch, diffusers, transformers; none: those rows are left out")
    ap.add_argument("--sd", help="sd-cli of stable-diffusion.cpp; none: those ratios are left out")
    ap.add_argument("--sd-weights", help="of bench/peers/sd_weights.py")
    ap.add_argument("--sd-options", default="--diffusion-fa", help="more options of sd-cli")
    ap.add_argument("--only", help="rows, by comma")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--turns", type=int, default=1)
    ap.add_argument("--scaling", action="store_true")
    ap.add_argument("--write", action="store_true")
    a = ap.parse_args()
    store = json.load(open(STORE)) if os.path.exists(STORE) else {"rows": {}}
    if not a.write:
        if not a.model:
            sys.exit("--model DIR is needed, see --help")
        run = Run(a)
        if a.scaling:
            store["scaling"] = scaling(run)
        else:
            for key in a.only.split(",") if a.only else ROWS:
                result, foreign = harness.foreign_share(lambda k=key: run.row(k))
                store["rows"][key] = dict(result, foreign=foreign, threads=a.threads, amx=run.amx)
                print(key, json.dumps({k: result[k] for k in ("seconds", "ratios")}))
        with open(STORE, "w") as f:
            json.dump(store, f, indent=1)
            f.write("\n")
    elif store.get("scaling"):
        draw(store["scaling"], os.path.join(ROOT, "docs", "bench", "video-scaling.png"))
    write(store)


if __name__ == "__main__":
    main()
