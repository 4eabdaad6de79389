"""Makes the vision goldens: python generate_vision.py (in this folder, requirements_vision.txt installed).

nfnet_f0, nfnet_mini     every stage of timm's network with the weights of rule.py, an even and an odd size
nfnet_narrow             stages of F1-F6 at an eighth of their width
nfnet_keys.txt           names and shapes of the seven published networks
preprocess               Pillow's resize, torchvision's and timm's transforms
"""

import numpy as np
import PIL
import timm
import torch
import torchvision.transforms as T
from PIL import Image
from timm.models.nfnet import NfCfg, NormFreeNet

import rule

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEPTHS = {f"f{i}": tuple(d * (i + 1) for d in (1, 2, 6, 3)) for i in range(7)}
torch.set_num_threads(2)
assert int(PIL.__version__.split('.')[0]) < 13, 'Pillow 13 resizes in another order than checkpoints were trained on'


def config(depths, channels, stem, group) -> NfCfg:
    return NfCfg(
        depths=depths, channels=channels, stem_type="deep_quad", stem_chs=stem, group_size=group, bottle_ratio=0.5,
        extra_conv=True, gamma_in_act=True, same_padding=True, skipinit=True, num_features=channels[-1] * 2,
        act_layer="gelu", attn_layer="se", attn_kwargs=dict(rd_ratio=0.5),
    )


@torch.no_grad()
def stages(model, x, only=None) -> dict[str, torch.Tensor]:
    out = {}
    x = out["stem"] = model.stem(x)
    for i, stage in enumerate(model.stages):
        x = out[f"stages.{i}"] = stage(x)
    x = out["final_conv"] = model.final_conv(x)
    out["features"] = model.final_act(x).flatten(2).transpose(1, 2)
    return {k: v for k, v in out.items() if only is None or k in only}


def ruled(model, prefix=""):
    rule.fill(model, prefix)
    return model.eval()


def network(name, model, sizes):
    out = {}
    for size in sizes:
        shape = (2, 3, *size) if name != "nfnet_f0" else (1, 3, *size)
        x = torch.from_numpy(rule.values(f"pixels.{size[0]}x{size[1]}", shape, 0.0, 1.75))
        out |= {f"{size[0]}x{size[1]}.{k}": v for k, v in stages(model, x).items()}
    rule.save(f"{name}.safetensors", out)


def narrow():
    out = {}
    x = torch.from_numpy(rule.values("pixels.64x48", (1, 3, 64, 48), 0.0, 1.75))
    for name in list(DEPTHS)[1:]:
        model = ruled(NormFreeNet(config(DEPTHS[name], (32, 64, 192, 192), 16, 16), num_classes=0))
        keep = ("stages.0", "stages.1", "stages.2", "stages.3", "features")
        out |= {f"{name}.{k}": v for k, v in stages(model, x, keep).items()}
    rule.save("nfnet_narrow.safetensors", out)


def keys():
    with open("nfnet_keys.txt", "w") as f:
        f.write(f"# variant name shape, from timm {timm.__version__}\n")
        for name in DEPTHS:
            with torch.device("meta"):
                model = timm.create_model(f"dm_nfnet_{name}")
            for key, value in model.state_dict().items():
                f.write(f"{name} {key} {'x'.join(map(str, value.shape)) or '-'}\n")


def picture(width, height, seed) -> Image.Image:
    """Blocks, gradients and noise: saturated edges make the kernel over- and undershoot."""
    noise = (rule.uniform(f"picture.{seed}", height * width * 3) * 127.5 + 127.5).astype(np.uint8).reshape(height, width, 3)
    y, x = np.mgrid[0:height, 0:width]
    blocks = (((x // 5 + y // 7) % 2) * 255).astype(np.uint8)
    noise[..., 1] = np.where(x < width // 2, blocks, noise[..., 1])
    noise[..., 2] = np.where(y < height // 2, (x * 255 // max(1, width - 1)).astype(np.uint8), noise[..., 2])
    return Image.fromarray(noise)


RESIZES = [((97, 61), (40, 23)), ((31, 45), (80, 101)), ((64, 48), (64, 20)), ((50, 33), (17, 33)), ((7, 3), (19, 1)), ((160, 90), (32, 32))]
FITS = [(120, 67), (45, 83), (40, 40), (23, 17), (33, 32)]
SIZE = 32


def pad(image):
    """The paper's: aspect kept, the rest filled with the mean, that is 0 once normalised."""
    scale = SIZE / max(image.size)
    w, h = (max(1, int(side * scale + 0.5)) for side in image.size)
    x = T.Normalize(MEAN, STD)(T.ToTensor()(image.resize((w, h), Image.Resampling.BICUBIC)))
    left, top = (SIZE - w) // 2, (SIZE - h) // 2
    return torch.nn.functional.pad(x, (left, SIZE - w - left, top, SIZE - h - top))


def preprocess():
    from timm.data import create_transform

    out = {}
    for (w, h), to in RESIZES:
        image = picture(w, h, f"resize.{w}x{h}")
        out[f"resize.{w}x{h}.{to[0]}x{to[1]}.in"] = np.array(image)
        out[f"resize.{w}x{h}.{to[0]}x{to[1]}.out"] = np.array(image.resize(to, Image.Resampling.BICUBIC))
    crop = T.Compose([T.Resize(SIZE, T.InterpolationMode.BICUBIC), T.CenterCrop(SIZE), T.ToTensor(), T.Normalize(MEAN, STD)])
    common = dict(input_size=(3, SIZE, SIZE), interpolation="bicubic", mean=MEAN, std=STD, crop_mode="squash")
    modes = {
        "pad": pad,
        "crop": crop,
        "squash": create_transform(**common, crop_pct=1.0),
        "squash90": create_transform(**common, crop_pct=0.9),
        "squash95": create_transform(**common, crop_pct=0.951),
    }
    for w, h in FITS:
        image = picture(w, h, f"fit.{w}x{h}")
        out[f"fit.{w}x{h}.in"] = np.array(image)
        for name, transform in modes.items():
            out[f"fit.{w}x{h}.{name}"] = transform(image)
    rule.save("preprocess.safetensors", out)


if __name__ == "__main__":
    keys()
    preprocess()
    narrow()
    mini = ruled(NormFreeNet(config(DEPTHS["f0"], (48, 96, 192, 384), 48, 24), num_classes=0))
    network("nfnet_mini", mini, [(96, 64), (75, 53)])
    network("nfnet_f0", ruled(timm.create_model("dm_nfnet_f0", num_classes=0)), [(64, 40), (45, 37)])
