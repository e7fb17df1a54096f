"""Scores as probabilities: closed forms, forecasters that are right or too sure, the file beside the weights, the pipeline."""

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import binomtest, chi2

from evaluation.test_bop import EYE, make_dataset, results, shifted, targets
from monopose import cli, viz, weights
from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import writing
from monopose.evaluation import calibration, scores, tables
from monopose.evaluation.calibration import Isotonic, Logistic
from monopose.geometry import rotation, se3
from monopose.io.files import digest_of
from monopose.objects import calibrate, coordinates, pipeline
from monopose.objects import calibration as calibration_file
from monopose.objects.calibration import Calibration
from monopose.synthesis import bop_folder
from monopose.types import PoseEstimates
from objects.test_pipeline import BOXES, CAMERA, IDS, OBJECTS, fake, save
from shapes import box, half_turn


def forecaster(truth, n=6000, seed=0):
    """Scores of all sizes, what came true with probability `truth(score)`, and scenes of ten each."""
    rng = np.random.default_rng(seed)
    s = rng.uniform(0.02, 0.98, n)
    return s, rng.random(n) < truth(s), np.arange(n) // 10


# ------------------------------------------------------------------------------------------------------------- measures


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 10), (1, 1), (40, 365)])
def test_wilson_intervals_are_scipys(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert np.array(calibration.wilson(hits, count)) == pytest.approx([expected.low, expected.high], abs=1e-6)


def test_wilson_intervals_at_the_ends():
    z = 1.959964
    low, high = calibration.wilson([0, 0], [10, 0])
    assert low.tolist() == [0, 0]
    assert high == pytest.approx([z**2 / (10 + z**2), 1])


def test_reliability_in_closed_form():
    s = np.array([0.15, 0.15, 0.15, 0.15, 0.75, 0.75, 1.0])
    found = calibration.reliability(s, [1, 0, 0, 0, 1, 0, 1])
    assert found.estimates == 7
    assert found.right == pytest.approx(3 / 7)
    assert found.ece == pytest.approx((4 * 0.10 + 2 * 0.25 + 0) / 7)
    assert found.ace == pytest.approx((0.85 + 3 * 0.15 + 0.25 + 0.75) / 7)  # seven bins of one: the plain differences
    assert found.brier == pytest.approx((0.85**2 + 3 * 0.15**2 + 0.25**2 + 0.75**2) / 7)
    expected = -(np.log(0.15) + 3 * np.log(0.85) + np.log(0.75) + np.log(0.25) + np.log(1 - 1e-6)) / 7
    assert found.log_loss == pytest.approx(expected)
    assert [b.estimates for b in found.bins] == [0, 4, 0, 0, 0, 0, 0, 2, 0, 1]
    assert found.bins[1][2:5] == (4, pytest.approx(0.15), 0.25)
    assert np.isnan(found.bins[0].right)
    assert (found.bins[0].lower, found.bins[0].upper) == (0, 1)
    json.dumps(found.as_dict(), allow_nan=False)
    assert "0.7 - 0.8" in tables.reliability_text(found)
    assert "0.2 - 0.3" not in tables.reliability_text(found)


def test_nothing_and_what_is_no_probability():
    assert calibration.reliability([], []).ece == 0
    with pytest.raises(ValueError, match=r"0 to 1\.2"):
        calibration.reliability([0.0, 1.2], [0, 1])
    with pytest.raises(ValueError, match=r"both, got \(2,\) and \(1,\)"):
        calibration.reliability([0.0, 1.0], [0])


# ----------------------------------------------------------------------------------------------------------------- maps


def test_a_calibrated_forecaster_is_left_alone():
    s, right, scene = forecaster(lambda s: s)
    found = calibration.fit(s, right, scene)
    assert found.before.ece < 0.02
    assert found.after.ece < 0.02
    assert (found.map.slope, found.map.offset) == (pytest.approx(1, abs=0.06), pytest.approx(0, abs=0.06))
    at = np.linspace(0.05, 0.95, 19)
    assert calibration.fit_isotonic(s, right)(at) == pytest.approx(at, abs=0.06)


def test_a_forecaster_who_is_too_sure_is_mended():
    s, right, scene = forecaster(lambda s: expit(0.5 * logit(s) - 1))
    found = calibration.fit(s, right, scene)
    assert found.before.ece > 0.15
    assert found.before.score > found.before.right + 0.15
    assert found.after.ece < 0.025
    assert found.after.brier < found.before.brier
    assert found.after.log_loss < found.before.log_loss
    assert (found.map.slope, found.map.offset) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1, abs=0.06))


