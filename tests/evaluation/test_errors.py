"""Pose errors and averages: closed forms, recorded values of the official toolkit, published tables."""

import io
import json
import zipfile

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monopose.datasets.bop import models
from monopose.evaluation import errors, scores

K = np.array([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]])


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def pose(rng, n=(), distance=1.0):
    out = np.tile(np.eye(4), (*n, 1, 1))
    out[..., :3, :3] = Rotation.random(int(np.prod(n)), rng).as_matrix().reshape(*n, 3, 3)
    out[..., :3, 3] = rng.normal(size=(*n, 3)) * 0.05 + [0, 0, distance]
    return out


def slow_mssd(P, Q, x, group):
    moved = x @ P[:3, :3].T + P[:3, 3]
    return min(np.linalg.norm(moved - x @ (Q @ S)[:3, :3].T - (Q @ S)[:3, 3], axis=1).max() for S in group)


def slow_mspd(P, Q, x, group):
    def pixels(T):
        p = (x @ T[:3, :3].T + T[:3, 3]) @ K.T
        return p[:, :2] / p[:, 2:]

    return min(np.linalg.norm(pixels(P) - pixels(Q @ S), axis=1).max() for S in group)


def test_equals_the_recorded_values_of_the_official_toolkit(oracles, shared_data):
    recorded = json.loads((oracles / "bop_errors_lmo.json").read_text())
    points = models.read_model_points(shared_data / "lmo/models_eval")
    infos = models.read_models_info(shared_data / "lmo/models_eval")
    camera = np.reshape(recorded["K"], (3, 3))

    def as_pose(R, t):
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = np.reshape(R, (3, 3)), np.array(t) * 1e-3
        return out

    for obj_id in points:
        rows = [r for r in recorded["rows"] if r["obj_id"] == obj_id]
        est = np.stack([as_pose(r["R_est"], r["t_est_mm"]) for r in rows])
        true = np.stack([as_pose(r["R_gt"], r["t_gt_mm"]) for r in rows])
        group = errors.symmetry_group(infos[obj_id].discrete, infos[obj_id].axes, infos[obj_id].offsets)
        x = points[obj_id]
        mine = {
            "add": errors.add(est, true, x) * 1e3,
            "adi": errors.add_s(est, true, x) * 1e3,
            "mssd": errors.mssd(est, true, errors.hull(x), group) * 1e3,
            "mspd": errors.mspd(est, true, x, camera, group),
            "proj": errors.projection(est, true, x, camera),
            "re_deg": np.degrees(errors.rotation(est, true)),
            "te": errors.translation(est, true) * 1e3,
        }
        for name, values in mine.items():
            np.testing.assert_allclose(values, [r[name] for r in rows], rtol=1e-6, err_msg=f"{name} of object {obj_id}")


def test_a_pure_shift_has_its_length_as_error(rng):
    true = pose(rng, (4,))
    est = true.copy()
    est[:, :3, 3] += [0.03, 0, 0.04]
    x = rng.normal(size=(50, 3)) * 0.1
    for function in (errors.add, errors.mssd):
        np.testing.assert_allclose(function(est, true, x), 0.05, rtol=1e-12)
    np.testing.assert_allclose(errors.translation(est, true), 0.05, rtol=1e-12)
    np.testing.assert_allclose(errors.rotation(est, true), 0, atol=1e-7)
    assert (errors.add_s(est, true, x) <= 0.05 + 1e-12).all()


def test_a_sideways_shift_projects_to_focal_length_times_shift_over_depth():
    true = np.eye(4)
    true[2, 3] = 2.0
    est = true.copy()
    est[0, 3] = 0.1
    flat = np.array([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]])
    np.testing.assert_allclose(errors.mspd(est, true, flat, K), 600 * 0.1 / 2)
    np.testing.assert_allclose(errors.projection(est, true, flat, K), 600 * 0.1 / 2)


