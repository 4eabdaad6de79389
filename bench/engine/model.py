"""Flamingo in plain PyTorch, with the shape, layers and parameters that `flamingo bench --json` reports.

NFNet is timm's. The rest is straightforward PyTorch: fused attention, a preallocated cache and, as in flamingo, keys and values
of a medium computed once. Axis letters as in the library: b batch, t frames, s patches, q visual tokens, n new tokens.
"""

import torch
import torch.nn.functional as F
from torch import nn


def linear(d_in, d_out):
    return nn.Linear(d_in, d_out, bias=False)


def heads(x, h):
    return x.unflatten(-1, (h, -1)).transpose(-3, -2)  # (b, n, h * d) -> (b, h, n, d)


def merge(x):
    return x.transpose(-3, -2).flatten(-2)


def vision(shape):
    from timm.models.nfnet import NfCfg, NormFreeNet

    config = NfCfg(
        depths=tuple(shape["depths"]), channels=tuple(shape["widths"]), stem_type="deep_quad", stem_chs=shape["stem"],
        group_size=shape["group"], bottle_ratio=0.5, extra_conv=True, gamma_in_act=True, same_padding=True, skipinit=True,
        num_features=shape["final_width"], act_layer="gelu", attn_layer="se", attn_kwargs=dict(rd_ratio=0.5),
    )
    net = NormFreeNet(config, num_classes=0)
    if shape["features"] == "final_stage":
        net.final_conv, net.final_act = nn.Identity(), nn.Identity()
    net.head = nn.Identity()
    return net


class FeedForward(nn.Sequential):
    """Norm, up, squared ReLU, down."""

    def __init__(self, d, multiple):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(d), linear(d, multiple * d), linear(multiple * d, d)

    def forward(self, x):
        return self.down(F.relu(self.up(self.norm(x))).square())


class PerceiverLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, inner, self.h = c["width"], c["heads"] * c["head_width"], c["heads"]
        self.norm_media, self.norm_latents = nn.LayerNorm(d), nn.LayerNorm(d)
        self.to_q, self.to_kv, self.to_out = linear(d, inner), linear(d, 2 * inner), linear(inner, d)
        self.feed_forward = FeedForward(d, c["feed_forward_multiple"])

    def forward(self, x, latents):
        y = self.norm_latents(latents)
        k, v = self.to_kv(torch.cat([self.norm_media(x), y], 1)).chunk(2, -1)
        y = F.scaled_dot_product_attention(heads(self.to_q(y), self.h), heads(k, self.h), heads(v, self.h))
        latents = latents + self.to_out(merge(y))
        return latents + self.feed_forward(latents)


class Resampler(nn.Module):
    def __init__(self, c, features_width):
        super().__init__()
        d = c["width"]
        self.projection = linear(features_width, d) if features_width != d else nn.Identity()
        self.temporal_embedding = nn.Parameter(torch.randn(c["frames"], d))
        self.latents = nn.Parameter(torch.randn(c["latents"], d))
        self.layers = nn.ModuleList(PerceiverLayer(c) for _ in range(c["depth"]))
        self.norm = nn.LayerNorm(d)

    def forward(self, features):  # (b, t, s, d)
        x = self.projection(features) + self.temporal_embedding[: features.shape[1], None]
        x, latents = x.flatten(1, 2), self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            latents = layer(x, latents)
        return self.norm(latents)  # (b, q, d)


