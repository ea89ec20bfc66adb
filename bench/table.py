#!/usr/bin/env python3
"""Fills the table of speed bars: kinema and its peers (PyTorch, OpenVINO) in turns within one run, ratios from that run, best of rounds.

  python3 bench/table.py --kinema build/kinema                        # every row
  python3 bench/table.py --kinema build/kinema --only forward_f32_s   # one row again; the others keep their last result
  python3 bench/table.py --write                                      # only docs/SPEED.md from the stored results

Two ways of timing: `cpu` (one thread's own CPU time on both sides, for a machine that does other work) and `wall` (two threads). The
verdict follows `wall` where other processes used less than a tenth of the machine meanwhile, else `cpu`. Raw results go to
docs/bench/DATE-CPU.json, the table between the markers of docs/SPEED.md.
"""
import argparse
import datetime
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "bench", "peers"))
import harness  # noqa: E402

BEGIN, END = "<!-- bars: bench/table.py -->", "<!-- end of bars -->"
NO_AMX, MISSING = "not measured (no AMX)", "not measured: no such part yet"
CONFIGS = {"s": "promoe-s", "b": "promoe-b", "dense_s": "dit-s", "dense_b": "dit-b"}


class Missing(Exception):
    """This kinema lacks the part that a row measures."""


class Run:
    def __init__(self, a):
        self.a, self.servers, self.kernels, self.cpu_class = a, {}, {}, None
        self.env = dict(os.environ)  # on a busy machine: OMP_WAIT_POLICY=passive
        self.scratch = tempfile.mkdtemp(prefix="kin-table-")

    def path(self, key):
        return os.path.join("bench", "configs", CONFIGS[key] + ".json") if key in CONFIGS else key

    def kinema(self, *args, mode):
        """One run of `kinema bench`, its JSON."""
        flags = ["--cpu-time"] if mode == "cpu" else ["-t", "2"]
        p = subprocess.run([self.a.kinema, "bench", *args, "--json", *flags], env=self.env, cwd=ROOT, capture_output=True, text=True)
        if p.returncode == 2 or "not part of this version" in p.stderr:
            raise Missing(p.stderr.strip()[-200:])
        if p.returncode:
            raise RuntimeError(p.stderr.strip()[-300:])
        out = json.loads(p.stdout)
        self.cpu_class = cpu_class(out["machine"])
        return out

    def peer(self, script, config, engine, dtype, work, mode, rounds, *flags):
        """Rounds of one engine in the twin's own process, which sleeps between requests."""
        key = (script, config) + flags
        if key not in self.servers:
            cmd = [self.a.python, os.path.join(ROOT, "bench", "peers", script), self.path(config), "--serve", *flags]
            log = open(os.path.join(self.scratch, "peer.log"), "a")
            self.servers[key] = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self.env, cwd=ROOT, text=True)
        p = self.servers[key]
        request = {"engine": engine, "dtype": dtype, "work": work, "threads": 1 if mode == "cpu" else 2, "rounds": rounds}
        p.stdin.write(json.dumps(request) + "\n")
        p.stdin.flush()
        line = p.stdout.readline()
        if not line:
            raise RuntimeError(f"{script} ended: see {self.scratch}/peer.log")
        return json.loads(line)

    def close(self):
        for p in self.servers.values():
            p.stdin.close()
            p.wait()
        self.servers = {}


def cpu_class(machine):
    name = "amd-zen4" if "AMD" in machine["cpu"] and machine["isa"] != "avx2" else machine["cpu"].split()[0].lower()
    return f"{name}-{machine['isa']}"


# --- rows of single kernels ---

def kernels(run, text, dtype, mode):
    key = (text, dtype, mode)
    if key not in run.kernels:
        run.kernels[key] = run.kinema("ops", "--filter", text, "--dtype", dtype, "--rounds", str(run.a.rounds + 2), mode=mode)
    return run.kernels[key]