def test_steps_ask_for_the_isotonic_map():
    s, right, scene = forecaster(lambda s: np.where(s < 0.5, 0.1, 0.2) + 0.7 * (s > 0.8))
    found = calibration.fit(s, right, scene)
    assert isinstance(found.map, Isotonic)
    assert found.log_loss["isotonic"] < found.log_loss["logistic"]
    assert found.map([0.3, 0.65, 0.9]) == pytest.approx([0.1, 0.2, 0.9], abs=0.04)


def test_few_estimates_get_two_parameters():
    s, right, scene = forecaster(lambda s: expit(0.5 * logit(s) - 1), n=60)
    assert isinstance(calibration.fit(s, right, scene).map, Logistic)
    with pytest.raises(ValueError, match="9 estimates are too few"):
        calibration.fit(s[:9], right[:9], scene[:9])


@pytest.mark.parametrize("value", [0, 1])
def test_all_wrong_and_all_right(value):
    s = np.linspace(0.1, 0.9, 50)
    for function in (calibration.fit_logistic, calibration.fit_isotonic):
        p = function(s, np.full(50, value))(s)
        assert np.abs(p - value).max() < 0.03
        assert (np.diff(p) > 0).all()
    tied = calibration.fit_isotonic(np.full(20, 0.4), [1, 0, 0, 0] * 5)
    assert tied([0.1, 0.4, 0.9]) == pytest.approx([5.5 / 21] * 3, abs=2e-3)


@pytest.mark.parametrize("function", [calibration.fit_logistic, calibration.fit_isotonic])
def test_the_order_of_scores_stays_so_ap_does_too(function):
    s, right, _ = forecaster(lambda s: 0.3 + 0.3 * (s > 0.7), n=800)
    p = function(s, right)(s).astype(np.float32)  # as they are stored
    order = np.argsort(-s, kind="stable")
    assert (np.argsort(-p, kind="stable") == order).all()
    assert (p >= 0).all()
    assert (p <= 1).all()
    assert scores.average_precision(right[np.argsort(-p, kind="stable")], 500) == scores.average_precision(right[order], 500)


def test_maps_in_closed_form():
    assert Logistic(1.0, 0.0)([0.0, 0.2, 0.5, 1.0]) == pytest.approx([0, 0.2, 0.5, 1], abs=1e-5)
    assert Logistic(2.0, -1.0)(0.5) == pytest.approx(1 / (1 + np.e))
    found = Isotonic((0.2, 0.4), (0.1, 0.5))
    assert found([0.0, 0.2, 0.3, 0.4, 1.0]) == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5], abs=1e-3)
    for wrong in (
        lambda: Logistic(-1.0, 0.0),
        lambda: Isotonic((0.2, 0.2), (0.1, 0.1)),
        lambda: Isotonic((0.1, 0.2), (0.5, 0.4)),
    ):
        with pytest.raises(ValueError, match="map needs"):
            wrong()
    with pytest.raises(ValueError, match="covariance_scale must be"):
        Calibration(covariance_scale=0.0)


# ---------------------------------------------------------------------------------------------------------- covariances


def drawn(covariance, n=2000, seed=0):
    """True poses around an estimate, as the covariance has it."""
    est = se3.from_rt(rotation.so3_exp(torch.tensor([0.3, -0.4, 0.5]).double()), torch.tensor([0.1, -0.2, 0.9]).double())
    step = np.random.default_rng(seed).multivariate_normal(np.zeros(6), covariance, n)
    return est.numpy(), se3.retract(est.expand(n, 4, 4), torch.from_numpy(step)).numpy()


COVARIANCE = np.diag([1e-6, 4e-6, 1e-4, 1e-4, 4e-4, 2e-4]) + 1e-7
ALONE = np.eye(4)[None]


