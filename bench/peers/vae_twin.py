#!/usr/bin/env python3
"""diffusers' AutoencoderKL beside kinema's: decode (or encode) of one picture at the published Stable Diffusion sizes, random
weights, in alternating rounds of one run. For timing only (never needed by build or tests).

  python3 bench/peers/vae_twin.py --kinema build/kinema [--work decode|encode] [--dtype f32|bf16] [--threads 1] [--rounds 5]

In bf16 diffusers runs under autocast, its weights in f32. Prints one JSON object: seconds of the best round of each
(CPU time with one thread, wall time with more), their ratio, and diffusers' peak of memory.
"""
import argparse
import json
import resource
import subprocess
import time


def kinema_seconds(args):
    """One call times one untimed and two timed rounds; its best."""
    out = subprocess.run([args.kinema, "bench", "ops", "--filter", f"vae_{args.work}", "--dtype", args.dtype, "--rounds", "2",
                          "--threads", str(args.threads), *(["--cpu-time"] if args.threads == 1 else []), "--json"],
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)["rows"][0]["seconds"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kinema", required=True)
    p.add_argument("--work", choices=("decode", "encode"), default="decode")
    p.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--layout", choices=("plain", "channels_last"), default="plain")
    args = p.parse_args()

    import diffusers
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = diffusers.AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=down,
                                  up_block_types=up, sample_size=256).eval()
    x = torch.randn(1, 4, 32, 32) if args.work == "decode" else torch.randn(1, 3, 256, 256)
    if args.layout == "channels_last":
        vae, x = vae.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    run = vae.decode if args.work == "decode" else vae.encode
    theirs, ours = [], []
    clock = time.process_time if args.threads == 1 else time.perf_counter
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
        run(x)
        for _ in range(args.rounds):
            c = clock()
            run(x)
            theirs.append(clock() - c)
            ours.append(kinema_seconds(args))
    print(json.dumps({"work": args.work, "dtype": args.dtype, "threads": args.threads, "layout": args.layout, "torch": torch.__version__,
                      "diffusers": diffusers.__version__, "diffusers_s": min(theirs), "kinema_s": min(ours),
                      "ratio": min(theirs) / min(ours), "all": {"diffusers": theirs, "kinema": ours},
                      "diffusers_peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
