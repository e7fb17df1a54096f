"""A training of a moment, for tests of what goes on around the learning."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from monopose.training import loop


@dataclass(frozen=True)
class Config:
    width: int = 2  # of the input


class Net(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.width, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, image):
        return self.layer(self.drop(image))


class Numbers(Dataset):
    def __init__(self, width: int, length: int, seed: int) -> None:
        self.width, self.length, self.seed = width, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int):
        return {"image": torch.randn(self.width, generator=torch.Generator().manual_seed(self.seed + i))}


def learn(out, config: Config = Config(), interrupted_at=None, progress_bar=False, **changes):
    """`loop.fit` of one layer; `changes` are fields of `TrainConfig`."""
    calls = iter(range(1_000_000))

    def loss(model, output, batch):
        if next(calls) == interrupted_at:
            raise KeyboardInterrupt
        return {"size": (output - 1).square().mean()}

    def measure(model):
        torch.rand(3)  # whatever is drawn here is not missing in the training
        return {"of": 4, "right": 0.25, "mode": float(model.training), "weight": float(model.layer.weight[0, 0])}

    budget = loop.TrainConfig(**({"batch_size": 2, "workers": 0, "checkpoint_minutes": 1e6} | changes))
    return loop.fit(
        "tiny", loop.Recipe(("image",), loss), config, lambda: Net(config), lambda n, seed: Numbers(config.width, n, seed),
        Path(out), budget, data=Path("nowhere"), measure=measure, progress_bar=progress_bar,
    )  # fmt: skip
