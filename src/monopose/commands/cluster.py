"""Commands on a Ray cluster: `--ray`. Nothing else imports Ray.

synth, predict, calibrate and evaluate are cut into shards, which are the same whoever does them: what a killed worker or driver
leaves behind is gone on with, nothing is lost and nothing is done twice. A worker runs the command line that it would be given
by hand, in the folder of the driver: all must see the same files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ..io.bars import watched

Do = Callable[[list[str]], Any]  # runs a command line and returns its result; raises what went wrong
RETRIES = 5  # of a shard whose worker was lost, or whose disk was full
SHARDS_PER_WORKER = 4  # so that a slow or lost worker holds up little


def run(words: Sequence[str], do: Do, address: str | None = None, workers: int | None = None, family: str = "") -> Any:
    """Run a command on a cluster.

    Args:
        words: the command line, without --ray.
        do: what runs one.
        address: of the cluster; None: the one in RAY_ADDRESS, else one of this machine alone, which ends with the command.
        workers: processes; None: one per GPU, else one per CPU.
        family: of the run that predicts, whose networks its workers hold from shard to shard; "": they hold nothing.

    Returns:
        what the command itself returns.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: no cluster at that address, or one that asks for a token.
        RuntimeError: a shard failed again and again; what the others did is kept.
    """
    ray = _ray()
    began = not ray.is_initialized()
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}; is it running there? Where `ray start` said that token authentication is enabled, set "
            "RAY_AUTH_MODE=token here, too, with that token"
        ) from error
    try:
        have = ray.cluster_resources()
        gpus, cpus = int(have.get("GPU", 0)), int(have.get("CPU", 1))
        workers = workers or gpus or cpus
        share: dict[str, float] = {"num_gpus": min(1.0, gpus / workers)} if gpus else {"num_cpus": max(1, cpus // workers)}
        if words[0] == "train":
            return _train(ray, words, do, workers, bool(gpus))
        if words[0] == "predict":
            _predict(ray, words, do, workers, share, family)
        else:
            _tasks(ray, words, do, workers, share)
    finally:
        if began:
            ray.shutdown()
    result = do([*words, "--shard", "merge"])
    if words[0] == "predict" and (file := _poses(result)) is not None:
        write_parquet(file)
    return result


def _ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    try:
        return import_module("ray")
    except ImportError as error:
        raise ImportError("--ray needs Ray: pip install 'monopose[ray]'") from error


def _shards(words: Sequence[str], workers: int) -> list[list[str]]:
    count = SHARDS_PER_WORKER * workers
    return [[*words, "--shard", f"{i}/{count}"] for i in range(1, count + 1)]


def _tasks(ray: Any, words: Sequence[str], do: Do, workers: int, share: dict[str, float]) -> None:
    """Every shard as a task of its own, done again where its worker was lost or its disk was full."""
    task = ray.remote(max_retries=RETRIES, retry_exceptions=[OSError], **share)(_work)
    waiting = [task.remote(do, shard, os.getcwd()) for shard in _shards(words, workers)]
    for _ in watched(range(len(waiting)), "shards", len(waiting)):
        (done,), waiting = ray.wait(waiting, num_returns=1)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"a shard was lost {RETRIES + 1} times ({error}); the same command goes on") from error


def _work(do: Do, words: list[str], folder: str) -> None:
    """In a worker: one command line, in the folder of the driver."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"this worker does not see {folder}; all need the same file system")
    os.chdir(folder)
    do(words)


class _Holder:
    """An actor that runs shard after shard and holds the networks in between."""

    def __init__(self, do: Do, family: str, folder: str) -> None:
        self.do, self.folder = do, folder
        if family:
            pipeline: Any = import_module(f"monopose.{family}.pipeline")
            pipeline.load = lru_cache(maxsize=1)(pipeline.load)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for words in batch["words"]:
            _work(self.do, json.loads(words), self.folder)
        return batch


def _predict(ray: Any, words: Sequence[str], do: Do, workers: int, share: dict[str, float], family: str) -> None:
    """Every shard as a row of a data set that actors go through."""
    data = import_module("ray.data")
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"words": json.dumps(shard)} for shard in _shards(words, workers)]
    done = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Holder, batch_size=1, compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
        ray_remote_args_fn=lambda: {"max_restarts": RETRIES, "max_task_retries": RETRIES},
        fn_constructor_args=(do, family, os.getcwd()), **share,
    )  # fmt: skip
    for _ in watched(done.iter_rows(), "shards", len(rows)):
        pass


def _train(ray: Any, words: Sequence[str], do: Do, workers: int, gpu: bool) -> Any:
    """The command that torchrun would start, in as many processes; where one is lost, all go on from the last checkpoint."""
    train, torch = import_module("ray.train"), import_module("ray.train.torch")
    notes = Path(".ray").resolve()  # what Ray writes about the run; all see it, and nothing in it is needed afterwards
    often = train.FailureConfig(max_failures=RETRIES)
    trainer = torch.TorchTrainer(
        _train_worker, train_loop_config={"words": list(words), "do": do, "folder": os.getcwd()},
        scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=train.RunConfig(storage_path=str(notes), failure_config=often),
    )  # fmt: skip
    try:
        trainer.fit()
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    return do(list(words))  # finished: says where the weights are


def _train_worker(config: dict[str, Any]) -> None:
    _work(config["do"], [*config["words"], "--json"], config["folder"])


# --------------------------------------------------------------------------------------------------------------- Parquet


def _poses(result: Any) -> Path | None:
    """The poses.json of a prediction of pictures."""
    data = getattr(result, "data", {})
    return Path(data["poses"]) if data.get("poses") else None


def write_parquet(poses: str | Path) -> Path:
    """The poses of a poses.json as a table beside it, poses.parquet: a row per pose.

    Columns: image, label, name, score, cam_from_obj (16 numbers, row by row, metres).
    """
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    from ..io.files import atomic_write
    from ..io.records import read_json

    rows = [
        {"image": image["image"], **{k: pose[k] for k in ("label", "name", "score")},
         "cam_from_obj": [float(v) for line in pose["cam_from_obj"] for v in line]}
        for image in read_json(poses)["images"] for pose in image["poses"]
    ]  # fmt: skip
    kinds = [("image", pyarrow.string()), ("label", pyarrow.int64()), ("name", pyarrow.string()), ("score", pyarrow.float64())]
    schema = pyarrow.schema([*kinds, ("cam_from_obj", pyarrow.list_(pyarrow.float64(), 16))])
    path = Path(poses).with_suffix(".parquet")
    with atomic_write(path) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), temporary)
    return path
