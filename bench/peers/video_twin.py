#!/usr/bin/env python3
"""diffusers' Wan beside kinema's: one step of the transformer, decoding, the text encoder, of one model directory in the diffusers
layout. For timing only (never needed by build or tests); see bench/video.py.

  python3 bench/peers/video_twin.py DIR --serve       works: step FRAMES HEIGHT WIDTH, decode FRAMES HEIGHT WIDTH, text
"""
import argparse
import contextlib
import glob
import os

import harness

TOKENS, REDUCTION = 512, 8


class Twin:
    def __init__(self, folder):
        self.folder, self.parts = folder, {}

    def part(self, name, cls):
        """One part at a time is in memory."""
        if name not in self.parts:
            self.parts.clear()
            folder = os.path.join(self.folder, name)
            if name == "transformer":  # from_pretrained wants `accelerate` for this class
                from safetensors.torch import load_file
                net = cls.from_config(cls.load_config(folder))
                net.load_state_dict(load_file(glob.glob(os.path.join(folder, "*.safetensors"))[0]))
            else:
                net = cls.from_pretrained(folder)
            self.parts[name] = net.float().eval()
        return self.parts[name]

    def jobs(self, engine, dtype, work, threads):
        import torch
        if engine != "torch":
            return None
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        what, *size = work.split()
        f, h, w = [int(v) for v in size] if size else (0, 0, 0)
        latent = (1, 16, (f + 3) // 4, h // REDUCTION, w // REDUCTION)
        if what == "step":
            from diffusers import WanTransformer3DModel
            net = self.part("transformer", WanTransformer3DModel)
            args = dict(hidden_states=torch.randn(latent), timestep=torch.tensor([500]), encoder_hidden_states=torch.randn(1, TOKENS, 4096))
            call = lambda: net(**args)  # noqa: E731
        elif what == "decode":
            from diffusers import AutoencoderKLWan
            net, z = self.part("vae", AutoencoderKLWan), torch.randn(latent)
            call = lambda: net.decode(z)  # noqa: E731
        else:
            from transformers import UMT5EncoderModel
            net = self.part("text_encoder", UMT5EncoderModel)
            ids = torch.tensor([[3 + i * 7 % 250 for i in range(TOKENS)]])
            call = lambda: net(ids)  # noqa: E731

        def run():
            cast = torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else contextlib.nullcontext()
            with torch.inference_mode(), cast:
                call()
        return run


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    harness.add_flags(ap, ["step 5 112 208", "step 5 240 416", "decode 5 112 208", "text"])
    a = ap.parse_args()
    harness.own_output()
    import diffusers
    import torch
    harness.finish(a, Twin(a.config).jobs, {"torch": torch.__version__, "diffusers": diffusers.__version__})


if __name__ == "__main__":
    main()
