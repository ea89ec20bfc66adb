#!/usr/bin/env python3
"""PyTorch twin of family `dit`: DiT and ProMoE (token choice) with the official mathematics, names and way of computing, for timing and
for a check of the numbers (never needed by build or tests).

Attention by F.scaled_dot_product_attention, experts one after the other by index (gather, two linears, weight, index_add), training with
foreach AdamW, clipping and EMA. `--official DIR` times the published classes of a checkout (its `models/`) with the same weights instead.

  python3 bench/peers/promoe_twin.py bench/configs/promoe-b.json --engine torch|compiled|openvino [--work train] [--dtype bf16]
  python3 bench/peers/promoe_twin.py --check shared/golden/image/promoe_tc_identity.safetensors     # against the published results
"""
import argparse
import copy
import json
import math
import os
import sys
import types

import torch
import torch.nn as nn
import torch.nn.functional as F

import harness

DEFAULTS = {"input_size": 32, "patch_size": 2, "in_channels": 4, "hidden_size": 1152, "depth": 28, "num_heads": 16, "mlp_ratio": 4.0,
            "head_dim": None, "qk_norm": False, "num_classes": 1000, "class_dropout_prob": 0.1, "learn_sigma": True, "MoE_config": None}
MOE_DEFAULTS = {"num_routed_experts": 12, "top_k": 1, "router_weight_mode": "identity", "routing_contrastive_lam": 1.0,
                "routing_contrastive_temperature": 0.07, "use_shared_expert": True, "use_uncond_expert": True, "interleave": True}


class Two(nn.Module):
    """Linear, GELU (tanh form), Linear, under the names a and b."""

    def __init__(self, d, hidden, a, b):
        super().__init__()
        self.a, self.b = a, b
        self.add_module(a, nn.Linear(d, hidden))
        self.add_module(b, nn.Linear(hidden, d))

    def forward(self, x):
        return self._modules[self.b](F.gelu(self._modules[self.a](x), approximate="tanh"))


class Attention(nn.Module):
    def __init__(self, d, heads, head_dim, norm):
        super().__init__()
        self.heads, self.dh = heads, head_dim
        self.qkv, self.proj = nn.Linear(d, 3 * heads * head_dim), nn.Linear(heads * head_dim, d)
        self.q_norm, self.k_norm = (nn.LayerNorm(head_dim) if norm else nn.Identity() for _ in range(2))

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.dh)).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(o.transpose(1, 2).flatten(2))


class Experts(nn.Module):
    def __init__(self, d, c, null):
        super().__init__()
        self.c, self.null = c, null
        self.routed, self.k = c["num_routed_experts"], c["top_k"]
        hidden, shared = c["moe_intermediate_size"], c.get("shared_expert_intermediate_size")
        self.cluster_centers = nn.Parameter(0.02 * torch.randn(self.routed, d))
        self.experts = nn.ModuleList(Two(d, hidden, "up_proj", "down_proj") for _ in range(self.routed + c["use_uncond_expert"]))
        self.shared_expert = Two(d, shared, "up_proj", "down_proj") if c["use_shared_expert"] else None

    def route(self, x, drop):
        ids = torch.zeros(x.shape[0], self.k, dtype=torch.long)
        weight = torch.zeros(x.shape[0], self.k)
        out, kept = torch.where(drop)[0], torch.where(~drop)[0]
        ids[out], weight[out, 0] = self.routed, 1.0
        z = F.normalize(x[kept], dim=1) @ F.normalize(self.cluster_centers, dim=1).T
        mode = self.c["router_weight_mode"]
        s = z if mode == "identity" else z.softmax(1) if mode == "softmax" else z.sigmoid()
        top, which = s.topk(self.k, dim=1)
        weight[kept], ids[kept] = top.to(weight.dtype), which
        return ids, weight

    def contrast(self, x, ids):
        """Routing contrastive loss of the conditional tokens x [n, d] that went to ids [n, k]."""
        means, used = [], []
        for e in range(self.routed):
            mine = (ids == e).any(1)
            if mine.any():
                means.append(x[mine].mean(0))
                used.append(e)
        if len(used) < 2:
            return x.new_zeros(())
        cosine = F.normalize(self.cluster_centers[used], dim=1) @ F.normalize(torch.stack(means), dim=1).T
        return F.cross_entropy(cosine / self.c["routing_contrastive_temperature"], torch.arange(len(used)))

    def forward(self, x, labels):
        flat = x.reshape(-1, x.shape[-1])
        null = self.null if self.c["use_uncond_expert"] else -1
        drop = (labels == null)[:, None].expand(x.shape[:2]).reshape(-1)
        ids, weight = self.route(flat, drop)
        y = torch.zeros(flat.shape)
        for e, expert in enumerate(self.experts):
            mine = ids == e
            rows = torch.where(mine.any(1))[0]
            if torch.jit.is_tracing() or rows.numel():
                w = (weight[rows] * mine[rows]).sum(1, keepdim=True)
                y = y.index_add(0, rows, expert(flat[rows]) * w)
        y = y.view(x.shape)
        if self.shared_expert:
            y = y + self.shared_expert(x)
        aux = None
        if self.training and self.c["routing_contrastive_lam"] > 0:
            first = slice(None) if self.c.get("use_top_k_for_routing_contrastive", True) else slice(1)
            aux = self.c["routing_contrastive_lam"] * self.contrast(flat[~drop], ids[~drop][:, first])
        return y, aux


