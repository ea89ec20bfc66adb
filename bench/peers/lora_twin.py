#!/usr/bin/env python3
"""Adapters written by `kinema train` as diffusers and peft read them: the base with them loaded against the base into which
`kinema convert` merged them (never needed by build or tests).

  kinema convert -m BASE --lora FILE --dtype f32 -o MERGED
  python bench/peers/lora_twin.py BASE FILE MERGED       # BASE, MERGED: directories of Wan; needs diffusers, peft, accelerate

Prints what the adapters change and how far the two ways lie apart, relative to the norm of the output; exit code 1 above 1e-5."""
import json
import os
import sys

import torch
from diffusers import WanTransformer3DModel


def load(folder):
    return WanTransformer3DModel.from_pretrained(os.path.join(folder, "transformer"), torch_dtype=torch.float32).eval()


def main():
    base, adapters, merged = sys.argv[1:4]
    with open(os.path.join(base, "transformer", "config.json")) as f:
        config = json.load(f)
    torch.manual_seed(0)
    x = torch.randn(1, config["in_channels"], 3, 4, 6)
    text = torch.randn(1, 7, config["text_dim"])

    def run(model):
        return model(x, torch.tensor([500.0]), text, return_dict=False)[0]

    with torch.no_grad():
        model = load(base)
        plain = run(model)
        model.load_lora_adapter(adapters, prefix="transformer")
        pairs = sum("lora_A" in name for name, _ in model.named_parameters())
        got, want = run(model), run(load(merged))
    change, error = ((a - want).norm().item() / want.norm().item() for a in (plain, got))
    print(json.dumps({"adapters": pairs, "change": change, "error": error}))
    return 0 if pairs and error <= 1e-5 < change else 1


if __name__ == "__main__":
    sys.exit(main())
