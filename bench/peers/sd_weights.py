#!/usr/bin/env python3
"""The transformer of a Wan 2.1 directory in the diffusers layout as one file with the original names, which stable-diffusion.cpp
reads: sd_weights.py DIR OUT.safetensors [bf16|f16|f32]. For timing only."""
import glob
import os
import re
import sys

import torch
from safetensors.torch import load_file, save_file

NAMES = [(r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"), (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
         (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"), (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
         (r"condition_embedder\.time_proj", "time_projection.1"), (r"^proj_out", "head.head"), (r"^scale_shift_table", "head.modulation"),
         (r"scale_shift_table", "modulation"), (r"attn1\.to_out\.0", "self_attn.o"), (r"attn2\.to_out\.0", "cross_attn.o"),
         (r"attn1\.to_", "self_attn."), (r"attn2\.to_", "cross_attn."), (r"attn1\.norm_", "self_attn.norm_"), (r"attn2\.norm_", "cross_attn.norm_"),
         (r"ffn\.net\.0\.proj", "ffn.0"), (r"ffn\.net\.2", "ffn.2"), (r"\.norm2\.", ".norm3.")]


def main():
    folder, out = sys.argv[1:3]
    kind = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[sys.argv[3] if len(sys.argv) > 3 else "f16"]
    tensors = {}
    for f in sorted(glob.glob(os.path.join(folder, "transformer", "*.safetensors"))):
        for name, t in load_file(f).items():
            for old, new in NAMES:
                name = re.sub(old, new, name)
            tensors[name] = t.to(kind if t.ndim > 1 and "modulation" not in name else torch.float32).contiguous()
    save_file(tensors, out)


if __name__ == "__main__":
    main()