def modulate(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, c, i):
        super().__init__()
        d, moe = c["hidden_size"], c["MoE_config"]
        self.attn = Attention(d, c["num_heads"], c["head_dim"] or d // c["num_heads"], c["qk_norm"])
        self.moe = bool(moe) and (i % 2 == 1 or not moe["interleave"])
        self.mlp = Experts(d, moe, 1000) if self.moe else Two(d, int(d * c["mlp_ratio"]), "fc1", "fc2")
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))

    def forward(self, x, c, labels):
        s1, c1, g1, s2, c2, g2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + g1[:, None] * self.attn(modulate(x, s1, c1))
        u = modulate(x, s2, c2)
        y, aux = self.mlp(u, labels) if self.moe else (self.mlp(u), None)
        return x + g2[:, None] * y, aux


class Head(nn.Module):
    def __init__(self, d, out):
        super().__init__()
        self.linear = nn.Linear(d, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))

    def forward(self, x, c):
        return self.linear(modulate(x, *self.adaLN_modulation(c).chunk(2, dim=1)))


class Time(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))

    def forward(self, t):
        a = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        return self.mlp(torch.cat([a.cos(), a.sin()], 1).to(self.mlp[0].weight.dtype))


class Holder(nn.Module):
    """One module under a name, for the official state dict."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Twin(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = self.c = dict(DEFAULTS, **{k: v for k, v in config.items() if v is not None or k in DEFAULTS})
        if c["MoE_config"]:
            c["MoE_config"] = dict(MOE_DEFAULTS, **c["MoE_config"])
        d, p = c["hidden_size"], c["patch_size"]
        self.out = c["in_channels"] * (2 if c["learn_sigma"] else 1)
        self.x_embedder = Holder(proj=nn.Conv2d(c["in_channels"], d, p, p))
        self.pos_embed = nn.Parameter(torch.zeros(1, (c["input_size"] // p) ** 2, d), requires_grad=False)
        self.t_embedder = Time(d)
        self.y_embedder = Holder(embedding_table=nn.Embedding(c["num_classes"] + (c["class_dropout_prob"] > 0), d))
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c["depth"]))
        self.final_layer = Head(d, p * p * self.out)

    def forward(self, x, t, y):
        p, side = self.c["patch_size"], self.c["input_size"] // self.c["patch_size"]
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder.embedding_table(y)
        total = h.new_zeros(())
        for b in self.blocks:
            h, aux = b(h, c, y)
            if aux is not None:
                total = total + aux
        v = self.final_layer(h, c).view(-1, side, side, p, p, self.out).permute(0, 5, 1, 3, 2, 4)
        v = v.reshape(x.shape[0], self.out, side * p, side * p)
        return (v, total) if self.training else v


def start(net, seed):
    """Random weights in which every part works: also what starts at zero in training."""
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        fan = p.shape[-1] if p.dim() > 1 else 64
        p.data.normal_(0, 0.02 if p.dim() == 1 else fan ** -0.5, generator=g)


class Named(dict):
    __getattr__ = dict.__getitem__


class PatchEmbed(nn.Module):
    """Stands in for timm's class of this name where timm is missing: a strided convolution, tokens last."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, bias=True):
        super().__init__()
        self.patch_size, self.num_patches = (patch_size, patch_size), (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size, bias=bias)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def official(folder, twin):
    """The published class of a checkout, with the twin's weights; eval mode draws no label dropout."""
    try:
        import timm  # noqa: F401
    except ImportError:
        for name in ("timm", "timm.models", "timm.models.vision_transformer"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules[name].PatchEmbed, sys.modules[name].Mlp = PatchEmbed, None
    sys.path.insert(0, folder)
    moe = twin.c["MoE_config"]
    c = {k: v for k, v in twin.c.items() if k in DEFAULTS and k != "MoE_config"}
    if moe:
        from models.models_ProMoE_TC import DiT
        c["MoE_config"] = Named(moe, init_MoeMLP=False)
    else:
        from models.models_DiT import DiT
    c["class_dropout_prob"] = 1e-12 if c["class_dropout_prob"] > 0 else 0  # the null row without the random draws
    net = DiT(**c)
    net.load_state_dict(twin.state_dict())
    return net


class Bench:
    """What the harness asks for: a callable per (engine, dtype, work, threads)."""

    def __init__(self, config, batch, folder=None, lean=False):
        torch.set_default_dtype(torch.bfloat16 if lean else torch.float32)  # lean: weights and all in bf16, for the memory
        self.net = Twin(config)
        start(self.net, 0)
        self.published, self.cache = bool(folder), None
        if folder:
            self.net = official(folder, self.net)
        g = torch.Generator().manual_seed(1)
        c, n = config["input_size"], config.get("in_channels", 4)
        self.x, self.noise = (torch.randn(batch, n, c, c, generator=g) for _ in range(2))
        self.sigma = (torch.arange(batch) + 0.5) / batch
        self.y = torch.arange(batch) * 100 % 1000
        self.made = {}

    def call(self, net, x, y):
        return net(x, 1000 * self.sigma, y)

    def compiled(self, train):
        if train not in self.made:
            self.made[train] = torch.compile(self.net)
        return self.made[train]

    def forward(self, net, dtype):
        def run():
            net.eval()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                return self.call(net, self.x, self.y)
        return run

    def train(self, net, dtype):
        params = [p for p in self.net.parameters() if p.requires_grad]
        opt = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, foreach=True)
        average = [p.detach().clone() for p in params]
        labels = self.y.clone()
        labels[-1] = 1000  # a sample without its class, as one in ten has in training
        s = self.sigma.view(-1, 1, 1, 1)

        def run():
            net.train()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                out = self.call(net, (1 - s) * self.x + s * self.noise, labels)
            v, aux = out if isinstance(out, tuple) else (out, 0.0)
            loss = F.mse_loss(v[:, :self.x.shape[1]].float(), self.noise - self.x) + aux
            loss.backward()
            nn.utils.clip_grad_norm_(params, 0.5, foreach=True)
            opt.step()
            opt.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_lerp_(average, params, 1e-4)
        return run

    def openvino(self, dtype, threads):
        import openvino as ov
        core, net = ov.Core(), self.net.eval()
        if dtype == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return None
        args = [self.x, 1000 * self.sigma, self.y]
        if self.cache and os.path.exists(self.cache):
            model = core.read_model(self.cache)
        else:
            with torch.no_grad():
                model = ov.convert_model(net, example_input=tuple(args))
            for port, a in zip(model.inputs, args):
                port.get_node().set_partial_shape(ov.PartialShape(list(a.shape)))
            model.validate_nodes_and_infer_types()
            if self.cache:
                ov.save_model(model, self.cache, compress_to_fp16=False)
        fast = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": dtype, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False,
                                                 "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
        arrays, request = [a.numpy() for a in args], fast.create_infer_request()
        return lambda: request.infer(arrays)[0]

    def job(self, engine, dtype, work, threads):
        torch.set_num_threads(threads)
        if engine == "openvino":
            return self.openvino(dtype, threads) if work == "forward" else None
        net = self.compiled(work == "train") if engine == "compiled" else self.net
        run = self.forward(net, dtype) if work == "forward" else self.train(net, dtype)

        def threaded():
            torch.set_num_threads(threads)
            return run()
        return threaded


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def check(path, folder=None):
    """Output and gradients against a golden case that kinema's own tests reproduce: the same weights, the same inputs."""
    from safetensors import safe_open
    f = safe_open(path, "pt")
    t = {k: f.get_tensor(k) for k in f.keys()}
    net = Twin(json.loads(f.metadata()["config"]))
    net.load_state_dict({k[2:]: v for k, v in t.items() if k.startswith("w.")})
    net.train()
    y, aux = net(t["in.x"], t["in.t"], t["in.y"].long())
    ((y * t["in.dout"]).sum() + aux).backward()
    grads = {}
    for name, p in net.named_parameters():
        want = t.get("grad." + name)
        if want is not None and want.abs().max() > 0 and p.grad is not None and not name.endswith(("qkv.bias", "k_norm.bias")):
            grads[name] = relative(p.grad, want)  # those biases are rounding noise around zero, qkv's to a third
    out = {"case": path.split("/")[-1], "output": relative(y, t["out.y"]), "gradient": max(grads.values()), "compared": len(grads)}
    if folder:
        net = official(folder, net.eval()).eval()
        with torch.no_grad():
            out["official"] = relative(net(t["in.x"], t["in.t"], t["in.y"].long()), t["out.y"])
    return out