def test_rotation_error_is_the_angle(rng):
    true = pose(rng, (20,))
    angles = rng.uniform(0.01, np.pi, 20)
    axes = rng.normal(size=(20, 3))
    turn = Rotation.from_rotvec(axes / np.linalg.norm(axes, axis=1, keepdims=True) * angles[:, None]).as_matrix()
    est = true.copy()
    est[:, :3, :3] = turn @ true[:, :3, :3]
    np.testing.assert_allclose(errors.rotation(est, true), angles, atol=1e-7)


@pytest.mark.parametrize("size", [1, 2, 12, 630])
def test_pruning_changes_nothing(rng, size):
    """Large symmetry groups take the short cut of bounds; the result is that of the plain loop."""
    if size == 630:
        flip = np.diag([1.0, -1, -1, 1])[None]
        group = errors.symmetry_group(flip, [[0, 0, 1]], [[0.01, 0, 0]])
        assert len(group) == 630
    else:
        group = np.concatenate([np.eye(4)[None], pose(rng, (size - 1,), distance=0.0)])
    x = rng.normal(size=(200, 3)) * [0.05, 0.05, 0.1]
    true = pose(rng, (6,))
    est = true @ group[rng.integers(len(group), size=6)]
    est[:3, :3, 3] += rng.normal(size=(3, 3)) * 0.01
    est[3:] = pose(rng, (3,))
    np.testing.assert_allclose(
        errors.mssd(est, true, x, group), [slow_mssd(P, Q, x, group) for P, Q in zip(est, true)], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        errors.mspd(est, true, x, K, group), [slow_mspd(P, Q, x, group) for P, Q in zip(est, true)], rtol=1e-9, atol=1e-9
    )


def test_a_symmetric_pose_has_no_error(rng):
    group = errors.symmetry_group(np.zeros((0, 4, 4)), [[0, 0, 2.0]], [[0.02, 0.01, 0]])
    true = pose(rng)
    x = rng.normal(size=(60, 3)) * 0.1
    assert errors.mssd(true @ group[100], true, x, group) < 1e-8
    assert errors.mssd(true @ group[100], true, x) > 0.01


def test_symmetry_group_is_that_of_geometry(rng):
    torch = pytest.importorskip("torch")
    from monopose.geometry.symmetry import transforms
    from monopose.types import Symmetries

    discrete, axes, offsets = pose(rng, (2,), 0.0), np.array([[0, 1.0, 0], [0.6, 0, 0.8]]), rng.normal(size=(2, 3))
    theirs = transforms(Symmetries(*map(torch.as_tensor, (discrete, axes, offsets))))
    np.testing.assert_allclose(errors.symmetry_group(discrete, axes, offsets), theirs.numpy(), atol=1e-12)


def test_hull_keeps_the_maximum_also_for_matrices_that_are_not_quite_rotations(rng):
    x = rng.normal(size=(500, 3))
    est, true = pose(rng, (10,)), pose(rng, (10,))
    est[:, :3, :3] *= 1 + rng.normal(size=(10, 3, 3)) * 0.01
    few = errors.hull(x)
    assert len(few) < 200
    np.testing.assert_allclose(errors.mssd(est, true, few), errors.mssd(est, true, x), rtol=1e-12)
    flat = x * [1, 1, 0]
    assert errors.hull(flat).shape == flat.shape  # no hull of a plane; all points stay


def test_add_s_limit_never_changes_a_value_below_it(rng):
    x = rng.normal(size=(1500, 3)) * 0.05
    true = pose(rng, (12,))
    est = true.copy()
    est[:, 0, 3] += np.linspace(0, 0.3, 12)
    exact, limited = errors.add_s(est, true, x), errors.add_s(est, true, x, limit=0.03)
    below = exact <= 0.03
    np.testing.assert_array_equal(limited[below], exact[below])
    assert np.isinf(limited[-1])
    assert ((limited == exact) | np.isinf(limited)).all()


