"""A training in several processes: what they learn together, and what is left when one of them dies."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny_training
from monopose.training import loop

STEPS = 5
CODE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from training import test_processes
test_processes.without_chance()
draw = test_processes.tiny_training.Numbers.__getitem__

def killed(data, i):
    if os.environ["SLURM_PROCID"] == "1" and i >= 14:  # in the fourth step
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(data, i)

test_processes.tiny_training.Numbers.__getitem__ = killed
test_processes.note_averages(sys.argv[2] + "_averages")
test_processes.learn(sys.argv[2], batch_size=2)
"""


class Plain(tiny_training.Net):
    def __init__(self, config):
        super().__init__(config)
        self.drop = nn.Identity()


def without_chance(patch=setattr):
    patch(tiny_training, "Net", Plain)


def note_averages(folder):
    """Let every process keep its averaged weights after each step."""
    averaging, averages = loop.lightning_callbacks.WeightAveraging, {}
    update = averaging.on_train_batch_end

    def noted(self, trainer, module, *rest):
        update(self, trainer, module, *rest)
        averages[module.steps] = {k: v.clone() for k, v in self._average_model.module.model.state_dict().items()}
        Path(folder).mkdir(exist_ok=True)
        torch.save(averages, Path(folder) / f"{trainer.global_rank}.pt")

    averaging.on_train_batch_end = noted


def learn(out, **changes):
    return tiny_training.learn(out, **{"steps": STEPS, "lr": 0.1, "checkpoint_minutes": 0.0, **changes})


def state_of(out):
    return torch.load(Path(out) / "checkpoints/tiny/last.ckpt", weights_only=True)


def same(a, b):
    """Learned and averaged parameters, to float32's rounding of sums in another order."""
    for key in ("state_dict", "current_model_state"):
        assert a[key].keys() == b[key].keys()
        for name, value in a[key].items():
            torch.testing.assert_close(value, b[key][name], atol=2e-6, rtol=2e-6)


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """One process with batches of four."""
    without_chance(monkeypatch.setattr)
    learn(tmp_path / "whole", batch_size=4)
    return state_of(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_learn_as_one_and_a_killed_one_ends_both(whole, tmp_path):
    """Three steps by two with batches of two, the second killed in the fourth; the rest by one with batches of four."""
    out = tmp_path / "shared"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        place = {
            "NTASKS": 2,
            "NTASKS_PER_NODE": 2,
            "PROCID": rank,
            "LOCALID": rank,
            "NODEID": 0,
            "NNODES": 1,
            "JOB_NAME": "train",
        }
        place = {f"SLURM_{k}": v for k, v in place.items()}  # as srun does; that torchrun works says tests/road
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        env = os.environ | {k: str(v) for k, v in place.items()}
        words = [sys.executable, "-c", CODE, str(Path(__file__).parents[1]), str(out)]
        started.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in started]
    assert started[1].returncode == -9, said[1][-2000:]
    assert started[0].returncode == 1, said[0][-2000:]  # it does not wait for the dead
    there = state_of(out)
    assert (there["global_step"], there["seen"]) == (3, 12)
    assert not list(out.rglob(".*"))  # no lock, nothing half written
    first, second = (torch.load(f"{out}_averages/{rank}.pt", weights_only=True) for rank in range(2))
    assert sorted(first) == sorted(second) == [1, 2, 3]
    for step, averaged in first.items():
        assert all(torch.equal(value, second[step][name]) for name, value in averaged.items())
    learn(out, batch_size=4)
    same(state_of(out), whole)


@pytest.mark.parametrize(("cuda", "half"), [(False, False), (True, False), (True, True)])
def test_what_many_gpus_do(monkeypatch, tmp_path, cuda, half):
    """Twelve processes on three machines as SLURM starts them: DDP, batch norm and precision as the hardware has them."""
    for name, number in (("SLURM_NTASKS", "12"), ("SLURM_NTASKS_PER_NODE", "4")):
        monkeypatch.setenv(name, number)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: half)
    monkeypatch.setattr(loop.L, "Trainer", lambda **options: options)
    monkeypatch.setattr(loop, "_ema", lambda decay: None)
    config = loop.TrainConfig(steps=1)
    found = loop._trainer(tmp_path, "tiny", config, lambda state: None, None, 0, takes_turns=False, half_on_cpu=False)
    assert (found["devices"], found["num_nodes"], found["strategy"]) == (4, 3, "ddp")
    assert found["sync_batchnorm"] is cuda
    assert found["precision"] == ("bf16-mixed" if half else "32-true")


def test_processes_that_see_their_own_gpu_alone_are_told(monkeypatch, tmp_path):
    for name, number in (("SLURM_NTASKS", "8"), ("SLURM_NTASKS_PER_NODE", "8"), ("SLURM_LOCALID", "3")):
        monkeypatch.setenv(name, number)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert loop._ema(0.9)._device == torch.device("cuda", 3)  # where the network of this process is
    with pytest.raises(ValueError, match=r"8 processes .* this one sees 1: .* under SLURM with --gpus-per-node 8"):
        loop._trainer(tmp_path, "tiny", loop.TrainConfig(steps=1), lambda state: None, None, 0, False, False)


def test_gradients_of_several_batches_are_added_up(whole, tmp_path):
    learn(tmp_path / "added", batch_size=2, accumulate=2)
    found = state_of(tmp_path / "added")
    assert (found["global_step"], found["seen"]) == (STEPS, 4 * STEPS)
    same(found, whole)


def test_a_run_that_goes_on_sees_the_samples_that_it_would_have_seen(whole, tmp_path):
    learn(tmp_path / "twice", batch_size=4, steps=2)
    state = state_of(tmp_path / "twice")
    assert state["seen"] == 8
    learn(tmp_path / "twice", batch_size=4)
    assert state_of(tmp_path / "twice")["seen"] == 4 * STEPS


def test_compiling_is_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(type(self).__name__))
    learn(tmp_path / "plain", steps=1)
    assert asked == []
    learn(tmp_path / "compiled", steps=1, compile=True)
    assert asked == ["Net"]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_samples(world):
    parts = [list(loop._Share(100, 24, 4, rank, world)) for rank in range(world)]
    assert sorted(i for part in parts for i in part) == list(range(100, 124))
    batches = [part[k : k + 4] for k in range(0, 24 // world, 4) for part in parts]
    assert [i for batch in batches for i in batch] == list(range(100, 124))  # in turns
    assert all(len(part) == len(loop._Share(100, 24, 4, 0, world)) for part in parts)
