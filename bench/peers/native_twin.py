#!/usr/bin/env python3
"""PyTorch twin of kinema's native model: the same architecture and sizes, for timing only (never needed by build or tests).

Reads a train.json of kinema (its "transformer" and "text_encoder" configs), builds the same network with random weights, and times one
training step (forward, backward, clipping, foreach AdamW, EMA) and the generation of one clip (Euler, plain guidance), with
fused attention (F.scaled_dot_product_attention).

  python3 bench/peers/native_twin.py models/bundled.train/1-layout.json [--work clip] [--engine compiled] [--dtype bf16]
"""
import argparse
import json
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import harness


def sinusoid(v, half):
    f = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
    a = v[..., None] * f
    return torch.cat([a.cos(), a.sin()], -1)


def rotary_tables(grid, d, theta, token):
    hw = 2 * (d // 6)
    parts = (d - 2 * hw, hw, hw)
    axes = []
    for n, m in zip(grid, parts):
        f = theta ** (-torch.arange(0, m, 2) / m) if m else torch.zeros(0)
        axes.append(torch.arange(n)[:, None] * f[None])
    t, h, w = grid
    a = torch.cat([axes[0][:, None, None].expand(t, h, w, -1), axes[1][None, :, None].expand(t, h, w, -1),
                   axes[2][None, None].expand(t, h, w, -1)], -1).reshape(t * h * w, d // 2)
    if token:
        a = torch.cat([torch.zeros(1, d // 2), a])
    return a.cos(), a.sin()


def rotate(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    c, s = cos[None, :, None], sin[None, :, None]
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)


class RMSNorm(nn.RMSNorm):
    """In f32 also under autocast, where PyTorch would leave its fused kernel."""

    def forward(self, x):
        return super().forward(x.float())


class Attention(nn.Module):
    def __init__(self, dim, heads, d, kv_dim=None, head_norm=False):
        super().__init__()
        inner = heads * d
        self.heads, self.d, self.head_norm = heads, d, head_norm
        self.q, self.k, self.v = (nn.Linear(w, inner) for w in (dim, kv_dim or dim, kv_dim or dim))
        self.out = nn.Linear(inner, dim)
        norm = (lambda: nn.LayerNorm(d, eps=1e-6)) if head_norm else (lambda: RMSNorm(inner, eps=1e-6))
        self.nq, self.nk = norm(), norm()

    def forward(self, x, kv=None, rope=None, gate=None):
        kv = x if kv is None else kv
        q, k, v = self.q(x), self.k(kv), self.v(kv)
        if not self.head_norm:
            q, k = self.nq(q), self.nk(k)
        q, k, v = (t.unflatten(-1, (self.heads, self.d)) for t in (q, k, v))
        if self.head_norm:
            q, k = self.nq(q), self.nk(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        o = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
        if gate is not None:
            o = o * gate[:, None, :, None]
        return self.out(o.flatten(-2))


class Experts(nn.Module):
    """ProMoE token choice, top-1, identity weights; experts as batched masked products (the fastest of the simple forms here)."""

    def __init__(self, dim, cfg):
        super().__init__()
        self.E, h, s = cfg["num_routed_experts"], cfg["moe_intermediate_size"], cfg["shared_expert_intermediate_size"]
        self.proto = nn.Parameter(torch.randn(self.E, dim) * 0.02)
        self.up = nn.ModuleList(nn.Linear(dim, h) for _ in range(self.E + 1))
        self.down = nn.ModuleList(nn.Linear(h, dim) for _ in range(self.E + 1))
        self.su, self.sd = nn.Linear(dim, s), nn.Linear(s, dim)
        self.tau, self.lam = cfg["routing_contrastive_temperature"], cfg["routing_contrastive_lam"]

    def forward(self, x, null):
        B, N, D = x.shape
        y = self.sd(F.gelu(self.su(x), approximate="tanh"))
        flat = x.reshape(-1, D)
        cos = F.normalize(flat, dim=-1) @ F.normalize(self.proto, dim=-1).T
        w, idx = cos.max(-1)
        drop = null.bool()[:, None].expand(B, N).reshape(-1)
        idx, w = torch.where(drop, self.E, idx), torch.where(drop, 1.0, w)
        out = torch.zeros_like(flat)
        for e in range(self.E + 1):
            rows = (idx == e).nonzero().squeeze(-1)
            if rows.numel():
                z = self.down[e](F.gelu(self.up[e](flat[rows]), approximate="tanh"))
                out = out.index_add(0, rows, (w[rows, None] * z).to(out.dtype))
        one = F.one_hot(idx, self.E + 1)[:, :self.E].to(flat.dtype)
        n = one.sum(0)
        used = n > 0
        mean = (one.T @ flat)[used] / n[used, None]
        logits = F.normalize(self.proto[used], dim=-1) @ F.normalize(mean, dim=-1).T / self.tau
        rcl = F.cross_entropy(logits, torch.arange(logits.shape[0])) if used.sum() > 1 else flat.new_zeros(())
        return y + out.view(B, N, D), self.lam * rcl


class Block(nn.Module):
    def __init__(self, c, i):
        super().__init__()
        D = c["num_attention_heads"] * c["attention_head_dim"]
        self.table = nn.Parameter(torch.randn(6, D) / D ** 0.5)
        self.a1 = Attention(D, c["num_attention_heads"], c["attention_head_dim"])
        self.a2 = Attention(D, c["num_attention_heads"], c["attention_head_dim"])
        self.n2 = nn.LayerNorm(D, eps=1e-6)
        moe = c["model"] != "dense" and (i % 2 == 1 or not c["MoE_config"].get("interleave", True))
        self.moe = Experts(D, c["MoE_config"]) if moe else None
        if not moe:
            self.f1, self.f2 = nn.Linear(D, c["ffn_dim"]), nn.Linear(c["ffn_dim"], D)

    def forward(self, h, text, tp, rope, null):
        s1, c1, g1, s2, c2, g2 = (self.table + tp).unbind(1)
        ln = lambda v: F.layer_norm(v, v.shape[-1:], eps=1e-6)
        h = h + g1[:, None] * self.a1(ln(h) * (1 + c1[:, None]) + s1[:, None], rope=rope)
        h = h + self.a2(self.n2(h), kv=text)
        v = ln(h) * (1 + c2[:, None]) + s2[:, None]
        aux = h.new_zeros(())
        if self.moe:
            f, aux = self.moe(v, null)
        else:
            f = self.f2(F.gelu(self.f1(v), approximate="tanh"))
        return h + g2[:, None] * f, aux


class T5Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, inner, f = c["d_model"], c["num_heads"] * c["d_kv"], c["d_ff"]
        self.h, self.k = c["num_heads"], c["d_kv"]
        self.qkv, self.o = nn.Linear(d, 3 * inner, bias=False), nn.Linear(inner, d, bias=False)
        self.w0, self.w1, self.w2 = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)
        self.n1, self.n2 = RMSNorm(d, eps=1e-6), RMSNorm(d, eps=1e-6)

    def forward(self, x, mask):
        q, k, v = self.qkv(self.n1(x)).unflatten(-1, (3, self.h, self.k)).permute(2, 0, 3, 1, 4)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0).transpose(1, 2).flatten(-2))
        y = self.n2(x)
        return x + self.w2(F.gelu(self.w0(y), approximate="tanh") * self.w1(y))


class Twin(nn.Module):
    def __init__(self, c, t5):
        super().__init__()
        D = c["num_attention_heads"] * c["attention_head_dim"]
        self.c, p = c, c["patch_size"]
        self.grid = (c.get("sample_frames", 16) // p[0], c.get("sample_height", 32) // p[1], c.get("sample_width", 32) // p[2])
        self.embed = nn.Embedding(t5["vocab_size"], t5["d_model"])
        self.bias = nn.Embedding(t5["relative_attention_num_buckets"], t5["num_heads"])
        self.t5 = nn.ModuleList(T5Block(t5) for _ in range(t5["num_layers"]))
        self.t5n = RMSNorm(t5["d_model"], eps=1e-6)
        self.patch = nn.Linear(3 * p[0] * p[1] * p[2], D)
        self.time = nn.Sequential(nn.Linear(c["freq_dim"], D), nn.SiLU(), nn.Linear(D, D))
        self.proj = nn.Linear(D, 6 * D)
        self.text = nn.Sequential(nn.Linear(c["text_dim"], D), nn.GELU("tanh"), nn.Linear(D, D))
        self.token = nn.Parameter(torch.randn(1, 1, D))
        self.quant, self.quant2 = nn.Linear(2 * c["freq_dim"], D), nn.Linear(D, 3 * D)
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c["num_layers"]))
        m, pd = c.get("phys_heads_per_class", 2), c.get("phys_head_dim") or c["attention_head_dim"]
        self.m, self.pd = m, pd
        self.ptable = nn.Parameter(torch.randn(3, D) / D ** 0.5)
        self.mopa = Attention(D, 29 * m, pd, head_norm=c.get("phys_qk_norm") == "layer_norm")
        self.cls = nn.Sequential(nn.Linear(D, 512), nn.SiLU(), nn.Linear(512, 29))
        self.table = nn.Parameter(torch.randn(2, D) / D ** 0.5)
        self.out = nn.Linear(D, self.patch.in_features)
        self.pos = nn.ParameterList(nn.Parameter(0.3 * torch.randn(n, D)) for n in self.grid)
        th = c.get("rope_theta", 10000)
        self.rope, self.prope = rotary_tables(self.grid, c["attention_head_dim"], th, True), rotary_tables(self.grid, pd, th, True)

    def forward(self, x, t, ids, mask, null, prior, quant, gates):
        c = self.c
        e = self.embed(ids)
        n = ids.shape[1]
        r = (torch.arange(n)[None] - torch.arange(n)[:, None]).clamp(-15, 15) + 16
        am = self.bias(r).permute(2, 0, 1)[None] + torch.where(mask[:, None, None] > 0, 0.0, -1e9)
        for b in self.t5:
            e = b(e, am.to(e.dtype))
        text = self.text(self.t5n(e) * mask[..., None])
        B, (pt, ph, pw) = x.shape[0], c["patch_size"]
        f, h, w = self.grid
        tok = x.view(B, 3, f, pt, h, ph, w, pw).permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(B, f * h * w, -1)
        h_ = self.patch(tok) + (self.pos[0][:, None, None] + self.pos[1][None, :, None] + self.pos[2][None, None]).flatten(0, 2)
        h_ = torch.cat([self.token.expand(B, -1, -1), h_], 1)
        temb = self.time(sinusoid(t, c["freq_dim"] // 2))
        tp = self.proj(F.silu(temb)).unflatten(-1, (6, -1))
        per = c["freq_dim"] // 18
        enc = F.pad(sinusoid(quant, per).flatten(1), (0, 2 * c["freq_dim"] - 36 * per))
        ptemb = tp[:, :3] + self.quant2(self.quant(enc)).unflatten(-1, (3, -1))
        aux = 0.0
        for b in self.blocks:
            h_, a = b(h_, text, tp, self.rope, null)
            aux = aux + a
        s, sc, g = (self.ptable + ptemb).unbind(1)
        ln = lambda v: F.layer_norm(v, v.shape[-1:], eps=1e-6)
        h_ = h_ + g[:, None] * self.mopa(ln(h_) * (1 + sc[:, None]) + s[:, None], rope=self.prope, gate=gates)
        logits = self.cls(h_[:, 0])
        sh, sc = (self.table + temb[:, None]).unbind(1)
        y = self.out(ln(h_[:, 1:]) * (1 + sc[:, None]) + sh[:, None])
        y = y.view(B, f, h, w, pt, ph, pw, 3).permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape)
        return y, logits, aux


class Bench:
    """What the harness asks for: one training step, or one clip."""

    def __init__(self, a):
        j = json.load(open(a.config))
        self.c, self.t5, self.batch, self.sample_steps = j["transformer"], j["text_encoder"], a.batch, a.sample_steps
        self.t5.setdefault("relative_attention_num_buckets", 32)
        c = self.c
        c.setdefault("text_len", 64)
        self.size = (c.get("sample_frames", 16), c.get("sample_height", 32), c.get("sample_width", 32))
        self.net, self.compiled = Twin(c, self.t5), None

    def inputs(self, B):
        null, prior = torch.zeros(B), torch.zeros(B, 29)
        null[: B // 10] = 1
        prior[:, [1, 13, 19, 21, 28]] = 1
        n = self.c["text_len"]
        return (torch.randint(0, self.t5["vocab_size"], (B, n)), torch.ones(B, n), null, prior, torch.rand(B, 18),
                prior.repeat_interleave(self.net.m, 1))

    def train(self, run, cast):
        params = list(self.net.parameters())
        ema = [p.detach().clone() for p in params]
        opt = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, foreach=True)

        def step():
            shape = (self.batch, 3) + self.size
            x0, noise, sig = torch.randn(shape), torch.randn(shape), torch.rand(self.batch)
            s = sig.view(-1, 1, 1, 1, 1)
            cond = self.inputs(self.batch)
            with cast():
                y, logits, aux = run((1 - s) * x0 + s * noise, 1000 * sig, *cond)
                loss = ((y - x0) ** 2 / s.clamp(min=0.3) ** 2).mean() + aux
                loss = loss + 0.1 * F.binary_cross_entropy_with_logits(logits.float(), cond[3])
            opt.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
            opt.step()
            torch._foreach_lerp_(ema, [p.detach() for p in params], 0.001)
        return step

    def clip(self, run, cast):
        @torch.no_grad()
        def make():
            x, cond = torch.randn((1, 3) + self.size), self.inputs(2)
            sig = torch.linspace(1, 0, self.sample_steps + 1)
            for i in range(self.sample_steps):
                with cast():
                    y = run(x.repeat(2, 1, 1, 1, 1), torch.full((2,), 1000 * float(sig[i])), *cond)[0].float()
                v = (x - y) / max(float(sig[i]), 0.05)
                x = x + (sig[i + 1] - sig[i]) * (v[:1] + 3.0 * (v[1:] - v[:1]))
        return make

    def job(self, engine, dtype, work, threads):
        if engine not in ("torch", "compiled"):
            return None
        if engine == "compiled" and not self.compiled:
            self.compiled = torch.compile(self.net)
        run = self.compiled if engine == "compiled" else self.net
        fn = (self.train if work == "train" else self.clip)(
            run, lambda: torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"))

        def threaded():
            torch.set_num_threads(threads)
            fn()
        return threaded


def main():
    ap = argparse.ArgumentParser()
    harness.add_flags(ap, ["train", "clip"])
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--sample-steps", type=int, default=25)
    a = ap.parse_args()
    harness.own_output()
    torch.manual_seed(0)
    bench = Bench(a)
    harness.finish(a, bench.job, {"framework": "pytorch " + torch.__version__, "batch": a.batch, "sample_steps": a.sample_steps,
                                  "parameters": sum(p.numel() for p in bench.net.parameters())})


if __name__ == "__main__":
    main()
