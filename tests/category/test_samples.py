"""Views of a category: poses and views are the same thing, and the pictures show them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monopose.category import samples as cv
from monopose.category import view as view_ops
from monopose.geometry import camera, rotation, se3, viewpoints

angle = st.floats(-math.pi, math.pi)


def _photo():
    return torch.tensor([[700.0, 0.0, 331.5], [0.0, 680.0, 228.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.slow
@given(
    angle, st.floats(-1.4, 1.4), angle, st.floats(-0.6, 0.6), st.floats(-0.4, 0.4), st.floats(0.2, 5.0), st.floats(0.05, 0.4)
)
def test_views_and_poses_are_inverse(azimuth, elevation, inplane, x, y, z, size):
    R = viewpoints.rotation_of(torch.tensor([azimuth, elevation, inplane], dtype=torch.float64))
    pose = se3.from_rt(R, torch.tensor([x * z, y * z, z], dtype=torch.float64))
    box = torch.tensor([40.0, -30.0, 190.0, 120.0], dtype=torch.float64)
    view = view_ops.view_parameters(pose, _photo(), box, size)
    assert torch.allclose(view_ops.pose_from_view(view, _photo(), box, size), pose, atol=1e-9)
    again = view_ops.view_of(view.stacked())
    assert torch.allclose(view_ops.pose_from_view(again, _photo(), box, size), pose, atol=1e-9)


def test_views_depend_on_the_crop_not_on_the_photo():
    """Seen through the crop's own camera, the parameters are the same."""
    pose = se3.from_rt(
        viewpoints.rotation_of(torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)),
        torch.tensor([0.1, -0.2, 0.9], dtype=torch.float64),
    )
    box = torch.tensor([320.0, 0.0, 480.0, 160.0], dtype=torch.float64)
    crop = camera.crop_resize_K(_photo(), box, (64, 64))
    there = view_ops.view_parameters(pose, _photo(), box, 0.2).stacked()
    here = view_ops.view_parameters(pose, crop, torch.tensor([0.0, 0, 64, 64], dtype=torch.float64), 0.2).stacked()
    assert torch.allclose(there, here)


def test_distance_follows_size_and_shape_does_not():
    pose = se3.from_rt(torch.eye(3), torch.tensor([0.0, 0.1, 1.0]))
    K, box = _photo().float(), torch.tensor([300.0, 200.0, 460.0, 360.0])
    view = view_ops.view_parameters(pose, K, box, 0.2)
    far = view_ops.pose_from_view(view, K, box, 0.4)
    assert torch.allclose(far[:3, 3], 2 * pose[:3, 3], atol=1e-6)
    assert torch.allclose(far[:3, :3], pose[:3, :3], atol=1e-6)


def test_scale_and_shift_are_what_they_say():
    """A rod of the object's size across the ray spans `scale` of the crop, and the origin lies at `shift`."""
    K = camera.K_from_fov(math.radians(40), (200, 200)).double()
    box = torch.tensor([60.0, 40.0, 160.0, 140.0], dtype=torch.float64)
    pose = view_ops.pose_from_view(
        view_ops.view_of(torch.tensor([0.3, 0.2, 0.0, 0.5, -0.25, 0.7], dtype=torch.float64)), K, box, 0.3
    )
    u, v = camera.project(pose[None, :3, 3], K)[0].tolist()
    assert (u + 0.5, v + 0.5) == pytest.approx((110 + 0.5 * 50, 90 - 0.25 * 50))
    ends = pose[:3, 3] + torch.tensor([[-0.15, 0, 0], [0.15, 0, 0]], dtype=torch.float64)
    pixels = camera.project(ends, K)
    assert float(pixels[1, 0] - pixels[0, 0]) == pytest.approx(70.0)


def test_crops_must_be_square():
    with pytest.raises(ValueError, match="square crops"):
        view_ops.view_parameters(torch.eye(4), torch.eye(3), torch.tensor([0.0, 0, 10, 12]), 0.1)


@pytest.fixture(scope="module")
def samples():
    data = cv.CategoryViews("mug", range(3), side=64, length=10, seed=5)
    return data, [data[i] for i in range(6)]


def test_samples_repeat_and_differ(samples):
    data, rows = samples
    again = data[1]
    assert all(torch.equal(again[k], rows[1][k]) for k in again)
    assert not torch.equal(rows[0]["image"], rows[1]["image"])
    assert not torch.equal(rows[0]["image"][0], rows[0]["image"][1])
    assert len(data) == 10
    assert {int(r["label"]) for r in rows} <= {0, 1, 2}


def test_samples_hold_what_they_say(samples):
    _, rows = samples
    for row in rows:
        assert row["image"].shape == (2, 3, 64, 64)
        assert row["rgba"].shape == (2, 4, 64, 64)
        colour, alpha = row["rgba"][:, :3], row["rgba"][:, 3:]
        assert bool((colour <= alpha + 1e-6).all())
        model = cv.instance("mug", int(row["label"]))
        assert float(row["size"]) == pytest.approx(view_ops.size_of(model))
        seen = row["visible"]
        assert not bool((seen & (alpha[:, 0] == 0)).any())
        whole = torch.tensor([0.0, 0.0, 64.0, 64.0])
        pose = view_ops.pose_from_view(view_ops.view_of(row["view"]), row["K"], whole, row["size"])
        assert torch.allclose(pose, row["cam_from_obj"], atol=1e-5)
        for k in range(2):  # the outline is where the pose says
            pixels = camera.project(se3.transform(row["cam_from_obj"][k], model.vertices), row["K"][k])
            v, u = (alpha[k, 0] > 0).nonzero().float().unbind(-1)
            inside = (pixels > 0).all() and (pixels < 63).all()
            if bool(inside):
                for axis, found in ((0, u), (1, v)):
                    assert float(found.amin()) == pytest.approx(float(pixels[:, axis].amin()), abs=1.5)
                    assert float(found.amax()) == pytest.approx(float(pixels[:, axis].amax()), abs=1.5)