def test_a_right_covariance_covers_what_it_says():
    est, true = drawn(COVARIANCE)
    d = np.array([calibration.mahalanobis(est, t, COVARIANCE, ALONE) for t in true])
    assert d.mean() == pytest.approx(6, rel=0.05)
    assert calibration.coverage(d) == {
        "50": pytest.approx(0.5, abs=0.03),
        "90": pytest.approx(0.9, abs=0.02),
        "95": pytest.approx(0.95, abs=0.02),
    }
    scale, after = calibration.fit_covariance_scale(d, np.arange(len(d)))
    assert scale == pytest.approx(1, abs=0.1)
    assert after["90"] == pytest.approx(0.9, abs=0.02)


def test_a_covariance_that_is_too_small_is_mended():
    est, true = drawn(COVARIANCE)
    d = np.array([calibration.mahalanobis(est, t, COVARIANCE / 25, ALONE) for t in true])
    assert calibration.coverage(d)["95"] < 0.1
    scale, after = calibration.fit_covariance_scale(d, np.arange(len(d)) // 7)
    assert scale == pytest.approx(25, rel=0.1)
    assert [after[k] for k in ("50", "90", "95")] == pytest.approx([0.5, 0.9, 0.95], abs=0.03)


def test_long_tails_are_shared_out_among_the_ellipsoids():
    """A fifth of the errors is four times as wide: no factor fits, and no ellipsoid may be off by much."""
    est, true = drawn(COVARIANCE)
    d = np.array([calibration.mahalanobis(est, t, COVARIANCE, ALONE) for t in true]) * np.where(np.arange(len(true)) % 5, 1, 16)
    scale, after = calibration.fit_covariance_scale(d, np.arange(len(d)))
    assert 1.2 < scale < 4
    assert np.abs([after[k] - float(k) / 100 for k in ("50", "90", "95")]).max() < 0.2
    plain, shares = calibration.coverage(d), np.array([0.5, 0.9, 0.95])
    assert ((np.array([*after.values()]) - shares) ** 2).sum() < ((np.array([*plain.values()]) - shares) ** 2).sum()


def test_mahalanobis_in_closed_form():
    est, covariance = np.eye(4), np.diag([1, 4, 9, 0.01, 0.04, 0.09]) * 1e-4
    true = np.eye(4)
    true[:3, 3] = [0.01, 0.02, 0.03]
    assert calibration.mahalanobis(est, true, covariance, ALONE) == pytest.approx(3)
    turned = se3.from_rt(rotation.so3_exp(torch.tensor([0.0, 0.004, 0.0]).double()), torch.zeros(3).double()).numpy()
    assert calibration.mahalanobis(est, turned, covariance, ALONE) == pytest.approx(4)
    group = np.stack([np.eye(4), half_turn(1).numpy()])  # a half turn about y that looks the same
    assert calibration.mahalanobis(est, turned @ half_turn(1).double().numpy(), covariance, group) == pytest.approx(4)
    for bad in (np.full((6, 6), np.inf), np.zeros((6, 6)), -np.eye(6)):
        assert np.isnan(calibration.mahalanobis(est, true, bad, ALONE))
    assert np.isnan(calibration.coverage([np.nan])["50"])
    assert calibration.coverage([1.0, np.nan, chi2.ppf(0.92, 6)]) == {"50": 0.5, "90": 0.5, "95": 1.0}
    assert calibration.fit_covariance_scale([np.nan], [0])[0] == 1


# ------------------------------------------------------------------------------------------------------- file, pipeline

BOTH = Calibration(Isotonic((0.1, 0.9), (0.2, 0.6)), Logistic(0.5, -1.0), 16.0, {}, {"scenes": {"images": 3}}, looks=6)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder)
    writing.write_models(folder / "objects", OBJECTS)
    return folder


def files(run):
    """The networks in use: those of the run, and the silhouettes of the base."""
    base = weights.base("silhouettes")
    return ({} if base is None else {"silhouettes": base}) | {p.stem: p for p in run.glob("*.safetensors")}


def stamped(run):
    return replace(BOTH, weights={name: calibration_file.digest_of(path) for name, path in files(run).items()})


