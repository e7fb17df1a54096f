"""What a training says about itself: the lines in its file, its verdict, Ctrl-C, and going on without a checkpoint."""

import json
import signal

import pytest
import torch

from monopose import weights
from monopose.training import loop, progress
from tiny_training import Config, learn


@pytest.fixture(autouse=True)
def _whenever(monkeypatch):
    """Measurements may take all of the time."""
    monkeypatch.setattr(loop, "EVALUATION_SHARE", 1e9)


def lines_of(values, **more):
    return [
        {"method": "x", "step": i, "crops": 8 * i, "minutes": 10.0 * (i + 1), "crops_per_second": 3.0, "loss": v, "error": v}
        | more
        for i, v in enumerate(values)
    ]


def test_a_measurement_every_few_minutes_is_kept_as_a_json_line(tmp_path):
    learn(tmp_path, steps=3, evaluate_minutes=0.0)
    lines = [json.loads(text) for text in (tmp_path / progress.FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["crops"] for line in lines] == [2, 4, 6]
    assert all(line["method"] == "tiny" and line["right"] == 0.25 and line["loss"] > 0 for line in lines)
    assert lines[0]["minutes"] <= lines[1]["minutes"] <= lines[2]["minutes"]
    # the averaged weights are measured, in evaluation mode
    assert [line["mode"] for line in lines] == [0.0] * 3
    assert lines[-1]["weight"] == pytest.approx(float(weights.read(tmp_path / "tiny.safetensors").state["layer.weight"][0, 0]))


def test_measuring_changes_nothing_of_what_is_learned(tmp_path):
    for name, minutes in (("often", 0.0), ("once", 1e6)):
        learn(tmp_path / name, steps=4, evaluate_minutes=minutes)
    often, once = (weights.read(tmp_path / name / "tiny.safetensors").state for name in ("often", "once"))
    assert all(torch.equal(often[key], once[key]) for key in once)


def test_a_training_that_goes_on_continues_its_lines(tmp_path):
    learn(tmp_path, steps=2, evaluate_minutes=0.0)
    early = (tmp_path / progress.FILE).read_text()
    beyond = json.loads(early.splitlines()[-1]) | {"step": 9}  # learned after the last checkpoint, and lost
    other = {"method": "other", "step": 9, "minutes": 1.0}
    with open(tmp_path / progress.FILE, "a") as file:
        file.write(f'{json.dumps(other)}\n{json.dumps(beyond)}\n{{"method": "ti')
    assert len(progress.read(tmp_path)) == 4  # the last line was cut off by a kill
    learn(tmp_path, steps=4, evaluate_minutes=0.0)
    assert [line["step"] for line in progress.read(tmp_path, "tiny")] == [1, 2, 3, 4]
    assert progress.read(tmp_path, "other") == [other]
    assert (tmp_path / progress.FILE).read_text().startswith(early)


def test_without_its_checkpoint_a_training_goes_on_from_the_weights(tmp_path):
    file = learn(tmp_path, steps=3)
    before = weights.read(file)
    (tmp_path / "checkpoints/tiny/last.ckpt").unlink()
    written = file.stat().st_mtime_ns
    assert learn(tmp_path, steps=3) == file
    assert file.stat().st_mtime_ns == written  # nothing left to do
    learn(tmp_path, steps=4, lr=1e-9)
    after = weights.read(file)
    assert after.notes["steps"] == "4"
    assert float(after.notes["minutes"]) >= float(before.notes["minutes"])
    torch.testing.assert_close(after.state["layer.weight"], before.state["layer.weight"], atol=1e-5, rtol=0)
    learn(tmp_path, steps=6)  # with the checkpoint that was written meanwhile
    assert weights.read(file).notes["steps"] == "6"
    (tmp_path / "checkpoints/tiny/last.ckpt").unlink()
    (tmp_path / "tiny.json").unlink()
    with pytest.raises(ValueError, match=r"tiny\.safetensors belongs to a run with another configuration"):
        learn(tmp_path, Config(width=3), steps=7)
    weights.save(file, after.state, method="other", config=after.config)
    with pytest.raises(
        ValueError, match=r"tiny\.safetensors holds the weights of the method 'other', expected those of 'tiny'"
    ):
        learn(tmp_path, steps=7)


def test_ctrl_c_saves_says_so_and_the_next_one_works(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may start without
    with pytest.raises(KeyboardInterrupt, match=rf"saved after 2 steps in {tmp_path}; the same command goes on"):
        learn(tmp_path, steps=9, interrupted_at=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert weights.read(tmp_path / "tiny.safetensors").notes["steps"] == "2"
    learn(tmp_path, steps=3)
    assert weights.read(tmp_path / "tiny.safetensors").notes["steps"] == "3"
    with pytest.raises(KeyboardInterrupt, match="nothing was learned yet"):
        learn(tmp_path / "new", steps=9, interrupted_at=0)


def test_on_the_screen_are_our_lines_alone(tmp_path, capfd, recwarn):
    learn(tmp_path, steps=2, evaluate_minutes=0.0, progress_bar=True)
    said = capfd.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("tiny after ") and "right in 2 of 10 held-out renderings" in line for line in lines)
    assert not recwarn.list


@pytest.mark.parametrize(
    "values, better",
    [
        ([1, 0.9, 0.8], None),
        ([1, 0.8, 0.6, 0.5, 0.4, 0.35], True),
        ([1, 0.5, 0.5, 0.5, 0.49, 0.5], False),
        ([1, 1, 1, 1], False),
    ],
)
def test_improving_compares_the_end_with_the_middle(values, better):
    assert progress.improving(lines_of(values)) is better


def test_the_verdict_is_a_sentence():
    figures = {"right": 0.7, "mm": 4.04, "deg": 3.0}
    assert progress.verdict(lines_of([1, 0.8, 0.6, 0.5, 0.4, 0.35], **figures)) == (
        "right in 7 of 10 held-out renderings, 4.04 mm and 3 degrees in the median; still improving: another hour is worth it"
    )
    assert progress.verdict(lines_of([0.5] * 6, **figures)).endswith("no longer improving: more training alone buys little")
    assert progress.verdict(lines_of([0.5] * 2, **figures)).endswith("too short to say what more training would buy")
    assert progress.figures_text({"of": 24, "right": 0.0, "mm": 1474.2, "deg": 158.3}) == (
        "right in 0 of 24 held-out renderings, 1470 mm and 160 degrees in the median"
    )
    best = progress.verdict(lines_of([0.5] * 6, right=0.98, before=0.5))
    assert best == "right in 98 of 100 held-out renderings (before: 5 of 10); more training buys little"
    detector = progress.verdict(lines_of([0.5] * 6, found=0.8, false=0.25))
    assert detector.startswith("finds 8 of 10 objects in held-out renderings, 0.25 false boxes a picture; ")
    assert progress.verdict(lines_of([1, 0.5, 0.5, 0.5, 0.49, 0.5])).startswith("loss 0.5; no longer")
    assert progress.verdict([]) == "nothing was measured"


@pytest.mark.parametrize(
    "minutes, text",
    [(0.5, "30 s"), (2, "2 minutes"), (60, "1 hour"), (75, "75 minutes"), (120, "2 hours"), (200, "3.3 hours")],
)
def test_durations(minutes, text):
    assert progress.duration(minutes) == text