def shares(run, filters, dtype, want, keep=lambda r: True):
    """The least share of the peak over the rows of some filters, by way of timing."""
    out = {"figures": {}, "raw": {}, "want": want}
    for mode in run.a.modes:
        rows, peaks = [], None
        for text in filters:
            j = kernels(run, text, dtype, mode)
            rows += [r for r in j["rows"] if keep(r)]
            peaks = j["peaks"]
        if not rows:
            raise Missing("no row " + " ".join(filters))
        worst = min(rows, key=lambda r: r["share"])
        out["figures"][mode] = {"value": worst["share"], "text": f"{worst['share']:.2f} ({worst['op']} {worst['shape']}); best "
                                f"{max(r['share'] for r in rows):.2f}"}
        out["raw"][mode] = {"peaks": peaks, "rows": rows}
    return out


def first(shape):
    return int(re.match(r"(\d+)", shape).group(1))


def expert_rows(r, least, most):
    parts = [int(x) for x in re.findall(r"\d+", r["shape"])]
    return parts[0] == 12 and least <= parts[1] <= most


def linear_f32(run):
    return shares(run, ["linear "], "f32", 0.88, lambda r: first(r["shape"]) >= 256)


def experts_f32(run):
    return shares(run, ["grouped "], "f32", 0.65, lambda r: expert_rows(r, 64, 4096))


def random_model(run, config, dtype):
    """A model directory with random weights, made once in a run."""
    maker = os.path.join(os.path.dirname(run.a.kinema), "random_model")
    if not os.path.exists(maker):
        raise Missing("random_model is not built")
    out = os.path.join(run.scratch, "model-" + dtype)
    if not os.path.exists(out):
        rgb = os.path.join(run.scratch, "rgb.json")  # without an autoencoder, which `generate` would ask for with four channels
        json.dump(dict(json.load(open(os.path.join(ROOT, run.path(config)))), in_channels=3), open(rgb, "w"))
        subprocess.run([maker, rgb, out, dtype], check=True, env=run.env, capture_output=True)
    return out


def experts_stored(run):
    return shares(run, ["grouped_bf16w 12x"], "f32", 0.60, lambda r: expert_rows(r, 16, 32))


def attention_f32(run):
    return shares(run, ["attention 1x1024x1024x6x64"], "f32", 0.55)


def attention_back(run):
    """Forward and backward together."""
    out = {"figures": {}, "raw": {}, "want": 0.45}
    for mode in run.a.modes:
        j = [kernels(run, t + " 1x1024x1024x6x64", "f32", mode) for t in ("attention", "attention_bwd")]
        rows = [r for x in j for r in x["rows"]]
        both = sum(r["gflop"] for r in rows) / sum(r["seconds"] for r in rows) / rows[0]["peak"]
        out["figures"][mode] = {"value": both, "text": f"{both:.2f}"}
        out["raw"][mode] = {"rows": rows}
    return out


def moving(run):
    return shares(run, ["layernorm 2048x768", "unary 2048x768", "binary 2048x768", "chain"], "f32", 0.6)


def layer_ratio(run, training, zipf, want):
    """Training: weights that are new at every use count, as after each update; the same weights are told beside them."""
    op = "moe_layer_training" if training else "moe_layer"
    out = {"figures": {}, "raw": {}, "want": want, "less": True}
    for mode in run.a.modes:
        j = kernels(run, "layer_training" if training else "layer 1024x", "f32", mode)
        rows = [r for r in j["rows"] if r["op"] == op and ("zipf" in r["shape"]) == zipf]
        if not rows:
            raise Missing("no row " + op)
        text = "; ".join(f"{r['ratio']:.3f} " + ("new weights" if "new" in r["shape"] else "same weights" if training else "") for r in rows)
        out["figures"][mode] = {"value": max(r["ratio"] for r in rows if not training or "new" in r["shape"]), "text": text.strip()}
        out["raw"][mode] = {"rows": j["rows"]}
    return out


