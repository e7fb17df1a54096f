"""Pictures of a refinement."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from tools.draw_refinement import scene

from monopose.io.poses import pose_records
from monopose.objects import viz
from monopose.objects import viz as object_viz


def test_directions_have_their_colours():
    flow = torch.zeros(2, 1, 6)
    flow[:, 0, :4] = torch.tensor([[2.0, 0, -2, 1], [0, 2, 0, 0]])
    flow[0, 0, 5] = torch.nan
    mask = torch.tensor([[True, True, True, True, True, True]])
    right, down, left, half, none, unknown = np.asarray(viz.flow_image(flow, mask))[0].tolist()
    assert right == [255, 0, 0]
    assert down == pytest.approx([127, 255, 0], abs=1)  # a quarter round the hues
    assert left == [0, 255, 255]
    assert half == pytest.approx([255, 127, 127], abs=1)  # half as far, half as strong
    assert none == [255, 255, 255]
    assert unknown == [89, 89, 89]
    mask[0, 0] = False
    assert np.asarray(viz.flow_image(flow, mask))[0, 0].tolist() == [89, 89, 89]
    assert np.asarray(viz.flow_image(flow, mask, 4.0))[0, 2].tolist() == pytest.approx([127, 255, 255], abs=1)


def test_the_wheel_shows_what_the_field_means():
    disc = np.asarray(viz.wheel(41)).astype(int)
    assert disc[20, 39, 0] > 240 > 40 > disc[20, 39, 1]  # to the right: red
    assert disc[20, 20].min() > 230  # the middle: no displacement
    assert disc[0, 0].tolist() == [89, 89, 89]
    assert disc[39, 20, 1] > 240 > 150 > disc[39, 20, 0]  # downwards: a yellowish green


def test_the_result_is_the_true_pose():
    """What the pictures below show did happen."""
    _, course, result, truth = scene()
    assert bool(result.refined[0])
    begun, ended = ((p[:3, 3] - truth[:3, 3]).norm() for p in (course.start, result.cam_from_obj[0]))
    assert begun > 0.01
    assert ended < 0.15 * begun  # four steps, each of which leaves 40 percent of the field
    assert course.error[1] < 0.15 * course.error[0]


def test_the_animation_has_a_frame_for_every_step():
    frame, course, _, _ = scene()
    pictures = viz.animation(frame, course, 200)
    assert len(pictures) == 1 + 2 * 2
    assert {p.size for p in pictures} == {(200, 200)}
    frames = np.stack([np.asarray(p).astype(int) for p in pictures])[:, 20:]  # without the captions
    piece, _ = viz._piece(frame, course.model, viz._poses(course), 200)
    photo = (piece.movedim(0, -1) * 255).numpy()[20:]
    white = (frames > 220).all(-1) & (photo < 190).any(-1)
    orange = (abs(frames - np.array(viz.NOW)) < 30).all(-1)
    assert orange[0].sum() == 0
    assert (orange[1:].sum((1, 2)) > 100).all()
    assert white[0].sum() > 100
    assert ((white[1:] & white[0]).sum((1, 2)) > 0.3 * white[0].sum()).all()  # the start stays, thinner
    changes = abs(np.diff(frames[1:], axis=0)).max(-1) > 60
    sums = changes.sum((1, 2))
    assert sums[0] > sums[1] > 0  # each step is shorter than the one before


def test_the_sheet_shows_every_rendering_and_the_judgement():
    frame, course, _, _ = scene()
    sheet = viz.strip(frame, course, 100)
    assert sheet.width == 6 * 100 + 7 * 6
    half = (sheet.width - 18) // 2
    assert sheet.height == 3 * (100 + 22) + 4 * 6 + half + 22 + 2 * 6
    pixels = np.asarray(sheet).astype(int)

    def cell(row, column):
        return pixels[6 + row * 128 : 106 + row * 128, 6 + column * 106 : 106 + column * 106]

    assert cell(0, 0).std() > 10
    strong = [np.ptp(cell(row, 2)[:70, :70], axis=-1).mean() for row in range(3)]
    assert strong[0] > 2 * strong[2]  # the field fades as the pose comes right
    assert abs(cell(0, 4) - cell(2, 4)).mean() > 0.5


def test_a_start_that_stays_is_named(tmp_path):
    frame, course, _, _ = scene()
    kept = course._replace(converged=False, cam_from_obj=course.start)
    assert viz._verdict(kept) == "pose unchanged"
    assert viz._verdict(kept._replace(hypothesis=2)) == "start 2 taken"
    assert viz._verdict(course._replace(hypothesis=2)) == "refined from start 2"
    same = np.asarray(viz.before_after(frame, kept, 120)).astype(int)
    moved = np.asarray(viz.before_after(frame, course, 120)).astype(int)
    assert (same[6:126, 6:126] == same[6:126, 132:252]).all()
    assert abs(moved[6:126, 6:126] - moved[6:126, 132:252]).mean() > 1


def test_an_object_of_which_nothing_is_rendered():
    frame, course, _, _ = scene()
    empty = [r._replace(mask=torch.zeros_like(r.mask)) for r in course.rounds]
    assert viz.strip(frame, course._replace(rounds=empty), 60).width == 6 * 60 + 7 * 6


@pytest.mark.slow
def test_files(tmp_path):
    frame, course, _, _ = scene()
    paths = object_viz.save_refinement(tmp_path, frame, [course, course._replace(row=1)])
    assert sorted(p.name for p in paths) == [f"2_object_2_{row}_refined.{kind}" for row in (0, 1) for kind in ("gif", "png")]
    with Image.open(tmp_path / "2_object_2_0_refined.gif") as picture:
        pace = [f.info["duration"] for f in ImageSequence.Iterator(picture)]
    assert pace == [300, 300, 300, 300, 1200]
    assert object_viz.save_refinement(tmp_path / "none", frame, []) == []
    assert not (tmp_path / "none").exists()


def test_what_was_refined_is_in_the_json():
    _, _, result, _ = scene()
    (record,) = pose_records(result)
    assert record["refined"] is True
    (record,) = pose_records(replace(result, refined=None))
    assert "refined" not in record
