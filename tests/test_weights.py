import importlib
import json
import os
from dataclasses import dataclass, field
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import save as as_bytes
from torch import nn

from monopose import __version__, weights
from monopose.io import hub


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Config:
    size: tuple[int, int] = (128, 128)  # pixels
    width: float = 1.0
    labels: tuple[int, ...] = ()
    crop: tuple[float, float] | None = None
    inner: Inner = field(default_factory=Inner)
    names: dict[int, str] = field(default_factory=dict)
    backbone: str | None = None


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_round_trip(tmp_path):
    model = _model()
    config = Config(size=(96, 64), labels=(5, 8), crop=(1.5, 2.0), inner=Inner((3, 4)), names={5: "can"}, backbone="resnet18")
    path = weights.save(
        tmp_path / "coordinates.safetensors",
        model.state_dict(),
        method="coordinates",
        config=config,
        labels=(5, 8),
        notes={"minutes": "3"},
    )
    found = weights.read(path)
    assert (found.method, found.labels, found.version, found.notes) == ("coordinates", (5, 8), __version__, {"minutes": "3"})
    assert weights.build_config(Config, found.config) == config
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    weights.load_into(other, found)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_half_is_smaller_close_and_keeps_vectors_and_large_values(tmp_path):
    state = {
        "kernel": torch.randn(64, 64, generator=torch.Generator().manual_seed(0)),
        "running_var": torch.tensor([1e-7, 1e9]),
        "large": torch.full((2, 2), 7e4),
        "count": torch.tensor(3),
    }
    whole = weights.save(tmp_path / "a.safetensors", state, method="m", config={})
    small = weights.save(tmp_path / "b.safetensors", state, method="m", config={}, half=True)
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    back = weights.read(small).state
    assert back["kernel"].dtype == torch.float32
    torch.testing.assert_close(back["kernel"], state["kernel"], rtol=2**-11, atol=1e-7)
    for name in ("running_var", "large", "count"):
        assert torch.equal(back[name], state[name]), name


def test_tied_and_non_contiguous_tensors_are_stored(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    path = weights.save(tmp_path / "a.safetensors", {"a": shared, "b": shared, "c": shared.T}, method="m", config={})
    assert torch.equal(weights.read(path).state["c"], shared.T)


def test_mismatch_lists_missing_unexpected_and_shapes():
    model = _model()
    state = dict(model.state_dict())
    state["0.kernel"] = state.pop("0.weight")
    state["2.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match="do not fit") as caught:
        weights.load_into(model, weights.Checkpoint("m", {}, (), state, version="0.0.1"))
    message = str(caught.value)
    assert "1 missing: 0.weight" in message
    assert "1 unexpected: 0.kernel" in message
    assert "2.bias (file (7,), model (2,))" in message
    assert "monopose 0.0.1" in message


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_truncated_file(tmp_path, keep):
    path = weights.save(tmp_path / "a.safetensors", _model().state_dict(), method="m", config={})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.safetensors is not a whole safetensors file .*cut off.*copy it again"):
        weights.read(path)


def test_file_of_another_program(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="no method, config, labels in its header"):
        weights.read(tmp_path / "a.safetensors")


def test_nan_in_weights_is_refused_by_name(tmp_path):
    state = _model().state_dict()
    state["2.weight"][1, 2] = torch.nan
    path = weights.save(tmp_path / "a.safetensors", state, method="m", config={})
    with pytest.raises(ValueError, match=r"a\.safetensors: the weights '2\.weight' hold NaN or infinity"):
        weights.read(path)


def test_more_parameters_than_the_limit(tmp_path, monkeypatch):
    path = weights.save(tmp_path / "a.safetensors", {"a": torch.zeros(50, 30)}, method="m", config={})
    monkeypatch.setenv("MONOPOSE_MAX_PARAMETERS", "1000")
    with pytest.raises(ValueError, match=r"asks for 1500 parameters of a network, .* MONOPOSE_MAX_PARAMETERS"):
        weights.read(path)


@dataclass(frozen=True)
class Wide:
    widths: tuple[int, ...] = (8,)


def _wide(config: Wide) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width) for width in config.widths))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"widths": [1_000_000] * 4}, r"asks for a far larger network than the 72 parameters .*widths=\[1000000"),
        ({"widths": [100] * 100_000}, r"asks for a far larger network than the 72 parameters"),
        ({"widths": [-8]}, r"its configuration builds no network \(RuntimeError"),
        ({"widths": ["8"]}, r"field widths must be of type int, got '8'"),
        ({"widths": 8}, r"field widths must be a list, got 8"),
        ([1], r"config must hold a JSON object, got list"),
    ],
)
def test_configurations_that_ask_for_another_network(tmp_path, config, message):
    path = weights.save(tmp_path / "a.safetensors", _wide(Wide()).state_dict(), method="m", config=Wide())
    assert weights.load_network(path, "m", Wide, _wide)(torch.ones(1, 8)).shape == (1, 8)
    header = {"method": "m", "config": json.dumps(config), "labels": "[]"}
    path.write_bytes(as_bytes(_wide(Wide()).state_dict(), metadata=header))
    with pytest.raises(ValueError, match=message):
        weights.load_network(path, "m", Wide, _wide)