# --- rows of whole models ---

def turns(run, verb, config, dtype, engines, mode, twin, extra):
    """Seconds of kinema and of each engine, in turns; best over all rounds."""
    work = "train" if verb == "train" else "forward"
    best, raw = {}, []
    for turn in range(run.a.turns):
        rounds = ["--steps" if verb == "train" else "--rounds", str(run.a.rounds)]
        j = run.kinema(verb, "-c", run.path(config), "--dtype", dtype, *rounds, *extra, mode=mode)
        best["kinema"] = min(best.get("kinema", 1e9), j["seconds"]["best"])
        raw.append(dict(j, engine="kinema"))
        for name, engine, peer_dtype, flags in engines:
            r = run.peer(twin, config, engine, peer_dtype, work, mode, run.a.rounds, *flags)
            raw.append(dict(r, name=name))
            if "seconds" in r:
                s = r["cpu" if mode == "cpu" else "seconds"]["best"]
                best[name] = min(best.get(name, 1e9), s)
    return best, raw


def ratios(run, verb, config, dtype, engines, want, judge, twin="promoe_twin.py", extra=()):
    """want: {engine: least ratio}. judge names the engines whose ratio counts for the verdict."""
    out = {"figures": {}, "raw": {}, "want": 1.0}
    for mode in run.a.modes:
        best, raw = turns(run, verb, config, dtype, engines, mode, twin, extra)
        parts = {n: s / best["kinema"] for n, s in best.items() if n != "kinema"}
        text = f"{best['kinema']:.3f} s; " + ", ".join(f"{n} {r:.2f}x" for n, r in parts.items())
        held = [parts[n] / want[n] for n in judge if n in parts]
        if not held:
            raise RuntimeError(str([r.get("error") for r in raw if "error" in r])[:300])
        out["figures"][mode] = {"value": min(held), "text": text, "seconds": best}
        out["left_out"] = [n for n in want if n in judge and n not in parts]
        out["raw"][mode] = raw
    return out


def torch_engines(run, dtype, compiled, openvino):
    flags = ("--official", run.a.official) if run.a.official else ()
    out = [("eager", "torch", dtype, flags)]
    if compiled and not run.a.no_compile:
        out.append(("compiled", "compiled", dtype, flags))
    if openvino and not run.a.no_openvino:
        cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "kinema-peers")
        out.append(("openvino", "openvino", dtype, ("--cache", cache)))
    return out


def forward(key, openvino=True):
    want = {"eager": 1.3, "compiled": 1.15, "openvino": 1.0}

    def fn(run):
        judge = ["eager", "compiled"] + (["openvino"] if key in ("b", "dense_b") else [])
        if key == "dense_b":
            judge = ["openvino"]
        return ratios(run, "model", key, "f32", torch_engines(run, "f32", key != "dense_b", openvino), want, judge)
    return fn


def step(key):
    return lambda run: ratios(run, "train", key, "f32", torch_engines(run, "f32", False, False), {"eager": 1.4}, ["eager"])


def bf16_anyway(key):
    """Without AMX no bar; the ratio for the reader."""
    return lambda run: ratios(run, "model", key, "bf16", torch_engines(run, "bf16", False, True), {"eager": 1.0}, ["eager"])


def native_step(run):
    config, dtype = "models/bundled.train/1-layout.json", run.a.native_dtype
    engines = [("eager", "torch", dtype, ())]
    return ratios(run, "train", config, dtype, engines, {"eager": 1.5}, ["eager"], "native_twin.py")