def test_add_s_limit_is_sharp_on_both_sides(rng):
    """The samples, every fifth point, stick out: they are farther away than the mean of all, and no proof that all are."""
    x = np.zeros((1500, 3))
    x[:, :2] = rng.uniform(size=(1500, 2)) * 0.05
    x[::5, 2] = 0.02
    true = pose(rng, ())
    est = true.copy()
    est[:3, 3] -= 0.2 * true[:3, 2]
    exact = errors.add_s(est, true, x)
    assert 0.18 < exact < 0.19
    assert errors.add_s(est, true, x, limit=1.001 * exact) == exact
    assert errors.add_s(est, true, x, limit=0.8 * exact) == np.inf
    twice = np.repeat(np.indices((8, 8, 4)).reshape(3, -1).T.astype(float), 2, axis=0)  # every other one bounds exactly
    beside = np.eye(4)
    beside[0, 3] = 0.25
    assert errors.add_s(beside, np.eye(4), twice, limit=0.25) == 0.25  # what is at the limit is not above it


def test_broadcasting_and_torch_tensors(rng):
    torch = pytest.importorskip("torch")
    est, true, x = pose(rng, (3, 1)), pose(rng, (4,)), rng.normal(size=(9, 3)) * 0.1
    for function in (errors.add, errors.add_s, errors.mssd, errors.rotation):
        arguments = () if function is errors.rotation else (x,)
        table = function(est, true, *arguments)
        assert table.shape == (3, 4)
        one = function(torch.as_tensor(est[2, 0]), torch.as_tensor(true[1]), *map(torch.as_tensor, arguments))
        np.testing.assert_allclose(table[2, 1], one, rtol=1e-12)
    assert errors.mspd(est, true, x, K).shape == (3, 4)


def test_points_behind_the_camera_are_infinitely_wrong():
    true = np.eye(4)
    true[2, 3] = 1.0
    est = true.copy()
    est[2, 3] = -1.0
    x = np.array([[0.0, 0, 0], [0.1, 0, 0]])
    assert np.isinf(errors.mspd(est, true, x, K))
    assert np.isinf(errors.projection(est, true, x, K))


def test_messages():
    with pytest.raises(ValueError, match=r"estimated poses must be cam_from_obj matrices \(\.\.\., 4, 4\), got shape \(3, 4\)"):
        errors.add(np.zeros((3, 4)), np.eye(4), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"points must be \(N, 3\).*got \(3, 7\); transpose"):
        errors.add(np.eye(4), np.eye(4), np.zeros((3, 7)))
    with pytest.raises(ValueError, match="at least the identity"):
        errors.mssd(np.eye(4), np.eye(4), np.zeros((4, 3)), np.zeros((0, 4, 4)))


# ------------------------------------------------------------------------------------------------------------------ VSD


def wall(depth, columns):
    out = np.zeros((40, 60))
    out[10:30, columns] = depth
    return out


def test_vsd_of_walls():
    test = np.full((40, 60), 2.0)
    same = wall(1.0, slice(10, 30))
    np.testing.assert_array_equal(errors.vsd(same, same, test, K, 0.2), 0)
    shifted = wall(1.0, slice(20, 40))  # half overlaps: union 30 columns, intersection 10
    np.testing.assert_allclose(errors.vsd(shifted, same, test, K, 0.2), 20 / 30)
    np.testing.assert_array_equal(errors.vsd(wall(1.0, slice(40, 60)), same, test, K, 0.2), 1)
    ray = np.sqrt(((np.arange(60) - 320) / 600) ** 2 + ((np.arange(40)[:, None] - 240) / 610) ** 2 + 1)
    deeper = wall(1.0, slice(10, 30)) + (same > 0) * 0.031 / ray  # 31 mm along the ray, 15.5 % of the diameter
    np.testing.assert_array_equal(errors.vsd(deeper, same, test, K, 0.2), [1, 1, 1, 0, 0, 0, 0, 0, 0, 0])


def test_vsd_visibility():
    object_ = wall(1.0, slice(10, 30))
    hidden = np.full((40, 60), 0.9)
    np.testing.assert_array_equal(errors.vsd(object_, object_, hidden, K, 0.2), 1)  # nothing visible: union is empty
    hidden[:, 20:] = 0  # unknown depth counts as visible
    np.testing.assert_array_equal(errors.vsd(object_, object_, hidden, K, 0.2), 0)
    near = np.where(object_ > 0, 1.0 - 0.012, 0)
    np.testing.assert_array_equal(errors.vsd(object_, object_, near, K, 0.2), 0)  # within the 15 mm of tolerance
    np.testing.assert_array_equal(errors.vsd(object_, object_, near, K, 0.2, delta=0.005), 1)


