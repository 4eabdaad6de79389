"""Makes the files in this folder that ffmpeg and the image crate cannot make. Needs Pillow 13.0 and NumPy.

    python tests/video/files/make.py tests/video/files
"""

import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps

folder = pathlib.Path(sys.argv[1])


def noisy(width, height, seed):
    """A picture of colour gradients and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    gradients = np.stack([x * 2 % 256, y * 3 % 256, (x + 2 * y) % 256], -1) // 2
    return Image.fromarray((gradients + random.integers(0, 90, gradients.shape)).astype("u1"))


noisy(67, 53, 1).save(folder / "progressive_420.jpg", progressive=True, quality=70)
noisy(41, 88, 2).save(folder / "progressive_444.jpg", progressive=True, quality=60, subsampling=0)
noisy(96, 39, 3).convert("L").save(folder / "progressive_grey.jpg", progressive=True, quality=75)
noisy(58, 71, 4).save(folder / "restarts.jpg", quality=65, restart_marker_blocks=5)

# A picture with a red corner. The plugin writes the orientation as boxes of the container.
corner = Image.new("RGB", (48, 32), (40, 60, 200))
corner.paste((230, 20, 20), (0, 0, 16, 12))
for orientation in [3, 5, 6, 7]:
    path = folder / f"orientation_{orientation}.avif"
    exif = Image.Exif()
    exif[0x112] = orientation
    corner.save(path, exif=exif, quality=90, speed=6)
    shown = ImageOps.exif_transpose(Image.open(path))
    right, bottom = shown.width - 4, shown.height - 4
    red = [xy for xy in [(3, 3), (right, 3), (3, bottom), (right, bottom)] if shown.getpixel(xy)[0] > 180]
    print(path.name, shown.size, red)
transparent = corner.convert("RGBA")
transparent.putalpha(100)
transparent.save(folder / "alpha.avif", quality=90, speed=6)
