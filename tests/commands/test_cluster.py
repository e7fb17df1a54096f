"""Commands on a Ray cluster of this machine: the same as without, also where workers are killed or another driver goes on.

A cluster takes longer to start than everything else here together, so these tests run only where MONOPOSE_TEST_RAY is set.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from monopose.cli import without
from monopose.io import shards
from monopose.io.shards import Job

COUNT = 20


def do(words):
    """Stands in for a command line: blocks with squares. Notes what it does, and once dies in the middle."""
    kind, out = words[0], Path(words[1])
    if kind == "train":
        return learn(out)
    job = Job(out / ".partial/test", {"kind": kind}, COUNT, 1, shards.parse(words[-1]))
    for block, pieces in job.todo():
        if block == 7 and not (out / "killed").exists():
            (out / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with open(out / "done.txt", "a") as log:
            log.write(f"{block}\n")
        job.save(block, [i * i for i in pieces])
    return list(job.rows()) if words[-1] == "merge" else None


def learn(out):
    """Stands in for a training: every process notes itself; the first attempt loses one."""
    rank = os.environ.get("RANK")
    if rank is None:
        return {"weights": "there"}
    with open(out / "began.txt", "a") as log:
        log.write(f"{rank} of {os.environ['WORLD_SIZE']}\n")
    if rank == "1" and not (out / "killed").exists():
        time.sleep(8)  # Ray holds one that dies while it starts for the fault of the program
        (out / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def ray():
    if not os.environ.get("MONOPOSE_TEST_RAY"):
        pytest.skip("starts a Ray cluster, half a minute on a machine with nothing else to do; set MONOPOSE_TEST_RAY=1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    found = pytest.importorskip("ray", reason="needs Ray: pip install 'monopose[ray]'")
    found.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    found.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield found
    found.shutdown()


@pytest.mark.parametrize("kind", ["synth", "predict"])
def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(ray, tmp_path, kind):
    from monopose.commands import cluster

    do([kind, str(tmp_path), "--shard", "1/3"])  # left behind by a driver that was killed
    before = len((tmp_path / "done.txt").read_text().split())
    assert 0 < before < COUNT
    assert cluster.run([kind, str(tmp_path)], do, workers=2) == [i * i for i in range(COUNT)]
    assert (tmp_path / "killed").exists()
    assert sorted(map(int, (tmp_path / "done.txt").read_text().split())) == list(range(COUNT))


def test_a_training_whose_process_was_killed_begins_again(ray, tmp_path, monkeypatch):
    from monopose.commands import cluster

    monkeypatch.chdir(tmp_path)
    assert cluster.run(["train", str(tmp_path)], do, workers=2) == {"weights": "there"}
    began = (tmp_path / "began.txt").read_text().splitlines()
    assert began.count("1 of 2") == 2
    assert set(began) == {"0 of 2", "1 of 2"}


def test_what_goes_wrong_in_a_shard_is_said(ray, tmp_path):
    from monopose.commands import cluster

    with pytest.raises(FileNotFoundError, match="nowhere"):
        cluster.run(["synth", str(tmp_path)], lambda words: open("/nowhere/file"), workers=1)  # noqa: SIM115


def test_a_cluster_that_lets_nobody_in_is_named_with_what_to_do(monkeypatch):
    from monopose.commands import cluster

    class Closed:
        is_initialized = staticmethod(lambda: False)

        def init(self, **options):
            raise ConnectionError(f"Failed to connect to Ray cluster at {options['address']}")

    monkeypatch.setattr(cluster, "_ray", Closed)
    with pytest.raises(ConnectionError, match=r"at 10\.0\.0\.1:6379; is it running there\?.*RAY_AUTH_MODE=token"):
        cluster.run(["synth"], do, address="10.0.0.1:6379")


def test_workers_are_given_the_command_line_without_the_cluster():
    words = ["predict", "photos", "--ray", "10.0.0.1:6379", "--out", "out", "--ray-workers=3", "--shard", "1/2"]
    plain = without(without(words, "--ray", 1), "--ray-workers", 1)
    assert plain == ["predict", "photos", "--out", "out", "--shard", "1/2"]
    assert without(plain, "--shard", 1) == ["predict", "photos", "--out", "out"]
    assert without(["synth", "a.stl", "--ray"], "--ray", 0) == ["synth", "a.stl"]
    assert without(["synth", "--ray", "a.stl"], "--ray", 0) == ["synth", "a.stl"]


@pytest.mark.slow
def test_poses_as_a_table(tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'monopose[ray]'")
    from monopose.commands.cluster import write_parquet
    from monopose.io.files import write_json

    rows = [[1.0, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 1.0]]
    pose = {"label": 5, "name": "can", "score": 0.5, "cam_from_obj": rows}
    images = [{"image": "a.png", "poses": [pose, pose]}, {"image": "b.png", "poses": []}]
    write_json(tmp_path / "poses.json", {"images": images})
    table = pyarrow.read_table(write_parquet(tmp_path / "poses.json"))
    assert table.num_rows == 2
    assert table.to_pylist()[1] == {**pose, "image": "a.png", "cam_from_obj": [v for row in rows for v in row]}