# --------------------------------------------------------------------------------------------------------------- scores


def test_average_precision_by_hand():
    assert scores.average_precision([True, True], 2) == 1
    assert scores.average_precision([], 2) == 0
    assert scores.average_precision([False], 2) == 0
    # right, wrong, right of 2: precision 1 up to recall 0.5 (51 samples), then 2/3 (50 samples)
    np.testing.assert_allclose(scores.average_precision([True, False, True], 2), (51 + 50 * 2 / 3) / 101)
    np.testing.assert_allclose(scores.average_precision([True], 4), 26 / 101)  # recall 0.25 reached by 0 ... 0.25
    with pytest.raises(ValueError, match="n_true = 0"):
        scores.average_precision([True], 0)


def test_areas_under_the_curve_by_hand():
    # one error of 4 cm, one missing: accuracy 0.5 from 4 cm on
    np.testing.assert_allclose(scores.auc_step([0.04, np.inf]), 0.5 * 0.6)
    np.testing.assert_allclose(scores.auc_voc([0.04, np.inf]), 0.5)  # the step counts with its upper end
    assert scores.auc_step([0.0, 0.0]) == scores.auc_voc([0.0, 0.0]) == 1
    assert scores.auc_step([0.2]) == scores.auc_voc([0.2]) == scores.auc_voc([]) == 0
    many = np.random.default_rng(0).uniform(0, 0.2, 5000)
    assert 0 <= scores.auc_voc(many) - scores.auc_step(many) < 1 / 5000


@pytest.mark.slow
def test_published_ycb_video_areas(shared_data):
    """PoseCNN 53.7 / 75.9 and with ICP 79.3 / 93.0 (ADD / ADD-S, percent): all poses for ADD, every 40th for ADD-S."""
    folder = shared_data / "ycbv_mini"
    archive = zipfile.ZipFile(folder / "published_keyframe_poses/ycb-video_poses.zip")
    infos = json.loads((folder / "models/models_info.json").read_text())
    ids = {info["name"]: int(key) for key, info in infos.items()}
    points = models.read_model_points(folder / "models")

    def read(name):
        table = np.loadtxt(io.StringIO(archive.read(name).decode()), ndmin=2)
        missing = ~np.isfinite(table).all(1) | (np.abs(table[:, :4]).sum(1) < 1e-6)
        table[missing] = [1, 0, 0, 0, 0, 0, 0]
        out = np.tile(np.eye(4), (len(table), 1, 1))
        out[:, :3, :3] = Rotation.from_quat(table[:, [1, 2, 3, 0]]).as_matrix()
        out[:, :3, 3] = table[:, 4:]
        return out, missing

    for method, add, add_s in (("posecnn_rss2018", 0.537, 0.759), ("posecnn_icp_rss2018", 0.793, 0.930)):
        all_add, some_add_s = [], []
        for name in archive.namelist():
            if name.startswith(f"poses/{method}/") and name.endswith(".txt"):
                x = points[ids[name.rsplit("/", 1)[1][5:-4]]]
                (est, missing), (true, _) = read(name), read(name.replace(method, "ground_truth"))
                all_add.append(np.where(missing, np.inf, errors.add(est, true, x[::8])))
                few = errors.add_s(est[::40], true[::40], x[::2], limit=0.1)
                some_add_s.append(np.where(missing[::40], np.inf, few))
        assert len(np.concatenate(all_add)) == 14025
        assert scores.auc_voc(np.concatenate(all_add)) == pytest.approx(add, abs=0.002)
        assert scores.auc_step(np.concatenate(all_add)) == pytest.approx(add, abs=0.002)
        assert scores.auc_voc(np.concatenate(some_add_s)) == pytest.approx(add_s, abs=0.01)
