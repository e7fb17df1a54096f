"""A training that is killed, interrupted, started twice or finds no room: what was learned stays, and nothing else."""

import os
import signal
import time
from dataclasses import dataclass

import torch
from torch import nn

from monopose import weights
from monopose.training import loop


@dataclass(frozen=True)
class Config:
    width: int = 2000


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.line = config, nn.Linear(1, config.width)

    def forward(self, image):
        return self.line(image)


class Samples(torch.utils.data.Dataset):
    """Numbers; calls `at` with the index of each."""

    def __init__(self, length, at):
        self.length, self.at = length, at

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        self.at(i)
        return {"image": torch.full((1,), i % 7 / 7)}


RECIPE = loop.Recipe(("image",), lambda model, output, batch: {"square": (output - 3).square().mean()})


def fit(out, steps, at=lambda i: None, workers=0, checkpoint_minutes=0.0):
    config = loop.TrainConfig(steps=steps, batch_size=2, workers=workers, checkpoint_minutes=checkpoint_minutes)
    return loop.fit(
        "toy", RECIPE, Config(), lambda: Model(Config()), lambda length, seed: Samples(length, at), out, config, data=out,
        progress_bar=False,
    )  # fmt: skip


def learned(out):
    return int(weights.read(out / "toy.safetensors").notes["steps"])


def pieces(found):
    """Names without those of the logs."""
    return {name for name in found if not name.startswith("logs/")}


WHOLE = {"toy.json", "toy.safetensors", "checkpoints/toy/last.ckpt"}


def test_one_training_in_a_folder_killed_and_gone_on_with(tmp_path, child, names):
    out = tmp_path / "run"

    def stay(say):
        fit(out, 1000, lambda i: (say(str(i)), time.sleep(600 if i > 7 else 0)), workers=1)

    first = child(stay)
    first.line("8")  # the worker is ahead of what is learned
    while not (out / "toy.safetensors").is_file():
        time.sleep(0.01)
    status, text = child(lambda say: fit(out, 3)).wait()
    assert status == 1
    assert f"{out} is in use: process {first.pid} on " in text
    assert "is writing toy there" in text
    first.send(signal.SIGKILL)
    first.wait()
    (out / "checkpoints" / "toy" / ".last.part-00000000-1-00000000.ckpt").write_text("of a kill in the middle of writing")
    os.utime(out / "checkpoints" / "toy" / ".last.part-00000000-1-00000000.ckpt", (0, 0))
    reached = learned(out)
    assert reached >= 1
    assert child(lambda say: fit(out, reached + 2)).wait() == (0, "")  # at once, though workers may still be there
    assert learned(out) == reached + 2
    assert pieces(names(out)) == WHOLE


def test_an_interrupted_training_saves_what_it_has_learned(tmp_path, child, names):
    def interrupt(i):
        if i == 6:
            signal.raise_signal(signal.SIGINT)

    def work(say):
        try:
            fit(tmp_path, 1000, interrupt, checkpoint_minutes=1e6)
        finally:
            say(str(signal.getsignal(signal.SIGINT) is signal.default_int_handler))

    status, text = child(work).wait()
    assert (status, text.split()) == (1, ["True", "KeyboardInterrupt:"])  # not SystemExit, and Ctrl-C works again
    assert learned(tmp_path) == 3
    assert pieces(names(tmp_path)) == WHOLE
    assert child(lambda say: fit(tmp_path, 5)).wait() == (0, "")
    assert learned(tmp_path) == 5


def test_interrupted_before_it_has_learned_anything_it_leaves_no_weights(tmp_path, child, names):
    status, text = child(lambda say: fit(tmp_path, 9, lambda i: signal.raise_signal(signal.SIGINT))).wait()
    assert (status, text) == (1, "KeyboardInterrupt:")
    assert pieces(names(tmp_path)) == {"toy.json"}


def test_a_training_on_a_full_disk_keeps_the_last_checkpoint(tmp_path, child, names):
    assert child(lambda say: fit(tmp_path, 2)).wait() == (0, "")
    before = {name: (tmp_path / name).read_bytes() for name in WHOLE}
    status, text = child(lambda say: fit(tmp_path, 4), most_bytes=60_000).wait()
    assert status == 1
    assert "OSError: [Errno 28] the disk is full" in text
    assert "last.ckpt; the old file is unchanged" in text
    assert {name: (tmp_path / name).read_bytes() for name in WHOLE} == before
    assert pieces(names(tmp_path)) == WHOLE
    assert child(lambda say: fit(tmp_path, 4)).wait() == (0, "")
    assert learned(tmp_path) == 4
