"""The training loop: it goes on after a kill, keeps to its budget, runs in two processes and refuses what does not fit."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from monopose import weights
from monopose.datasets.bop import writing
from monopose.detection import detector
from monopose.objects import coordinates, training
from monopose.synthesis import bop_folder
from monopose.types import Camera
from shapes import box

IDS = (2, 5)
TINY = {
    "coordinates": coordinates.Config(
        IDS, pretrained=False, input_size=64, output_size=32, widths=(16, 16, 16, 16), symmetry_steps=4
    ),
    "detector": detector.small(IDS, image_height=64, image_width=64, pretrained=False, channels=16),
}
FEW = training.TrainConfig(steps=3, batch_size=2, workers=0, checkpoint_minutes=1e6)


def run(data, out, method="coordinates", config=None, **changes):
    """A training of seconds; `changes` are fields of `TrainConfig`, also used by the script below."""
    return training.train(
        method, data, out, config=replace(FEW, **changes), method_config=config or TINY[method], progress_bar=False
    )  # fmt: skip


SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
from objects import test_training
test_training.run(**json.loads(sys.argv[1]))
"""


def command(*launcher, **arguments):
    """The same in a process of its own."""
    code = Path(arguments["out"]).parent / "script.py"
    code.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1])))
    return [
        sys.executable,
        *launcher,
        str(code),
        json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}),
    ]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of two boxes with four pictures in its split `train`."""
    K = torch.tensor([[110.0, 0.0, 63.5], [0.0, 110.0, 47.5], [0.0, 0.0, 1.0]])
    return bop_folder.write_bop(
        [box(obj_id=2), box((0.05, 0.07, 0.06), obj_id=5)], tmp_path_factory.mktemp("data"),
        images=4, camera=Camera(K, (96, 128)), workers=0, seed=1,
    )  # fmt: skip


def last(out, method="coordinates"):
    return torch.load(out / "checkpoints" / method / "last.ckpt", weights_only=True, map_location="cpu", mmap=True)


@pytest.mark.slow
def test_killed_training_goes_on_where_it_stopped(data, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(command(data=data, out=out, steps=100_000, checkpoint_minutes=0.0, workers=1), env=ONE_THREAD)
    file, whole = out / "coordinates.safetensors", 0
    checkpoint = out / "checkpoints/coordinates/last.ckpt"
    try:
        for _ in range(6000):
            assert process.poll() is None, "the training ended by itself"
            if file.is_file():  # while it is being rewritten after every step
                notes = weights.read(file).notes
                whole += 1
                if int(notes["steps"]) >= 3 and whole >= 3:
                    break
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert weights.read(file).labels == IDS
    saved = last(out)
    reached = int(saved["global_step"])
    assert reached >= 3
    spent = float(saved["spent"])

    # the average is what is predicted with, the raw weights are what learning goes on from
    name = "model.net.head.weight"
    average, raw = saved["state_dict"][name], saved["current_model_state"][name]
    assert not torch.equal(average, raw)
    assert float((average - raw).abs().max()) < 0.1

    assert run(data, out, steps=reached + 2) == file
    now = weights.read(file)
    assert int(now.notes["steps"]) == reached + 2
    assert last(out)["spent"] > spent
    assert last(out)["global_step"] == reached + 2
    for key, value in last(out)["state_dict"].items():
        kept = key.removeprefix("model.")
        if kept in now.state:
            torch.testing.assert_close(now.state[kept], value, rtol=2**-10, atol=1e-6, check_dtype=False)
    assert {p.name for p in (out / "objects").iterdir()} >= {"models_info.json", "obj_000002.ply", "obj_000005.ply"}
    assert checkpoint.is_file()


@pytest.mark.slow
def test_a_finished_run_goes_on_when_it_is_given_more(data, tmp_path):
    run(data, tmp_path, steps=2)
    assert weights.read(tmp_path / "coordinates.safetensors").notes["steps"] == "2"
    before = weights.read(tmp_path / "coordinates.safetensors").state["net.head.weight"]
    run(data, tmp_path, steps=4)
    after = weights.read(tmp_path / "coordinates.safetensors")
    assert after.notes["steps"] == "4"
    assert not torch.equal(before, after.state["net.head.weight"])


@pytest.mark.slow
def test_minutes_are_a_budget(data, tmp_path):
    file = run(data, tmp_path, steps=1_000_000, minutes=0.03)  # 1.8 seconds
    steps = int(weights.read(file).notes["steps"])
    assert 1 <= steps < 100_000
    assert last(tmp_path)["spent"] >= 1.8


@pytest.mark.slow
def test_the_learning_rate_rises_falls_and_is_half_for_the_backbone(data, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run(data, tmp_path, steps=8, warmup=0.25, lr=0.01)
    head = [r[0] for r in rates]
    assert len(head) == 8
    assert all(b == pytest.approx(0.5 * a) for a, b in rates)
    assert head[0] == pytest.approx(0.01 * 1e-3)
    assert head[1] == pytest.approx(0.01 * 0.5)
    assert head[4] == pytest.approx(0.01 * 0.5)  # half-way down the cosine
    assert head[2] > head[3] > head[4] > head[5] > head[6] > head[7] > 0


@pytest.mark.parametrize("method", ["coordinates", "detector"])
def test_both_methods_learn_from_a_written_split(data, tmp_path, method):
    out = tmp_path / "run"
    file = training.train(
        method,
        data,
        out,
        split="train",
        config=replace(FEW, steps=2, workers=1),
        method_config=TINY[method],
        progress_bar=False,
    )
    checkpoint = weights.read(file)
    assert checkpoint.method == method
    assert checkpoint.labels == IDS
    assert weights.build_config(type(TINY[method]), checkpoint.config) == TINY[method]
    assert checkpoint.notes["steps"] == "2"


def test_the_detector_learns_from_drawn_scenes(data, tmp_path):
    assert weights.read(run(data, tmp_path, "detector", steps=2)).notes["steps"] == "2"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["coordinates", "detector"])
def test_half_precision_on_a_cpu_changes_the_arithmetic_alone(data, tmp_path, monkeypatch, method):
    seen, states = [], []
    forward = training.METHODS[method].recipe.loss

    def loss(model, output, batch):
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(model, output, batch)

    recipe = training.METHODS[method].recipe._replace(loss=loss)
    monkeypatch.setitem(training.METHODS, method, training.METHODS[method]._replace(recipe=recipe))
    for half in (False, True):
        monkeypatch.setattr("monopose.training.loop.multiplies_bfloat16", lambda half=half: half)
        run(data, tmp_path / str(half), method, steps=2)
        states.append(last(tmp_path / str(half), method)["state_dict"])
    assert seen == [False, False, True, True]
    full, half = ({k: v for k, v in s.items() if v.is_floating_point()} for s in states)
    assert all(v.dtype == torch.float32 for v in half.values())
    moved = max(float((half[k] - v).abs().max() / (1 + v.abs().max())) for k, v in full.items())
    assert 0 < moved < 0.05  # steps of Adam are of one size whatever the gradient: signs of small ones may differ


@pytest.mark.slow
def test_the_adversarial_run_counts_batches_and_leaves_the_discriminator_out(data, tmp_path):
    file = run(data, tmp_path, config=replace(TINY["coordinates"], adversarial_weight=0.01), steps=3)
    found = weights.read(file)
    assert found.notes["steps"] == "3"
    assert not [name for name in found.state if name.startswith("discriminator")]
    assert len(last(tmp_path)["optimizer_states"]) == 2
    moments = last(tmp_path)["optimizer_states"][1]["state"]
    assert {int(m["step"]) for m in moments.values()} == {3}


def _losses(monkeypatch, spoil):
    """Let `spoil(n)` say whether the n-th loss is NaN."""
    count = iter(range(10**6))
    entry = training.METHODS["coordinates"]

    def loss(model, output, batch):
        losses = entry.recipe.loss(model, output, batch)
        return {**losses, "coordinates": losses["coordinates"] * float("nan")} if spoil(next(count)) else losses

    monkeypatch.setitem(training.METHODS, "coordinates", entry._replace(recipe=entry.recipe._replace(loss=loss)))


def test_gradients_that_are_not_finite_are_skipped(data, tmp_path, monkeypatch):
    _losses(monkeypatch, lambda n: n % 2 == 0)
    found = weights.read(run(data, tmp_path, steps=3))
    assert found.notes["steps"] == "3"
    assert all(bool(torch.isfinite(v).all()) for v in found.state.values() if v.is_floating_point())


@pytest.mark.slow
def test_when_no_gradient_is_finite_training_says_so(data, tmp_path, monkeypatch):
    _losses(monkeypatch, lambda n: n > 0)
    with pytest.raises(FloatingPointError, match="not finite 20 times in a row; lower the learning rate"):
        run(data, tmp_path, steps=100)


def test_a_truncated_checkpoint_is_named(data, tmp_path):
    run(data, tmp_path, steps=1)
    path = tmp_path / "checkpoints/coordinates/last.ckpt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read .*delete it to go on from .*, or restore a copy"):
        run(data, tmp_path, steps=2)
    path.unlink()
    assert weights.read(run(data, tmp_path, steps=1)).notes["steps"] == "1"


def test_a_run_of_another_configuration_is_refused(data, tmp_path):
    run(data, tmp_path, steps=1)
    before = (tmp_path / "coordinates.safetensors").read_bytes()
    with pytest.raises(
        ValueError, match=r"coordinates\.json belongs to a run with another configuration; choose another --out"
    ):
        run(data, tmp_path, config=replace(TINY["coordinates"], crop_scale=1.7))
    assert (tmp_path / "coordinates.safetensors").read_bytes() == before


def test_bad_arguments_are_answered(data, tmp_path):
    with pytest.raises(ValueError, match="unknown method 'coordinate'; choose one of coordinates, probabilistic, refiner"):
        run(data, tmp_path, "coordinate", config=TINY["coordinates"])
    with pytest.raises(ValueError, match=r"no CAD model for object\(s\) \[99\]"):
        training.train("coordinates", data, tmp_path, obj_ids=(2, 99), config=FEW, progress_bar=False)
    assert not (tmp_path / "objects").exists()


def test_objects_are_thinned_for_training_only(data, tmp_path):
    writing.write_models(tmp_path / "models", {2: box(obj_id=2, cells=20)})
    (model,) = training.read_objects(tmp_path, (), 500).values()
    assert len(model.faces) <= 500
    assert len(training.read_objects(tmp_path)[2].faces) == 6 * 2 * 20 * 20
    camera = training.read_data_camera(tmp_path)
    assert camera.size == (480, 640)
    assert training.read_data_camera(data).size == (96, 128)


@pytest.mark.slow
def test_two_processes_train_one_model(data, tmp_path):
    """DDP through torchrun, gloo on the CPU."""
    out = tmp_path / "run"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        command(*launcher, data=data, out=out, steps=3, minutes=5), env=ONE_THREAD, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = weights.read(out / "coordinates.safetensors")
    assert found.notes["steps"] == "3"
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoints",
        "coordinates.json",
        "coordinates.safetensors",
        "logs",
        "objects",
        "progress.jsonl",
    ]
    assert last(out)["global_step"] == 3
