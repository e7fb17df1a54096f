import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from monopose import cli, pnp
from monopose.commands import fit_identity
from monopose.commands.fit_identity import Config
from monopose.geometry import rotation

SMALL = Config(points=16, hidden=64, poses=96, test_poses=16, epochs=4, batch_size=32, lr=3e-3, samples=32)


def _run(out, steps=None, config=SMALL, **kwargs):
    return fit_identity.run(out, steps, config, pictures=0, progress_bar=False, **kwargs)


def test_the_poses_are_those_of_the_original():
    seven = fit_identity.random_poses(20_000, torch.Generator().manual_seed(0))
    assert seven[:, :3].mean(0).tolist() == pytest.approx([0.0, 0.0, 5.0], abs=0.03)
    assert seven[:, :3].std(0).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=0.03)
    assert torch.allclose(seven[:, 3:].norm(dim=-1), torch.ones(20_000))
    pose = fit_identity.matrices(torch.tensor([1.0, 2.0, 3.0, 0.5, 0.5, -0.5, 0.5]) * torch.tensor([1, 1, 1, 2, 2, 2, 2]))
    assert pose[:3, 3].tolist() == [1.0, 2.0, 3.0]
    assert rotation.quat_wxyz_from_matrix(pose[:3, :3]).tolist() == pytest.approx([0.5, 0.5, -0.5, 0.5])
    assert Config().steps == 2560


def test_weights_are_shares_of_a_learned_scale():
    model = fit_identity.Model(12, 16)
    with torch.no_grad():
        model.log_scale.copy_(torch.tensor([0.5, -1.0]))
    points3d, points2d, weights = model(torch.randn(5, 7))
    assert (points3d.shape, points2d.shape, weights.shape) == ((5, 12, 3), (5, 12, 2), (5, 12, 2))
    assert (weights > 0).all()
    assert torch.allclose(weights.sum(1), torch.tensor([0.5, -1.0]).exp().expand(5, 2))


def test_every_parameter_gets_a_finite_gradient():
    torch.manual_seed(0)
    model = fit_identity.Model(16, 32)
    truth = fit_identity.matrices(seven := fit_identity.random_poses(8, torch.Generator().manual_seed(1)))
    found = fit_identity.losses(model, seven, truth, torch.ones(()), SMALL, torch.Generator().manual_seed(2))
    for name, value in found.items():
        grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, allow_unused=name != "monte_carlo")
        assert all(g is None or bool(torch.isfinite(g).all()) for g in grads)
        assert grads[0] is not None
        assert grads[0].abs().max() > 0


def test_the_norm_divides_the_monte_carlo_loss_only():
    torch.manual_seed(0)
    model = fit_identity.Model(16, 32)
    truth = fit_identity.matrices(seven := fit_identity.random_poses(4, torch.Generator().manual_seed(1)))
    one, two = (
        fit_identity.losses(model, seven, truth, torch.tensor(norm), SMALL, torch.Generator().manual_seed(2))
        for norm in (1.0, 2.0)
    )
    assert two["monte_carlo"].item() == pytest.approx(one["monte_carlo"].item() / 2)
    assert two["translation"].item() == one["translation"].item()
    assert two["rotation"].item() == one["rotation"].item()


@pytest.mark.slow
def test_learning_lowers_the_loss_and_the_error(tmp_path):
    before = _run(tmp_path / "before", 1)
    after = _run(tmp_path / "after", config=replace(SMALL, epochs=20))
    assert after.steps == 60
    assert after.last_loss < after.first_loss - 2
    assert after.translation < 0.7 * before.translation
    report = json.loads((tmp_path / "after" / "report.json").read_text())
    assert len(report["losses"]) == 60
    assert report["config"]["points"] == 16