def test_the_file_brings_back_what_was_written(run):
    written = stamped(run)
    path = calibration_file.write(run, written)
    assert path == run / "calibration.json"
    assert calibration_file.read(run, files(run)) == written
    for part in (replace(written, detector=None), replace(written, boxes=None)):
        calibration_file.write(run, part)
        assert calibration_file.read(run, files(run)) == part
    assert not list(run.glob(".*"))


def test_a_calibration_of_other_weights_is_not_used(run):
    calibration_file.write(run, stamped(run))
    save(run, visible_weight=2.0)
    with pytest.warns(UserWarning, match=r"other weights \(coordinates\), so scores stay raw.*monopose calibrate"):
        assert pipeline.load(run, "cpu").calibration is None
    calibration_file.write(run, stamped(run))
    save(run, "detector")
    with pytest.warns(UserWarning, match=r"other weights \(detector\)"):
        assert calibration_file.read(run, files(run)) is None


def test_refined_poses_have_maps_and_a_factor_of_their_own(run):
    refined = Calibration(None, Logistic(2.0, 1.0), 4.0, {"refiner": "abc"}, looks=6)
    both = replace(BOTH, refined=refined)
    pose, score = torch.eye(4).repeat(3, 1, 1), torch.tensor([0.9, 0.4, 0.9])
    done = torch.tensor([True, True, False])
    poses = PoseEstimates(torch.tensor([1, 2, 1]), pose, score, torch.eye(6).repeat(3, 1, 1), refined=done)
    given = both.applied(poses, None)
    better, plain = refined.boxes(score.numpy()), BOTH.boxes(score.numpy())
    assert given.scores.tolist() == pytest.approx([better[0], better[1], plain[2]])
    assert given.covariance[:, 0, 0].tolist() == [4, 4, BOTH.covariance_scale]
    assert given.calibrated
    # not asked to refine, or nothing known of refined poses: the maps of unrefined ones; then their covariances stay raw
    assert both.applied(replace(poses, refined=None), None).scores.tolist() == pytest.approx(plain.tolist())
    unknown = BOTH.applied(poses, None)
    assert unknown.scores.tolist() == pytest.approx(plain.tolist())
    assert unknown.covariance[:, 0, 0].tolist() == [1, 1, BOTH.covariance_scale]
    # the file brings it back, for this refiner only
    (run / "refiner.safetensors").write_bytes(b"some refiner")
    written = replace(stamped(run), refined=replace(refined, weights={"refiner": digest_of(run / "refiner.safetensors")}))
    written = replace(written, weights={k: v for k, v in written.weights.items() if k != "refiner"})
    calibration_file.write(run, written)
    assert calibration_file.read(run, files(run)) == written
    (run / "refiner.safetensors").write_bytes(b"another one")
    with pytest.warns(UserWarning, match="made with another refiner.*raw covariances.*monopose calibrate"):
        assert calibration_file.read(run, files(run)) == replace(written, refined=None)
    calibration_file.write(run, replace(written, refined=None))
    with pytest.warns(UserWarning, match="made without refiner"):
        assert calibration_file.read(run, files(run)) == replace(written, refined=None)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"event": "x", "weights": {}, "detector": {"spline": {}}, "boxes": null}'])
def test_a_broken_file_is_named(run, text):
    (run / "calibration.json").write_text(text)
    with pytest.raises(ValueError, match=r"calibration\.json is not a calibration"):
        pipeline.load(run, "cpu")


