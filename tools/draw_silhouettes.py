"""Draw the figure of docs/silhouettes.md: what the network of the base makes of three objects in a demo photo, first round.

python tools/draw_silhouettes.py docs/images/silhouettes.png
"""

import sys
from dataclasses import replace

from monopose import viz
from monopose.commands import demo
from monopose.datasets.bop import scenes
from monopose.objects import pipeline, silhouettes
from monopose.objects.viz import outline_strip

PHOTO, OBJECTS = 4, 3


def main(path: str) -> None:
    scene = scenes.open_scene(demo.folder() / "photos" / "test" / "000001")
    frame = scenes.read_frame(scene, int(scene.im_ids[PHOTO]))
    run = pipeline.load(demo.folder(), "cpu")
    poses = replace(run, silhouettes=None, calibration=None).predict(frame)[:5]  # five objects are there
    outlines = silhouettes.predict_traced(run.silhouettes, frame, poses, run.models, rounds=1)[1]
    moved = sorted(outlines, key=lambda o: float((o.after - o.before)[:3, 3].norm()), reverse=True)[:OBJECTS]
    viz.contact_sheet([outline_strip(frame, o) for o in moved], columns=1, width=1000).save(path)


if __name__ == "__main__":
    main(sys.argv[1])