def native_clip(run):
    """A whole `kinema generate`, with start, text encoder and MP4, against the sampling loop alone of the twin."""
    out, dtype = {"figures": {}, "raw": {}, "want": 2.0}, run.a.native_dtype
    for mode in run.a.modes:
        own, peer, raw = 1e9, 1e9, []
        for _ in range(run.a.turns):
            cmd = [run.a.kinema, "generate", "a red ball falls", "-o", os.path.join(run.scratch, "clip.mp4"), "--steps", "25", "-q",
                   "--dtype", dtype, "--allow-flat", "-t", "1" if mode == "cpu" else "2"]
            w, c = time.perf_counter(), os.times()
            subprocess.run(cmd, check=True, env=run.env, capture_output=True)
            w, d = time.perf_counter() - w, os.times()
            cpu = d.children_user - c.children_user + d.children_system - c.children_system
            own = min(own, cpu if mode == "cpu" else w)
            r = run.peer("native_twin.py", "models/bundled.train/1-layout.json", "torch", dtype, "clip", mode, run.a.rounds)
            peer = min(peer, r["cpu" if mode == "cpu" else "seconds"]["best"])
            raw += [{"engine": "kinema generate", "wall": w, "cpu": cpu}, r]
        out["figures"][mode] = {"value": peer / own, "text": f"{own:.2f} s; eager {peer / own:.2f}x"}
        out["raw"][mode] = raw
    return out


