# %% [markdown]
# # From an STL file to a live pose
#
# A CAD file goes in, poses from a camera come out. Here the part is made in code and a rendered video stands for the camera,
# so that everything runs as it is; put your file, `camera.json` and camera number in their places.

# %%
import shlex

import trimesh

import monopose
from monopose.cli import main

MINUTES = 120  # tests: 0.05
FRAMES = 60  # tests: 3


def run(line):
    """What you would type into a shell."""
    code = main(shlex.split(line)[1:])
    assert code == 0, f"{line} ended with code {code}"


# %% [markdown]
# ## The part
#
# An angle of 80 mm. STL files do not say their unit, so every command is told: `--unit mm`.

# %%
plate, wall = trimesh.creation.box((80, 50, 6)), trimesh.creation.box((6, 50, 40))
wall.apply_translation((-37, 0, 20))
trimesh.util.concatenate([plate, wall]).export("angle.stl")
run("monopose check angle.stl --unit mm")

# %% [markdown]
# Read the size first. Then the symmetries: what is proposed there and true for the part as a camera sees it goes into the
# training (`monopose synth … --propose-symmetries`, or a click in `monopose view angle.stl --unit mm`). This one has none.
#
# ## The networks
#
# One command trains what is needed, in one budget, and says in the end how often it is right. Give it `--camera camera.json`:
# what it renders should look as your camera sees. Interrupted, the same command goes on. Two hours on a CPU are a good start;
# a few minutes only show that it works.

# %%
run(f"monopose train all --data angle.stl --unit mm --out runs/angle --minutes {MINUTES}")

# %% [markdown]
# `runs/angle/report.html` says how good it is and what to try. For a photo of yours: `monopose predict photo.jpg --model
# runs/angle --camera camera.json`.
#
# ## A camera
#
# A video of the part with known poses. Yours is `0`, the first camera of the machine, with its file.

# %%
run(f"monopose synth --video angle.stl --unit mm --out video --videos 1 --frames {FRAMES} --occlusion 0.2")
SOURCE, CAMERA = "video/test/000000/rgb", "video/test/000000/scene_camera.json"

# %% [markdown]
# `monopose track` does all of it on the command line. In a program of yours it is a loop: the detector finds the part and
# looks again once a second, in between its outline is followed. A track says when it is lost; act on nothing else.

# %%
tracker = monopose.Tracker(monopose.load("runs/angle"), cache="contours")
for name, frame in monopose.iterate_frames(SOURCE, CAMERA):
    for track in tracker.step(frame):
        place = "lost" if track.lost else [round(metres, 3) for metres in track.cam_from_obj[:3, 3].tolist()]
        print(name, track.name, place, f"{track.probability_lost:.2f}", *track.reasons)
tracker.close()

# %% [markdown]
# `cam_from_obj` is in metres and OpenCV axes: x right, y down, z forward; `covariance` says how sure it is. To see it:
# `monopose view runs/angle video/test/000000/rgb --camera video/test/000000/scene_camera.json`. On a robot: `docs/ros.md`.