def agreement(bench):
    """The same weights through the other engines, relative to eager f32."""
    want = bench.job("torch", "f32", "forward", 2)()
    got = torch.from_numpy(copy.copy(bench.openvino("f32", 2)()))
    return {"openvino": relative(got, want)}


def main():
    ap = argparse.ArgumentParser()
    harness.add_flags(ap, ["forward", "train"])
    ap.add_argument("--batch", type=int, default=8)
    ap.add_argument("--official", metavar="DIR", help="time the published classes of this checkout")
    ap.add_argument("--check", action="store_true", help="CONFIG is a golden case: compare the numbers")
    ap.add_argument("--cache", metavar="DIR", help="keep OpenVINO's converted model here for the next run")
    ap.add_argument("--lean", action="store_true", help="weights and arithmetic in bf16: least memory (forward only)")
    ap.add_argument("--agree", action="store_true", help="compare OpenVINO's result with PyTorch's")
    a = ap.parse_args()
    harness.own_output()
    if a.check:
        result = check(a.config, a.official)
        harness.ANSWERS.write(json.dumps(result) + "\n")
        sys.exit(result["output"] > 1e-4 or result["gradient"] > 1e-3)
    torch.manual_seed(0)
    bench = Bench(json.load(open(a.config)), a.batch, a.official, a.lean)
    if a.agree:
        harness.ANSWERS.write(json.dumps(agreement(bench)) + "\n")
        return
    facts = {"framework": "pytorch " + torch.__version__, "official": bench.published, "batch": a.batch,
             "parameters": sum(p.numel() for p in bench.net.parameters())}
    if a.cache:
        os.makedirs(a.cache, exist_ok=True)
        name = os.path.splitext(os.path.basename(a.config))[0]
        bench.cache = os.path.join(a.cache, f"{name}-{a.batch}-{os.path.getmtime(__file__):.0f}.xml")
    harness.finish(a, bench.job, facts)


if __name__ == "__main__":
    main()
