"""A prediction of a whole split that is killed goes on where it stopped; two at once are not let in."""

import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import torch

from monopose.datasets.bop import results, scenes, writing
from monopose.objects import bop_pipeline
from monopose.types import Camera, Frame, PoseEstimates

CAMERA = Camera(torch.tensor([[100.0, 0, 16], [0, 100, 12], [0, 0, 1]]), (24, 32))


def split(folder, count):
    """A data set of `count` black pictures, with object 1 to be found in each."""
    writing.append_frames(folder / "test" / "000000", [Frame(torch.zeros(3, 24, 32), CAMERA)] * count)
    numbers = np.arange(count)
    writing.write_targets(folder / "targets.json", scenes.Targets(numbers * 0, numbers, numbers * 0 + 1, numbers * 0 + 1))


def run_of(folder, at):
    """What `predict_bop` needs of a run; `at` is called with the number of every picture."""

    def predict(frame, *_):
        at(frame.im_id)
        pose = torch.eye(4)[None]
        pose[:, 2, 3] = 1 + frame.im_id
        labels = torch.ones(1).long()
        trace = SimpleNamespace(detections=SimpleNamespace(labels=labels), solved=labels)
        return PoseEstimates(labels, pose, torch.ones(1), seconds={"pnp": 0.5}), trace

    config, mesh = SimpleNamespace(obj_ids=(1,)), SimpleNamespace(digest="a")
    return SimpleNamespace(
        path=folder, estimator=SimpleNamespace(config=config), models={1: mesh}, refines=lambda refine: False,
        predict_counted=predict,
    )  # fmt: skip


def test_a_killed_prediction_goes_on(tmp_path, child, monkeypatch, names):
    monkeypatch.setattr(bop_pipeline, "SAVED_EVERY", 2)
    data, out = tmp_path / "data", tmp_path / "out" / "mine_tiny-test.csv"
    split(data, 5)

    def predict(at):
        return lambda say: bop_pipeline.predict_bop(run_of(tmp_path, lambda i: at(say, i)), data, data / "targets.json", out)

    killed = child(predict(lambda say, i: (say(str(i)), time.sleep(600 if i == 3 else 0))))
    killed.line("3")
    status, text = child(predict(lambda say, i: None)).wait()
    assert status == 1
    assert f"is in use: process {killed.pid} on " in text
    assert f"is writing {out.name} there" in text
    killed.send(signal.SIGKILL)
    killed.wait()
    assert not out.exists()
    assert child(predict(lambda say, i: say(str(i)))).wait() == (0, "2\n3\n4")  # the third was not yet kept
    assert results.read_results(out).t[:, 2].tolist() == [1, 2, 3, 4, 5]
    assert names(out.parent) == {out.name, "mine_tiny-test.found.json"}
    assert len(os.listdir(out.parent)) == 2