def memory(run):
    """Peak memory of `kinema generate` with ProMoE-B in bf16 beside the weights and one block's activations, and beside PyTorch's."""
    model = random_model(run, "b", "bf16")
    weights = sum(os.path.getsize(f) for f in glob.glob(model + "/**/*.safetensors", recursive=True))
    cmd = [run.a.kinema, "generate", "--class", "207", "-m", model, "-o", os.path.join(run.scratch, "x.png"), "--steps", "2",
           "--dtype", "bf16", "-t", "2", "-q", "--allow-flat"]
    p = subprocess.Popen(cmd, env=run.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    err = p.stderr.read()
    rss = os.wait4(p.pid, 0)[2].ru_maxrss * 1024
    plan = run.kinema("model", "-c", run.path("b"), "-b", "2", "--dtype", "bf16", "--rounds", "1", mode="wall")["memory"]
    peer = run.peer("promoe_twin.py", "b", "torch", "f32", "forward", "wall", 1, "--batch", "2", "--lean")
    ratio = rss / (weights + plan["workspace_planned"])
    text = f"{rss / 1e6:.0f} MB = {ratio:.2f}x of {weights / 1e6:.0f} + {plan['workspace_planned'] / 1e6:.0f} MB; PyTorch " \
           f"{peer['peak_rss'] / 1e6:.0f} MB"
    value = max(ratio, 1.2 * rss / peer["peak_rss"])
    return {"figures": {"wall": {"value": value, "text": text}}, "want": 1.2, "less": True,
            "raw": {"rss": rss, "weights": weights, "plan": plan, "peer": peer, "stderr": err[-300:]}}


def amx(fn):
    """A row that only a machine with AMX can show."""
    def checked(run):
        if not run.amx:
            raise Missing(NO_AMX)
        return fn(run)
    return checked


def bf16_times(text, want, keep):
    """Least gain of bf16 over f32 on the same rows."""
    def fn(run):
        out = {"figures": {}, "raw": {}, "want": want}
        for mode in run.a.modes:
            rows = {d: {r["shape"]: r for r in kernels(run, text, d, mode)["rows"] if keep(r)} for d in ("f32", "bf16")}
            gain = {s: r["seconds"] / rows["bf16"][s]["seconds"] for s, r in rows["f32"].items() if s in rows["bf16"]}
            worst = min(gain, key=gain.get)
            out["figures"][mode] = {"value": gain[worst], "text": f"{gain[worst]:.2f}x ({worst}); best {max(gain.values()):.2f}x"}
            out["raw"][mode] = {d: list(r.values()) for d, r in rows.items()}
        return out
    return amx(fn)


def high(run):
    return ratios(run, "model", "b", "f32", torch_engines(run, "f32", False, False), {"eager": 2.0}, ["eager"],
                  extra=["--matmul-precision", "high"])


def bf16_models(run):
    want = {"eager": 2.5, "compiled": 2.0, "openvino": 1.3}
    return ratios(run, "model", "b", "bf16", torch_engines(run, "bf16", True, True), want, list(want))


def bf16_step(run):
    both = torch_engines(run, "f32", False, False) + [("autocast", *torch_engines(run, "bf16", False, False)[0][1:])]
    return ratios(run, "train", "b", "bf16", both, {"eager": 3.0, "autocast": 3.0}, ["eager", "autocast"])


def int8_over(other, want, size="s"):
    """Own int8 against another own type, forward pass."""
    def fn(run):
        out = {"figures": {}, "raw": {}, "want": want}
        for mode in run.a.modes:
            best, raw = {}, []
            for _ in range(run.a.turns):
                for dtype in (other, "int8"):
                    j = run.kinema("model", "-c", run.path(size), "--dtype", dtype, "--rounds", str(run.a.rounds), mode=mode)
                    best[dtype] = min(best.get(dtype, 1e9), j["seconds"]["best"])
                    raw.append(j)
            value = best[other] / best["int8"]
            out["figures"][mode] = {"value": value, "text": f"{value:.2f}x own {other} (speed alone; the error on a trained model by `evaluate`)"}
            out["raw"][mode] = raw
        return out
    return fn


ROWS = [
    ("linear_f32", "linear f32, M >= 256: >= 0.88 of the FMA peak", linear_f32),
    ("linear_bf16_amx", "linear bf16 with AMX, M >= 256: >= 6x f32", bf16_times("linear ", 6.0, lambda r: first(r["shape"]) >= 256)),
    ("experts_f32", "12 experts, D 768, hidden 1536, >= 64 rows, f32: >= 0.65 of the FMA peak", experts_f32),
    ("experts_bf16_amx", "the same, bf16 with AMX: >= 4x that", bf16_times("grouped ", 4.0, lambda r: expert_rows(r, 64, 4096))),
    ("experts_stored", "the same with 16-32 rows, bf16-stored weights: >= 0.60 of the FMA peak", experts_stored),
    ("attention_f32", "attention, 1,024 tokens, d 64, f32 forward: >= 0.55 of the peak", attention_f32),
    ("attention_back", "the same with backward: >= 0.45", attention_back),
    ("attention_bf16_amx", "the same, bf16 with AMX: >= 3x f32", bf16_times("attention 1x1024x1024x6x64", 3.0, lambda r: True)),
    ("moving", "LayerNorm + modulate, elementwise: >= 0.6 of triad", moving),
    ("moe_layer", "MoE layer / dense layer of equal FLOPs, 1,024 tokens, uniform, forward: <= 1.10", lambda r: layer_ratio(r, False, False, 1.10)),
    ("moe_layer_zipf", "the same, Zipf: <= 1.25", lambda r: layer_ratio(r, False, True, 1.25)),
    ("moe_train", "the same, uniform, training: <= 1.15", lambda r: layer_ratio(r, True, False, 1.15)),
    ("moe_train_zipf", "the same, Zipf, training: <= 1.25", lambda r: layer_ratio(r, True, True, 1.25)),
    ("forward_f32_s", "ProMoE-S forward, batch 8, f32: >= 1.3x PyTorch eager, >= 1.15x compiled", forward("s")),
    ("forward_f32_b", "ProMoE-B forward: the same, no slower than OpenVINO", forward("b")),
    ("forward_f32_dense_b", "dense DiT-B forward: no slower than OpenVINO", forward("dense_b")),
    ("high_amx", "--matmul-precision high with AMX: >= 2.0x official f32", amx(high)),
    ("bf16_amx", "bf16 with AMX: >= 2.5x PyTorch autocast, >= 2.0x compiled, >= 1.3x OpenVINO", amx(bf16_models)),
    ("bf16_plain", "(no bar) bf16 without AMX, ProMoE-S forward against PyTorch autocast and OpenVINO", bf16_anyway("s")),
    ("int8", "int8: >= 3x own f32 without AMX, velocity error <= 1 % (ProMoE-S forward)", int8_over("f32", 3.0)),
    ("int8_amx", "int8 with AMX: >= 1.3x own bf16 (ProMoE-S forward)", amx(int8_over("bf16", 1.3))),
    ("int8_amx_b", "the same, ProMoE-B forward", amx(int8_over("bf16", 1.3, "b"))),
    ("train_f32_s", "training step ProMoE-S, batch 8, f32: >= 1.4x PyTorch", step("s")),
    ("train_f32_b", "training step ProMoE-B, batch 8, f32: >= 1.4x PyTorch", step("b")),
    ("train_bf16_amx", "training step, bf16 with AMX: >= 3x the faster of PyTorch's f32 and autocast", amx(bf16_step)),
    ("native_step", "bundled native model, training step: >= 1.5x PyTorch of the same type", native_step),
    ("native_clip", "bundled native model, a clip: >= 2x PyTorch of the same type", native_clip),
    ("memory", "peak RSS of sampling ProMoE-B bf16: <= 1.2x (weights + one block's activations), below PyTorch's", memory),
]


# --- verdicts and files ---

def verdict(row):
    """By wall time where the machine was quiet, else by CPU time."""
    f = row["figures"]
    mode = "wall" if "wall" in f and (row["foreign"] < 0.1 or "cpu" not in f) else "cpu"
    v, less = f[mode]["value"], row.get("less")
    held = v <= row["want"] if less else v >= row["want"]
    left_out = ", ".join(row.get("left_out", []))
    return ("held" if held else "missed") + (" (CPU time)" if mode == "cpu" else "") + (f"; not measured: {left_out}" if left_out else "")


def stolen():
    """Seconds that the host took from this machine's processors, and all seconds, since it started."""
    t = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    return t[7], sum(t[:8])


def measure_row(run, fn):
    def whole():
        try:
            return fn(run)
        finally:
            run.close()  # the twins' CPU time counts as our own from their end on

    before, host = open("/proc/loadavg").read().split()[:3], stolen()
    try:
        row, foreign = harness.foreign_share(whole)
        row["foreign"] = foreign
        row["verdict"] = verdict(row)
    except Missing as e:
        row = {"figures": {}, "verdict": str(e)[:160] if str(e).startswith("not measured") else f"{MISSING}: {str(e)[:120]}"}
    except (RuntimeError, KeyError, OSError, ValueError, subprocess.CalledProcessError) as e:
        row = {"figures": {}, "verdict": "failed: " + str(e)[:200]}
    host = [b - a for a, b in zip(host, stolen())]
    row.update(stolen=host[0] / max(1, host[1]), loadavg=[before, open("/proc/loadavg").read().split()[:3]], at=datetime.datetime.now().isoformat(timespec="seconds"),
               commit=subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip())
    return row


def trim(v):
    """Four significant digits and no paths of this machine: the raw file stays small."""
    if isinstance(v, str):
        return re.sub(r"(?<!\S)/\S*/", "", v)
    if isinstance(v, float):
        return float(f"{v:.4g}")
    if isinstance(v, dict):
        return {k: trim(x) for k, x in v.items() if k != "trace"}
    return [trim(x) for x in v] if isinstance(v, list) else v


def markdown(store):
    lines = [f"### {store['cpu_class']}", "", f"CPU class {store['cpu_class']}; `cpu`: one thread's CPU time on both sides, `wall`: two threads. \"Load\": share of the machine that",
             "other processes used meanwhile, and that the host of a virtual machine took from it.", "", "| work and bar | cpu | wall | verdict | load |", "|---|---|---|---|---|"]
    for name, bar, _ in ROWS:
        r = store["rows"].get(name)
        if not r:
            lines.append(f"| {bar} | | | not run | |")
            continue
        cell = [r["figures"].get(m, {}).get("text", "") for m in ("cpu", "wall")]
        load = f"{r['foreign']:.0%}" if "foreign" in r else ""
        load += f", host {r['stolen']:.0%}" if "foreign" in r and "stolen" in r else ""
        lines.append(f"| {bar} | {cell[0]} | {cell[1]} | {r['verdict']} | {load} |")
    return "\n".join(lines)


def write_table():
    """One table for each CPU class, from its newest file."""
    path = os.path.join(ROOT, "docs", "SPEED.md")
    text = open(path).read()
    newest_of = {}
    for f in stored():
        s = json.load(open(f))
        newest_of[s["cpu_class"]] = s
    block = "\n\n".join([BEGIN] + [markdown(newest_of[c]) for c in sorted(newest_of)]) + f"\n{END}"
    if BEGIN in text:
        text = text[:text.index(BEGIN)] + block + text[text.index(END) + len(END):]
    else:
        text += f"\n## The bars\n\n`python3 bench/table.py --kinema build/kinema`; raw results in `docs/bench/`.\n\n{block}\n"
    open(path, "w").write(text)


def stored(cpu_class=None):
    """Files of results, oldest first."""
    return sorted(glob.glob(os.path.join(ROOT, "docs", "bench", f"2*-{cpu_class or '*'}.json")))


def flags():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--kinema", default=os.path.join(ROOT, "build", "kinema"))
    ap.add_argument("--python", default=sys.executable, help="interpreter with torch, openvino and safetensors")
    ap.add_argument("--official", help="checkout of the published ProMoE code: its classes in place of the twin's")
    ap.add_argument("--only", action="append", metavar="NAME", choices=[r[0] for r in ROWS])
    ap.add_argument("--modes", default="cpu,wall", type=lambda s: s.split(","))
    ap.add_argument("--rounds", type=int, default=3, help="timed rounds in each turn")
    ap.add_argument("--turns", type=int, default=2, help="turns between kinema and its peers")
    ap.add_argument("--native-dtype", default="bf16", help="type of the native model's comparison")
    ap.add_argument("--no-openvino", action="store_true")
    ap.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it needs minutes)")
    ap.add_argument("--new", action="store_true", help="begin a new file of results; else the newest one of this CPU class goes on")
    ap.add_argument("--write", action="store_true", help="write the table from stored results, measure nothing")
    a = ap.parse_args()
    for k in ("kinema", "official"):
        if getattr(a, k):
            setattr(a, k, os.path.abspath(getattr(a, k)))
    return a


def main():
    a = flags()
    run = Run(a)
    if not a.write:
        run.kinema("ops", "--filter", "unary 2048x768 gelu", "--rounds", "1", mode="wall")  # says the class of this machine
        run.amx = run.cpu_class.endswith("-amx")
        files = [] if a.new else stored(run.cpu_class)
        path = files[-1] if files else os.path.join(ROOT, "docs", "bench", f"{datetime.date.today()}-{run.cpu_class}.json")
        store = json.load(open(path)) if files else {"rows": {}, "cpu_class": run.cpu_class}
        for name, _, fn in ROWS:
            if a.only and name not in a.only:
                continue
            old = store["rows"].get(name, {})
            row = measure_row(run, fn)
            if len(a.modes) == 1 and row["figures"] and old.get("figures") and old.get("commit") == row["commit"]:
                for part in ("figures", "raw"):
                    row[part] = dict(old.get(part, {}), **row[part])
                row["verdict"] = verdict(row)
            store["rows"][name] = trim(row)
            print(name, row["verdict"], {m: f["text"] for m, f in row["figures"].items()}, flush=True)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            json.dump(trim(store), open(path, "w"))
    write_table()


if __name__ == "__main__":
    main()
