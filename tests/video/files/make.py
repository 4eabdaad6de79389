"""Makes the files in this folder that ffmpeg and the image crate cannot make. Needs Pillow 13.0 and NumPy.

    python tests/video/files/make.py tests/video/files
"""

import json
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


def frames_on_white(path, places):
    """Colours of each frame at some places, as Pillow composites them on white."""
    image = Image.open(path)
    found = []
    for index in range(image.n_frames):
        image.seek(index)
        frame = image.convert("RGBA")
        white = Image.new("RGBA", frame.size, (255, 255, 255, 255))
        shown = Image.alpha_composite(white, frame).convert("RGB")
        found.append([[x, y, *shown.getpixel((x, y))] for x, y in places])
    return found


def moving_square(colours):
    """Frames with an opaque square on transparent; the square moves."""
    frames = []
    for index, colour in enumerate(colours):
        frame = Image.new("RGBA", (50, 30), (0, 0, 0, 0))
        frame.paste(colour, (4 + 10 * index, 5, 16 + 10 * index, 20))
        frames.append(frame)
    return frames


colours = [(200, 10, 10, 255), (10, 160, 30, 255), (20, 40, 220, 255), (240, 200, 0, 255)]
places = [(1, 1), (8, 10), (18, 10), (28, 10), (38, 10)]
expected = {}
for name, options in {
    "disposal_background.gif": {"disposal": 2},
    "disposal_none.gif": {"disposal": 1},
    "disposal_previous.gif": {"disposal": 3},
    "disposal_background.png": {"disposal": 1, "blend": 0},
    "blend_over.png": {"disposal": 0, "blend": 1},
    # Pillow shows PNGs with disposal 2 in another way than the specification, FFmpeg and browsers.
    "transparent.webp": {"lossless": True},
}.items():
    first, *others = moving_square(colours)
    first.save(folder / name, save_all=True, append_images=others, duration=10 * 2, **options)
    expected[name] = frames_on_white(folder / name, places)
(folder / "disposal.json").write_text(json.dumps(expected, indent=1) + "\n")