def test_the_averaged_weights_are_tested_beside_the_last(tmp_path):
    def states(out):
        state = torch.load(out / "last.ckpt", weights_only=True)
        return state["model"]["net.0.weight"], state["averaged"]["net.0.weight"]

    reports = [_run(tmp_path / str(steps), steps) for steps in (1, 2)]
    (now_1, mean_1), (now_2, mean_2) = (states(tmp_path / str(steps)) for steps in (1, 2))
    start = fit_identity._new_model(SMALL, torch.Generator().manual_seed(SMALL.seed)).net[0].weight.detach()
    torch.testing.assert_close(mean_1, 0.1 * start + 0.9 * now_1)
    torch.testing.assert_close(mean_2, 2 / 11 * mean_1 + 9 / 11 * now_2)
    assert reports[1].last_translation != reports[1].translation
    plain = _run(tmp_path / "plain", 2, replace(SMALL, average=0.0))
    assert (plain.translation, plain.rotation) == (plain.last_translation, plain.last_rotation)
    assert plain.last_translation == pytest.approx(reports[1].last_translation, rel=1e-5)
    long = _run(tmp_path / "long", 10, replace(SMALL, average=0.5))
    model, averaged = fit_identity.Model(16, 64), fit_identity.Model(16, 64)
    state = torch.load(tmp_path / "long" / "last.ckpt", weights_only=True)
    model.load_state_dict(state["model"])
    averaged.load_state_dict(state["averaged"])
    tests = _tests(SMALL)
    for tested, expected in ((averaged, long.translation), (model, long.last_translation)):
        assert fit_identity.test(tested, tests)[1].mean().item() == pytest.approx(expected, rel=1e-5)


def _tests(config):
    """The test poses of a run."""
    generator = torch.Generator().manual_seed(config.seed)
    fit_identity._new_model(config, generator)
    seen = fit_identity.random_poses(config.poses, generator)
    torch.randn(seen.shape, generator=generator)
    return fit_identity.random_poses(config.test_poses, generator)


def test_a_run_that_was_interrupted_ends_where_another_does(tmp_path):
    whole = _run(tmp_path / "whole", 5)
    _run(tmp_path / "parts", 2)
    parts = _run(tmp_path / "parts", 5)
    again = _run(tmp_path / "parts", 5)
    assert parts.steps == again.steps == 5
    assert parts.last_loss == pytest.approx(whole.last_loss, rel=1e-5)
    assert parts.translation == pytest.approx(whole.translation, rel=1e-3)
    assert again.translation == parts.translation
    assert again.seconds == 0
    states = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["model"] for name in ("whole", "parts")]
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-5), name


def test_a_kill_in_the_middle_keeps_the_steps_before_it(tmp_path, monkeypatch):
    true_losses, count = fit_identity.losses, 0

    def interrupted(*args):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return true_losses(*args)

    monkeypatch.setattr(fit_identity, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, 6)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["step"] == 3
    assert _run(tmp_path, 6).steps == 6


def test_another_setting_needs_another_folder(tmp_path):
    _run(tmp_path, 1)
    with pytest.raises(ValueError, match=r"last.ckpt was begun with seed 0, now 1; .*another folder"):
        _run(tmp_path, 2, replace(SMALL, seed=1))


def test_the_posterior_is_drawn(tmp_path):
    torch.manual_seed(0)
    model = fit_identity.Model(16, 32)
    seven = fit_identity.random_poses(2, torch.Generator().manual_seed(1))
    found, shift, angle = fit_identity.test(model, seven)
    assert shift.shape == angle.shape == (2,)
    one = pnp.Solution(*(v[0] for v in found))
    first, second = (fit_identity.draw(model, seven[0], one, tmp_path / name) for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes()
    assert Image.open(first).size[0] > 900


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fit_identity, "Config", lambda seed: replace(SMALL, seed=seed))
    argv = ["fit-identity", "--out", str(tmp_path), "--steps", "2", "--pictures", "1", "--seed", "3"]
    assert cli.main([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == 2
    assert report["seed"] == 3
    assert Path(report["pictures"][0]).is_file()
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    assert re.search(r"translation  \d+\.\d+ m ", text)
    assert re.search(r"rotation     \d+\.\d+ rad", text)
