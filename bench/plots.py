#!/usr/bin/env python3
"""Cost against experts, tokens, frames, batch and threads, drawn from `kinema bench scaling --json`.

  build/kinema bench scaling -c bench/configs/promoe-s.json --cpu-time -o docs/bench/scaling.json
  python3 bench/plots.py docs/bench/scaling.json docs/bench
"""
import json
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

LABEL = {"experts": "routed experts (top-1)", "tokens": "tokens", "frames": "frames", "batch": "batch", "threads": "threads"}


def draw(series, rows, note, path):
    x = [r["x"] for r in rows]
    fig, left = plt.subplots(figsize=(4.2, 3.0), dpi=80)
    left.plot(x, [1e3 * r["seconds"] for r in rows], "o-", color="tab:blue", label="time")
    # a straight line through the origin of the largest point: what a cost in proportion to x would be
    if series in ("tokens", "frames", "batch"):
        left.plot(x, [1e3 * rows[-1]["seconds"] * v / x[-1] for v in x], ":", color="grey", label="in proportion")
    left.set_xlabel(LABEL[series])
    left.set_ylabel("ms a pass")
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xticks(x, [str(v) for v in x])
    right = left.twinx()
    right.plot(x, [r["share"] for r in rows], "s--", color="tab:red", markersize=4, label="share of the peak")
    right.set_ylim(0, 1)
    right.set_ylabel("share of the FMA peak", color="tab:red")
    left.legend(loc="upper left", fontsize=7)
    left.set_title(note, fontsize=8)
    fig.tight_layout()
    fig.savefig(path)
    plt.close(fig)


def table(series, rows):
    print(f"\n| {LABEL[series]} | ms | GF/s | share | MB workspace | M parameters |\n|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['x']} | {1e3 * r['seconds']:.1f} | {r['gflops']:.0f} | {r['share']:.2f} | {r['workspace'] / 1e6:.0f} | {r['params'] / 1e6:.1f} |")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    j = json.load(open(sys.argv[1]))
    for series in LABEL:
        rows = sorted((r for r in j["rows"] if r["series"] == series), key=lambda r: r["x"])
        if rows:
            name = os.path.splitext(os.path.basename(sys.argv[1]))[0]
            draw(series, rows, f"{name}: {j['machine']['isa']}", os.path.join(sys.argv[2], f"{name}-{series}.png"))
            table(series, rows)


if __name__ == "__main__":
    main()
