"""Commands on a Ray cluster: `--ray`. Nothing else imports Ray.

synth, predict, calibrate and evaluate are cut into shards, which are the same whoever does them: what a killed worker or driver
leaves behind is gone on with, nothing is lost and nothing is done twice. A worker runs the command line that it would be given
by hand, in the folder of the driver: all must see the same files.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ..io.bars import watched

Do = Callable[[list[str]], Any]  # runs a command line and returns its result; raises what went wrong
Share = dict[str, float]  # of a node, that a worker takes
Reports = Iterator[tuple[str, str]]  # a shard, and what was in its way or ""
RETRIES = 5  # of a shard whose worker was lost, whose disk was full, or that did not see a file
PAUSE = 5.0  # seconds that a worker where that happened takes nothing further, twice as many each time: others do
LOST = "a shard was lost {} times ({}); the same command goes on"
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
        OSError, ValueError: a shard failed or was lost again and again, or all at once; what others did is kept.
    """
    ray = _ray()
    began = not ray.is_initialized()
    try:
        known = address or os.environ.get("RAY_ADDRESS") or "local"  # not whichever `ray start` left on this machine
        ray.init(address=known, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}; is it running there? Where `ray start` said that token authentication is enabled, set "
            "RAY_AUTH_MODE=token here, too, with that token"
        ) from error
    try:
        have = ray.cluster_resources()
        gpus, cpus = int(have.get("GPU", 0)), int(have.get("CPU", 1))
        workers = workers or gpus or cpus
        share: Share = {"num_gpus": min(1.0, gpus / workers)} if gpus else {"num_cpus": max(1, cpus // workers)}
        if words[0] == "train":
            return _train(ray, words, do, workers, bool(gpus))
        _all_shards(ray, words, do, workers, share, family)
    finally:
        if began:
            ray.shutdown()
    result = do([*words, "--shard", "merge"])
    if words[0] == "predict":
        write_parquet = import_module(".parquet", __package__).write_parquet
        data = getattr(result, "data", result if isinstance(result, dict) else {})
        for file in filter(None, (data.get("poses"), data.get("results"))):
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


def _all_shards(ray: Any, words: Sequence[str], do: Do, workers: int, share: Share, family: str) -> None:
    """Every shard; those whose worker had no room, or did not see a file, once more, for as long as others get on."""
    count = SHARDS_PER_WORKER * workers
    left = [[*words, "--shard", f"{i}/{count}"] for i in range(1, count + 1)]
    done_by = _predicted if words[0] == "predict" else _tasks
    for attempt in range(RETRIES + 1):
        jobs = [json.dumps({"words": shard, "folder": os.getcwd(), "pause": PAUSE * 2**attempt}) for shard in left]
        reports = dict(watched(done_by(ray, jobs, do, workers, share, family), "shards", len(jobs)))
        failed = [job for job in jobs if reports[job]]
        if not failed:
            return
        if attempt == RETRIES or (attempt == 0 and len(failed) == len(jobs)):
            raise OSError(f"{reports[failed[0]]}; the same command goes on with {len(failed)} of {count} shards")
        left = [json.loads(job)["words"] for job in failed]


def _tasks(ray: Any, jobs: list[str], do: Do, workers: int, share: Share, family: str) -> Reports:
    """Every shard as a task of its own, done again where its worker was lost. Yields the job, and what was in its way."""
    task = ray.remote(max_retries=RETRIES, **share)(_work)
    waiting = {task.remote(do, job): job for job in jobs}
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        try:
            yield waiting.pop(done), ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise OSError(LOST.format(RETRIES + 1, error)) from error


def _work(do: Do, job: str) -> str:
    """In a worker: one command line, in the folder of the driver. Returns what others may not meet, or ""."""
    known = json.loads(job)
    try:
        if not Path(known["folder"]).is_dir():
            raise FileNotFoundError(f"this worker does not see {known['folder']}; all need the same file system")
        os.chdir(known["folder"])
        do(known["words"])
    except OSError as error:
        time.sleep(known["pause"])
        return f"worker on {socket.gethostname()}: {error}"
    return ""


class _Tally:
    """An actor that counts how often shards were begun: Ray starts the actors of a pool again for ever."""

    def __init__(self) -> None:
        self.begun = Counter[str]()

    def begin(self, job: str) -> int:
        self.begun[job] += 1
        return self.begun[job]


class _Holder:
    """An actor that runs shard after shard and holds the networks in between."""

    def __init__(self, do: Do, family: str, tally: Any, most: int) -> None:
        self.do, self.tally, self.most = do, tally, most
        if family:
            pipeline: Any = import_module(f"monopose.{family}.pipeline")
            pipeline.load = lru_cache(maxsize=1)(pipeline.load)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"job": batch["job"], "report": [self.report(job) for job in batch["job"]]}

    def report(self, job: str) -> str:
        if _ray().get(self.tally.begin.remote(job)) > self.most:
            return "!" + LOST.format(self.most, "its worker died each time")
        try:
            return _work(self.do, job)
        except Exception as error:  # said by the driver, which Ray would give a page of its own
            return f"!{error}"


def _predicted(ray: Any, jobs: list[str], do: Do, workers: int, share: Share, family: str) -> Reports:
    """Every shard as a row of a data set that actors go through. Yields as `_tasks` does."""
    data = import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    tally = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tally).remote()
    done = data.from_items([{"job": job} for job in jobs], override_num_blocks=len(jobs)).map_batches(
        _Holder, batch_size=1, compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
        fn_constructor_args=(do, family, tally, RETRIES + 1), **share,
    )  # fmt: skip
    for row in done.iter_rows():
        if row["report"].startswith("!"):
            raise ValueError(row["report"][1:])
        yield row["job"], row["report"]


def _train(ray: Any, words: Sequence[str], do: Do, workers: int, gpu: bool) -> Any:
    """The command that torchrun would start, in as many processes; where one is lost, all go on from the last checkpoint."""
    train, torch = import_module("ray.train"), import_module("ray.train.torch")
    notes = Path(".ray").resolve()  # what Ray writes about the run; all see it, and nothing in it is needed afterwards
    trainer = torch.TorchTrainer(
        _train_worker, train_loop_config={"words": list(words), "do": do, "folder": os.getcwd()},
        scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=train.RunConfig(storage_path=str(notes), failure_config=train.FailureConfig(max_failures=RETRIES)),
    )  # fmt: skip
    try:
        trainer.fit()
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    return do(list(words))  # finished: says where the weights are


def _train_worker(config: dict[str, Any]) -> None:
    os.chdir(config["folder"])
    config["do"]([*config["words"], "--json"])
