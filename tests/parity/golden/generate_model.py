"""Makes the goldens of resampler and gated cross-attention: python generate_model.py (in this folder,
requirements_model.txt installed; open_flamingo without its dependencies: pip install --no-deps open_flamingo==2.0.1).

resampler            open_flamingo's PerceiverResampler, GELU as released and squared ReLU as in the paper;
                     as many frames as were trained, fewer, and more through torch's linear interpolation
cross_attention      open_flamingo's GatedCrossAttentionBlock over texts with 0 to 3 media
"""

import importlib.util
import pathlib
import sys

import numpy as np
import torch
from torch import nn

import rule

torch.set_num_threads(2)


def helpers():
    """The module file alone: the package imports a whole training stack."""
    import importlib.metadata as metadata

    file = next(f for f in metadata.files("open_flamingo") if str(f).endswith("src/helpers.py"))
    spec = importlib.util.spec_from_file_location("helpers", file.locate())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, metadata.version("open_flamingo")


class SquaredRelu(nn.Module):
    def forward(self, x):
        return torch.relu(x) ** 2


def with_squared_relu(module):
    for child in module.modules():
        if isinstance(child, nn.Sequential):
            for i, layer in enumerate(child):
                if isinstance(layer, nn.GELU):
                    child[i] = SquaredRelu()
    return module


@torch.no_grad()
def resampler(of) -> dict:
    out = {}
    frames = 5
    for activation in ("gelu", "squared_relu"):
        model = of.PerceiverResampler(dim=24, depth=2, dim_head=10, heads=3, num_latents=7, max_num_frames=frames, ff_mult=2)
        rule.fill(model)
        if activation == "squared_relu":
            model = with_squared_relu(model)
        for t in (1, 3, 5, 8):
            x = torch.from_numpy(rule.values(f"features.{t}", (2, 1, t, 11, 24), 0.0, 1.7))
            trained = model.frame_embs.clone()
            if t > frames:
                longer = nn.functional.interpolate(trained.T[None], size=t, mode="linear", align_corners=True)[0].T
                model.frame_embs = nn.Parameter(longer)
            out[f"{activation}.{t}"] = model(x)[:, 0]
            model.frame_embs = nn.Parameter(trained)
    return out


@torch.no_grad()
def cross_attention(of) -> dict:
    out = {}
    locations = torch.zeros(3, 13, dtype=torch.bool)
    locations[1, 4] = True
    locations[2, [0, 5, 6]] = True
    out["locations"] = locations.to(torch.uint8)
    x = torch.from_numpy(rule.values("text", (3, 13, 26), 0.0, 1.7))
    media = torch.from_numpy(rule.values("media", (3, 3, 7, 24), 0.0, 1.7))
    for activation in ("gelu", "squared_relu"):
        block = of.GatedCrossAttentionBlock(dim=26, dim_visual=24, dim_head=10, heads=3, ff_mult=2)
        rule.fill(block)
        if activation == "squared_relu":
            block = with_squared_relu(block)
        out[activation] = block(x, media, media_locations=locations)
        out[f"{activation}.cached"] = block(x[:, :2], media, media_locations=locations, use_cached_media=True)
    return out


if __name__ == "__main__":
    of, version = helpers()
    here = pathlib.Path(__file__).parent
    for name, make in (("resampler", resampler), ("cross_attention", cross_attention)):
        rule.save(here / f"{name}.safetensors", make(of), reference=f"open_flamingo {version}", generator=pathlib.Path(__file__).name)
        print(name, "written", file=sys.stderr)