class CrossAttention(nn.Module):
    """GATED XATTN-DENSE."""

    def __init__(self, c, d, media_width):
        super().__init__()
        inner, self.h = c["heads"] * c["head_width"], c["heads"]
        self.norm = nn.LayerNorm(d)
        self.to_q, self.to_kv, self.to_out = linear(d, inner), linear(media_width, 2 * inner), linear(inner, d)
        self.feed_forward = FeedForward(d, c["feed_forward_multiple"])
        self.gates = nn.Parameter(torch.zeros(2))

    def project_kv(self, tokens):
        return [heads(x, self.h).contiguous() for x in self.to_kv(tokens).chunk(2, -1)]

    def forward(self, x, media):
        attention, dense = self.gates.tanh()
        y = F.scaled_dot_product_attention(heads(self.to_q(self.norm(x)), self.h), *media)
        x = x + self.to_out(merge(y)) * attention
        return x + self.feed_forward(x) * dense


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class LlamaLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, self.h, self.h_kv, w = c["width"], c["heads"], c["kv_heads"], c["head_width"]
        self.norm, self.post_norm = nn.RMSNorm(d, 1e-5), nn.RMSNorm(d, 1e-5)
        self.q, self.k, self.v = linear(d, self.h * w), linear(d, self.h_kv * w), linear(d, self.h_kv * w)
        self.o = linear(self.h * w, d)
        self.gate, self.up, self.down = linear(d, c["ffn_width"]), linear(d, c["ffn_width"]), linear(c["ffn_width"], d)

    def forward(self, x, cache, positions, rotation, mask):
        y = self.norm(x)
        cache[0].index_copy_(2, positions, rotate(heads(self.k(y), self.h_kv), *rotation))
        cache[1].index_copy_(2, positions, heads(self.v(y), self.h_kv))
        q, grouped = rotate(heads(self.q(y), self.h), *rotation), self.h != self.h_kv
        x = x + self.o(merge(F.scaled_dot_product_attention(q, *cache, attn_mask=mask, enable_gqa=grouped)))
        y = self.post_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Language(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embedding = nn.Embedding(c["vocabulary"], c["width"])
        self.layers = nn.ModuleList(LlamaLayer(c) for _ in range(c["layers"]))
        self.norm = nn.RMSNorm(c["width"], 1e-5)
        self.head = None if c["tied"] else linear(c["width"], c["vocabulary"])


class Flamingo(nn.Module):
    def __init__(self, shape):
        super().__init__()
        v, r, x, l = (shape[k] for k in ("vision", "resampler", "cross_attention", "language"))
        self.shape = shape
        width = v["widths"][-1] if v["features"] == "final_stage" else v["final_width"]
        self.resampler = Resampler(r, width)
        layers = shape["cross_attention_layers"]
        self.cross_attention = nn.ModuleDict({str(i): CrossAttention(x, l["width"], r["width"]) for i in layers})
        self.language = Language(l)

    def media_kv(self, tokens):  # (b, q, d)
        return {i: x.project_kv(tokens) for i, x in self.cross_attention.items()}

    def cache(self, b, limit):
        """Keys and values with room for `limit` tokens, at every layer."""
        c, like = self.shape["language"], self.language.embedding.weight
        return [[like.new_zeros(b, c["kv_heads"], limit, c["head_width"]) for _ in "kv"] for _ in range(c["layers"])]

    def rotary(self, limit):
        """Cosines and sines of all positions: (limit, d / 2) each."""
        w, like = self.shape["language"]["head_width"], self.language.embedding.weight
        angles = torch.arange(limit)[:, None] * 1e4 ** -(torch.arange(0, w, 2) / w)
        return [f(angles).to(like.device, like.dtype) for f in (torch.cos, torch.sin)]

    def forward(self, ids, positions, cache, rotary, media):
        """ids (b, n) at `positions` (n) -> the likeliest token after the last one: (b)."""
        x = self.language.embedding(ids)
        rotation = [t[positions] for t in rotary]
        mask = positions[:, None] >= torch.arange(cache[0][0].shape[2], device=ids.device)
        for i, layer in enumerate(self.language.layers):
            if str(i) in media:
                x = self.cross_attention[str(i)](x, media[str(i)])
            x = layer(x, cache[i], positions, rotation, mask)
        x = self.language.norm(x[:, -1])
        logits = F.linear(x, self.language.embedding.weight) if self.language.head is None else self.language.head(x)
        return logits.float().log_softmax(-1).argmax(-1)
