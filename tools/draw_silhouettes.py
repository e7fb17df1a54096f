"""Draw the figure of docs/silhouettes.md: what the network of the base makes of three objects in a demo photo.

python tools/draw_silhouettes.py docs/images/silhouettes.png
"""

import sys

from monopose import viz
from monopose.commands import demo
from monopose.datasets.bop import scenes
from monopose.objects import pipeline
from monopose.objects.viz import outline_strip

PHOTO = 2


def main(path: str) -> None:
    scene = scenes.open_scene(demo.folder() / "photos" / "test" / "000001")
    frame = scenes.read_frame(scene, int(scene.im_ids[PHOTO]))
    trace = pipeline.load(demo.folder(), "cpu").predict_traced(frame, refine=False)[1]
    moved = sorted(trace.outlines, key=lambda o: float((o.after - o.before)[:3, 3].norm()), reverse=True)[:3]
    viz.contact_sheet([outline_strip(frame, o) for o in moved], columns=1, width=1000).save(path)


if __name__ == "__main__":
    main(sys.argv[1])