@pytest.mark.usefixtures("no_base")
def test_the_pipeline_applies_it(run, monkeypatch):
    def predict(*args, **kwargs):
        poses, traces = fake()(*args, **kwargs)
        return replace(poses, covariance=torch.eye(6).repeat(len(poses), 1, 1)), traces

    monkeypatch.setattr(coordinates, "predict_traced", predict)
    monkeypatch.setattr(pipeline.Pipeline, "detect", lambda *_: BOXES)
    frame = pipeline.Frame(torch.rand(3, *CAMERA.size), CAMERA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = pipeline.load(run, "cpu")
    assert raw.calibration is None
    before = raw.predict(frame, BOXES)
    assert before.scores.tolist() == pytest.approx([0.9, 0.4])
    assert float(before.covariance[0, 0, 0]) == 1
    calibration_file.write(run, stamped(run))
    model = pipeline.load(run, "cpu")
    given, found = model.predict(frame, BOXES), model.predict(frame)
    assert given.scores.tolist() == pytest.approx(expit(0.5 * logit([0.9, 0.4]) - 1).tolist(), abs=1e-6)
    assert found.scores.tolist() == pytest.approx([0.6, 0.35], abs=1e-3)
    for poses in (given, found):
        assert poses.labels.tolist() == before.labels.tolist()
        torch.testing.assert_close(poses.covariance, 16 * before.covariance)
        torch.testing.assert_close(poses.cam_from_obj, before.cam_from_obj)
        assert poses.scores.dtype == before.scores.dtype
    with pytest.warns(UserWarning, match=r"calibrated with 6 look\(s\) .* so with 1 they stay raw"):
        once = model.predict(frame, looks=1)
    assert once.scores.tolist() == before.scores.tolist()
    assert replace(BOTH, looks=1).applied(before, 1).scores[0] != before.scores[0]
    none = Calibration().applied(before, 1)
    torch.testing.assert_close(none.scores, before.scores)
    assert len(BOTH.applied(before[:0], 6)) == 0


# ------------------------------------------------------------------------------------------------------------ the command


class Believer:
    """Answers with true poses, right with probability `score ** 2`, half a diameter off otherwise."""

    def __init__(self, monkeypatch):
        self.rng, self.truth = np.random.default_rng(0), None
        drawn_frame = bop_folder.Frames.__getitem__

        def remember(frames, n):
            item = drawn_frame(frames, n)
            self.truth = item[0].instances
            return item

        monkeypatch.setattr(bop_folder.Frames, "__getitem__", remember)
        monkeypatch.setattr(pipeline.Pipeline, "predict", lambda model, frame, boxes=None: self.answer(model, frame, boxes))

    def answer(self, model, frame, boxes):
        assert model.calibration is None
        assert frame.instances is None
        labels, pose = self.truth.labels, self.truth.cam_from_obj.clone()
        score = torch.from_numpy(self.rng.uniform(0.05, 0.95, len(labels))).float()
        wrong = torch.from_numpy(self.rng.random(len(labels)) > score.numpy() ** 2)
        noise = 0.002 * self.rng.standard_normal((len(labels), 3))
        pose[:, :3, 3] += torch.from_numpy(noise).float() + torch.tensor([0.07, 0, 0]) * wrong[:, None]
        covariance = torch.diag(torch.tensor([4e-6] * 3 + [1e-4] * 3)).repeat(len(labels), 1, 1)
        return PoseEstimates(labels, pose, score, covariance)


@pytest.mark.slow
@pytest.mark.usefixtures("no_base")
def test_calibrate_learns_what_scores_mean(run, tmp_path, monkeypatch, capsys):
    writing.write_camera(run / "camera.json", CAMERA)
    believer = Believer(monkeypatch)
    code = cli.main(["calibrate", str(run), "--data", str(run / "objects"), "--images", "60", "--out", str(tmp_path / "a.png")])
    assert code == 0
    said = capsys.readouterr().out
    assert "rendered" in said
    assert "photos  " not in said
    found = calibration_file.read(run, files(run))
    assert found.detector is None  # the run has none
    at = np.array([0.3, 0.6, 0.9])
    assert found.boxes(at) == pytest.approx(at**2, abs=0.17)
    notes = json.loads((run / "calibration.json").read_text())
    assert notes["scenes"]["images"] == 60
    before, after = notes["measured"]["boxes"]["ece"]
    assert before > 0.1
    assert after < before
    assert pipeline.load(run, "cpu").calibration == found
    assert believer.truth is not None
    from PIL import Image

    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height >= 600
    # the same again gives the same, although the run has a calibration now
    Believer(monkeypatch)
    report = calibrate.run(run, run / "objects", images=60, progress_bar=False)
    assert report.fits["boxes"].map == found.boxes
    assert report.photos == {}


@pytest.mark.slow
def test_calibrate_learns_what_refined_poses_are_worth(run, monkeypatch):
    """The refiner here mends every pose of object 2, half a diameter off or not, and leaves those of others."""
    writing.write_camera(run / "camera.json", CAMERA)
    shutil.copyfile(weights.base("refiner"), run / "refiner.safetensors")
    believer = Believer(monkeypatch)

    def refine(network, frame, poses, models):
        done = poses.labels == 2
        truth = believer.truth.cam_from_obj[: len(poses)]
        covariance = torch.diag(torch.tensor([1e-6] * 6)).repeat(len(poses), 1, 1)
        mended = torch.where(done[:, None, None], truth, poses.cam_from_obj)
        mended[:, :3, 3] += torch.from_numpy(0.002 * believer.rng.standard_normal((len(poses), 3))).float()
        return replace(poses, cam_from_obj=mended, covariance=covariance, refined=done)

    monkeypatch.setattr(calibrate.refinement, "predict", refine)
    report = calibrate.run(run, run / "objects", images=60, progress_bar=False)
    assert set(report.fits) == {"boxes", "refined boxes"}
    found = pipeline.load(run, "cpu").calibration  # of the refiner that this run has, without a warning
    assert found.refined is not None
    assert found.refined.detector is None
    at = np.array([0.3, 0.6, 0.9])
    assert (found.refined.boxes(at) > 0.9).all()
    assert found.boxes(at) == pytest.approx(at**2, abs=0.17)
    assert found.refined.covariance_scale > 2 * found.covariance_scale
    assert "elsewhere, refined" in report.text()
    assert set(json.loads((run / "calibration.json").read_text())["coverage"]) == {"", "refined"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_base")
def test_calibrate_reports_on_photos_without_fitting_to_them(run, tmp_path, monkeypatch):
    """The photos here are rendered: what matters is that they come from a split of the data."""
    data = bop_folder.write_bop(
        list(OBJECTS.values()), tmp_path / "data", images=3, camera=CAMERA, split="test", workers=0, seed=5
    )
    plain = calibrate.collect

    def answers(model, frames, objects, seed, first=0):
        found = plain(model, frames, objects, seed, first)
        n = 40
        some = calibrate.Samples(
            *(np.resize(column, n) if len(column) else np.zeros(n) for column in found["boxes"].__dict__.values())
        )
        return {"boxes": replace(some, scene=np.arange(n), score=np.linspace(0.1, 0.9, n), error=np.linspace(0.5, 0, n))}

    monkeypatch.setattr(calibrate, "collect", answers)
    alone = calibrate.run(run, data, images=2, progress_bar=False)
    both = calibrate.run(run, data, images=2, targets="test_targets_bop19.json", progress_bar=False)
    assert both.fits["boxes"].map == alone.fits["boxes"].map
    assert both.scale == alone.scale
    assert set(both.photos) == {"boxes"}
    assert both.photos["boxes"][1].ece <= both.photos["boxes"][0].ece
    assert {state: set(when) for state, when in both.photo_coverage.items()} == {"": {"before", "after"}}
    assert "photos" in both.text()
    json.dumps(both.as_dict()["photos"])


def test_shards_of_a_calibration(run, monkeypatch, tmp_path, capsys):
    """Answers that depend on the pictures alone: shared by two processes, they give the same file."""

    def answers(model, frames, objects, seed, first=0):
        scene = np.repeat(first + np.arange(sum(1 for _ in frames)), 8)
        rng = np.random.default_rng(first)
        score = rng.uniform(0.05, 0.95, len(scene))
        error = np.where(rng.random(len(scene)) < score, 0.01, 0.3)
        error[0] = np.inf
        squared = np.where(np.isinf(error), np.nan, rng.chisquare(6, len(scene)))
        return {"boxes": calibrate.Samples(scene, scene * 0 + 2, score, error, squared)}

    monkeypatch.setattr(calibrate, "collect", answers)
    monkeypatch.setattr(bop_folder.Frames, "__getitem__", lambda frames, n: (None, None))
    words = ["calibrate", str(run), "--data", str(run / "objects"), "--images", "25"]
    assert cli.main(words) == 0
    whole = (run / "calibration.json").read_text()
    (run / "calibration.json").unlink()
    assert cli.main([*words, "--shard", "2/2"]) == 0
    assert cli.main(["merge", str(run)]) == 1
    assert "2 of 3 are missing" in capsys.readouterr().err
    assert cli.main([*words, "--shard", "1/2"]) == 0
    assert not (run / "calibration.json").exists()
    assert cli.main(["merge", str(run)]) == 0
    assert (run / "calibration.json").read_text() == whole
    assert not (run / ".partial").exists()


def test_calibrate_names_what_is_missing(run, tmp_path):
    writing.write_models(tmp_path / "models", {2: box(obj_id=2)})
    with pytest.raises(ValueError, match=r"no CAD model for object\(s\) \[5\]"):
        calibrate.run(run, tmp_path / "models", images=2, progress_bar=False)
    assert IDS == (2, 5)


# ------------------------------------------------------------------------------------------------- results and pictures


@pytest.fixture
def cubes(tmp_path):
    data = make_dataset(
        tmp_path / "cubes", {7: [(1, EYE, (0, 0, 1000)), (1, EYE, (300, 0, 1000))], 8: [(2, EYE, (0, 0, 1000))]}
    )
    rows = [
        (7, 1, 0.9, EYE, (300, 0, 1000)), (7, 1, 0.8, EYE, shifted(0.099)), (7, 1, 0.7, EYE, shifted(0.101)),
        (8, 1, 0.6, EYE, (0, 0, 1000)), (9, 1, 0.5, EYE, (0, 0, 1000)),
    ]  # fmt: skip
    return data, results(*rows), targets((7, 1, 2), (8, 2, 1))


def test_which_estimates_of_a_file_are_right(cubes):
    found, right = calibration.of_results(cubes[1], cubes[0], cubes[2])
    assert found.tolist() == [0.9, 0.8, 0.7, 0.6]  # picture 9 was not asked for
    assert right.tolist() == [True, True, False, False]  # object 1 is not in picture 8


def test_evaluate_draws_the_diagram(cubes, tmp_path, capsys):
    file = bop_results.write_results(tmp_path / "mine_cubes-test.csv", cubes[1])
    ask = tmp_path / "targets.json"
    ask.write_text(json.dumps([{"scene_id": 4, "im_id": 7, "obj_id": 1, "inst_count": 2}]))
    words = ["evaluate", str(file), "--data", str(cubes[0]), "--targets", str(ask), "--reliability", str(tmp_path / "a.png")]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["reliability"]
    assert (found["estimates"], found["right"]) == (3, pytest.approx(2 / 3))
    assert (tmp_path / "a.png").is_file()
    assert cli.main(words) == 0
    assert "3 estimates, mean score 0.800, 0.667 right" in capsys.readouterr().out


def test_the_diagram_shows_shares_intervals_and_counts(charts):
    scores = np.concatenate([np.full(50, 0.85), np.full(30, 0.25)])
    found = calibration.reliability(scores, np.arange(80) < 10)
    picture = viz.reliability_diagram(found, "title")
    assert picture.size == (500, 600)
    upper, lower = charts[0].axes
    dots = {round(x, 3): y for x, y in np.asarray(upper.collections[-1].get_offsets())}
    assert dots == {0.85: pytest.approx(0.2), 0.25: pytest.approx(0.0)}
    assert sum(bar.get_height() for bar in lower.patches) == len(scores)
    full = [b for b in found.bins if b.estimates]
    whiskers = [c for c in upper.collections if c.get_label() == "_nolegend_" or len(c.get_paths()) == len(full)]
    ends = np.array([path.vertices[:, 1] for c in whiskers for path in c.get_paths() if len(path.vertices) == 2])
    assert ends == pytest.approx(np.array([[b.lower, b.upper] for b in full]))
    assert upper.get_title() == "title"
    assert "80 estimates: 0.12 right" in upper.texts[0].get_text()


def test_the_diagram_tints_the_side_where_scores_promise_too_much():
    def pixels(s, right):
        return np.asarray(viz.reliability_diagram(calibration.reliability(s, right))).astype(int)

    low, none = pixels(np.full(50, 0.85), np.arange(50) < 10), pixels([], [])  # nothing to show is no error
    for picture in (low, none):
        assert picture[300, 420, 0] > picture[300, 420, 2] + 15  # tinted below the diagonal
        assert (picture[200, 120] > 250).all()  # white above