def test_handles_are_seen_from_their_side_and_hidden_from_the_other():
    mug, K, box = (
        cv.instance("mug", 1),
        torch.tensor([[500.0, 0, 31.5], [0, 500.0, 31.5], [0, 0, 1]]),
        torch.tensor([0.0, 0, 64, 64]),
    )
    angles = [(0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0), (90.0, 70.0)]  # the camera stands at -Y, -X, +Y, +X; above
    view = torch.tensor([[math.radians(a), math.radians(e), 0.0, 0.0, 0.0, 0.8] for a, e in angles])
    poses = view_ops.pose_from_view(view_ops.view_of(view), K, box, view_ops.size_of(mug))
    share = cv.handle_share(mug, poses, K.expand(5, 3, 3), 64).tolist()
    assert share[1] == 0
    assert min(share[0], share[2], share[3], share[4]) > 0.03
    silhouette = cv.cut_out(mug, poses, K.expand(5, 3, 3), 64)[:, 3] > 0.5
    left, right = (silhouette[0][:, part].sum() for part in (slice(0, 32), slice(32, 64)))
    assert right > left  # from the front the handle is on the right
    bowl = cv.instance("bowl", 1)
    assert float(cv.handle_share(bowl, view_ops.pose_from_view(view_ops.view_of(view[:1]), K, box, 0.3), K[None], 64)) == 0


def test_poses_stand_on_tables_all_around():
    data = cv.CategoryViews(
        "bowl", [1], side=16, seed=1, config=cv.ViewConfig(elevation_deg=(10, 60), inplane_deg=4, covered=0)
    )
    views = torch.cat([data[i]["view"] for i in range(40)])
    assert len(torch.unique((views[:, 0] / (math.pi / 4)).floor())) == 8
    assert float(views[:, 1].min()) >= math.radians(10) - 1e-3
    assert float(views[:, 1].max()) <= math.radians(60) + 1e-3
    assert float(views[:, 2].abs().max()) <= math.radians(12) + 1e-3
    assert float(views[:, 3:5].abs().max()) < 0.6
    assert 0.4 < float(views[:, 5].min()) < float(views[:, 5].max()) < 1.4


def test_allocentric_angles_do_not_change_across_the_photo():
    """Moved about the camera's centre, the object looks the same and so has the same view but for its shift."""
    K, box = _photo(), torch.tensor([0.0, 0.0, 640.0, 640.0], dtype=torch.float64)
    R = viewpoints.rotation_of(torch.tensor([2.0, 0.3, 0.0], dtype=torch.float64))
    ahead = se3.from_rt(R, torch.tensor([0.0, 0, 1.0], dtype=torch.float64))
    aside = (
        se3.from_rt(rotation.so3_exp(torch.tensor([0.0, 0.4, 0.0], dtype=torch.float64)), torch.zeros(3, dtype=torch.float64))
        @ ahead
    )
    a, b = (view_ops.view_parameters(p, K, box, 0.2) for p in (ahead, aside))
    assert torch.allclose(torch.stack(a[:3]), torch.stack(b[:3]))
    assert float(b.shift[0]) > 0.5


def test_no_instance_is_refused():
    with pytest.raises(ValueError, match="at least one instance of mug"):
        cv.CategoryViews("mug", [])


def test_kept_views_are_rendered_once_and_then_come_from_the_file(tmp_path, monkeypatch):
    drawn = cv.CategoryViews("mug", [3, 5], 32, length=40, seed=1)
    kept = cv.CachedViews(drawn, tmp_path / "views.bin", 2)
    first = [kept[i] for i in range(12)]
    monkeypatch.setattr(cv.CategoryViews, "pair", lambda *_: pytest.fail("rendered again"))
    again = cv.CachedViews(drawn, tmp_path / "views.bin", 2)
    for i, sample in enumerate(first):
        for name, value in again[i].items():
            assert torch.equal(value, sample[name])
        assert sample["image"].shape == (2, 3, 32, 32)
        assert not torch.equal(sample["view"][0], sample["view"][1])
    with pytest.raises(ValueError, match="delete it to make them anew"):
        cv.CachedViews(drawn, tmp_path / "views.bin", 4)
    with pytest.raises(ValueError, match="even number"):
        cv.CachedViews(drawn, tmp_path / "other.bin", 3)


def test_kept_views_are_what_was_rendered():
    import tempfile

    import numpy as np

    drawn = cv.CategoryViews("can", [2], 32, length=4)
    with tempfile.TemporaryDirectory() as folder:
        sample = cv.CachedViews(drawn, f"{folder}/views.bin", 2)[0]
    exact = drawn.pair(2, np.random.default_rng((0, 0, 41)))
    order = [int((exact["view"][:, 0] - v[0]).abs().argmin()) for v in sample["view"]]
    for name in ("view", "visible", "rgba", "handle"):
        assert (exact[name][order].float() - sample[name].float()).abs().max() < 1 / 500