def test_weights_of_another_method_are_refused(tmp_path):
    path = weights.save(tmp_path / "a.safetensors", _wide(Wide()).state_dict(), method="box3d", config=Wide())
    assert weights.read(path, "box3d").method == weights.read(path).method == "box3d"
    with pytest.raises(
        ValueError, match=r"a\.safetensors holds the weights of the method 'box3d', expected those of 'category'"
    ):
        weights.load_network(path, "category", Wide, _wide)


@pytest.mark.parametrize(
    ("family", "file", "beside"),
    [
        ("objects", "coordinates", None), ("objects", "probabilistic", None), ("objects", "detector", "coordinates"),
        ("objects", "refiner", "coordinates"), ("category", "category", None), ("road", "box3d", None),
        ("viewpoint", "viewpoint", None),
    ],
)  # fmt: skip
def test_no_run_takes_weights_of_another_method(tmp_path, monkeypatch, family, file, beside):
    """Files as a slip with `cp` leaves them. What stands beside them is not what is tried here."""
    for name, method in ((file, "normals"), (beside, beside)):
        if name is not None:
            weights.save(tmp_path / f"{name}.safetensors", {"a": torch.zeros(1)}, method=method, config={})
    load = weights.load_network
    monkeypatch.setattr(weights, "load_network", lambda path, *rest: load(path, *rest) if path.stem == file else MagicMock())
    module = importlib.import_module(f"monopose.{family}.pipeline")
    with pytest.raises(ValueError, match=rf"{file}\.safetensors holds .* 'normals', expected those of '{file}'"):
        module.load(tmp_path)


@pytest.mark.parametrize("labels", ["[1.5]", "{", "7", "[" * 100_000])
def test_labels_that_are_no_ids(tmp_path, labels):
    path = tmp_path / "a.safetensors"
    path.write_bytes(as_bytes({"a": torch.zeros(1)}, metadata={"method": "m", "config": "{}", "labels": labels}))
    with pytest.raises(ValueError, match=r"a\.safetensors, labels"):
        weights.read(path)


def test_unknown_config_field_is_an_error():
    with pytest.raises(ValueError, match=r"file x has unknown fields widht; .*Config has size, width"):
        weights.build_config(Config, {"widht": 1.0}, "file x")


def test_note_cannot_overwrite_the_header(tmp_path):
    with pytest.raises(ValueError, match="'method'"):
        weights.save(tmp_path / "a.safetensors", {}, method="m", config={}, notes={"method": "x"})


def test_find_run(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "part"
    path = weights.save(run / "coordinates.safetensors", {}, method="coordinates", config={})
    (run / ".coordinates.1-2.safetensors").touch()
    assert weights.find_run(run) == weights.find_run(path) == run
    assert weights.weights_in(run) == {"coordinates": path}
    with pytest.raises(FileNotFoundError, match=r"no trained run .*prat.*holds the folders part.*monopose train"):
        weights.find_run(tmp_path / "runs" / "prat")
    (tmp_path / "runs" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no weights .*nothing at all"):
        weights.find_run(tmp_path / "runs" / "empty")
    toys = tmp_path / "assets" / "toys"
    weights.save(toys / "coordinates.safetensors", {}, method="coordinates", config={})
    monkeypatch.setattr(hub, "ASSETS", tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    assert weights.find_run("toys") == toys


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_the_file_is_the_umasks_to_say(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = weights.save(tmp_path / "a.safetensors", {"w": torch.ones(2)}, method="m", config={})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
