"""Commands on a Ray cluster of this machine: the same as without, also where workers are killed or another driver goes on.

A cluster takes longer to start than everything else here together, so these tests run only where MONOPOSE_TEST_RAY is set.
"""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monopose.cli import without
from monopose.io import shards
from monopose.io.shards import Job

COUNT = 20
pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning:monopose.commands.cluster")  # arguments that Ray drops


def do(words):
    """Stands in for a command line: blocks with squares. Notes what it does, and once dies in the middle."""
    kind, out = words[0], Path(words[1])
    if kind == "train":
        return learn(out)
    job = Job(out / ".partial/test", {"kind": kind}, COUNT, 1, shards.parse(words[-1]))
    for block, pieces in job.todo():
        if block == 7 and (not (out / "killed").exists() or (out / "always").exists()):
            (out / "killed").touch()
            if (out / "full").exists():
                full = OSError(errno.ENOSPC, "No space left on device")
                raise full if kind == "synth" else FileNotFoundError("no weights file at runs/parts")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5 * (out / "slow").exists())
        with open(out / "done.txt", "a") as log:
            log.write(f"{block}\n")
        job.save(block, [i * i for i in pieces])
    return list(job.rows()) if words[-1] == "merge" else None


def make(words):
    """A real command line; the first process to finish a block dies."""
    from monopose import cli

    out, save = Path(words[words.index("--out") + 1]), Job.save

    def killed(job, block, rows):
        save(job, block, rows)
        if not (out.parent / "killed").exists():
            (out.parent / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    Job.save = killed
    try:
        return cli.do(words)
    finally:
        Job.save = save


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
    found.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
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


@pytest.mark.parametrize("kind", ["synth", "predict"])
def test_a_shard_that_kills_its_worker_each_time_ends_the_command(ray, tmp_path, kind, monkeypatch):
    from monopose.commands import cluster

    monkeypatch.setattr(cluster, "RETRIES", 1)
    (tmp_path / "always").touch()
    with pytest.raises((OSError, ValueError), match=r"a shard was lost 2 times \(.*; the same command goes on"):
        cluster.run([kind, str(tmp_path)], do, workers=2)
    (tmp_path / "always").unlink()
    assert cluster.run([kind, str(tmp_path)], do, workers=2) == [i * i for i in range(COUNT)]


def test_a_training_whose_process_was_killed_begins_again(ray, tmp_path, monkeypatch):
    from monopose.commands import cluster

    monkeypatch.chdir(tmp_path)
    assert cluster.run(["train", str(tmp_path)], do, workers=2) == {"weights": "there"}
    began = (tmp_path / "began.txt").read_text().splitlines()
    assert began.count("1 of 2") == 2
    assert set(began) == {"0 of 2", "1 of 2"}


@pytest.mark.parametrize("kind", ["synth", "predict"])
def test_a_full_disk_or_missing_weights_on_one_worker_lose_nothing(ray, tmp_path, kind, monkeypatch):
    from monopose.commands import cluster

    monkeypatch.setattr(cluster, "PAUSE", 0.1)
    (tmp_path / "full").touch()
    assert cluster.run([kind, str(tmp_path)], do, workers=2) == [i * i for i in range(COUNT)]
    assert (tmp_path / "killed").exists()
    assert sorted(map(int, (tmp_path / "done.txt").read_text().split())) == list(range(COUNT))


@pytest.mark.parametrize("kind", ["synth", "predict"])
def test_what_goes_wrong_in_all_shards_is_said_at_once(ray, tmp_path, kind, monkeypatch):
    from monopose.commands import cluster

    def without_weights(words):
        raise FileNotFoundError("no weights file at runs/parts")

    def without_sense(words):
        raise ValueError("--fov is 400")

    monkeypatch.setattr(cluster, "PAUSE", 0.1)
    with pytest.raises(OSError, match=r"worker on .*: no weights file at runs/parts; the same command goes on with 4 of 4"):
        cluster.run([kind, str(tmp_path)], without_weights, workers=1)
    with pytest.raises(ValueError, match="--fov is 400"):
        cluster.run([kind, str(tmp_path)], without_sense, workers=1)


def test_a_killed_driver_loses_nothing(ray, tmp_path):
    from monopose.commands import cluster

    (tmp_path / "slow").touch()
    (tmp_path / "killed").touch()  # no worker dies
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_cluster; from ray import cloudpickle\n"
        "cloudpickle.register_pickle_by_value(test_cluster)\n"
        "from monopose.commands import cluster; cluster.run(['synth', sys.argv[2]], test_cluster.do, sys.argv[3], workers=2)"
    )
    address = ray.get_runtime_context().gcs_address
    words = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), address]
    driver = subprocess.Popen(words, env={"RAY_AUTH_MODE": "token", **os.environ})
    blocks, until = tmp_path / ".partial/test", time.monotonic() + 240
    while len(list(blocks.glob("0*.json"))) < 3:
        assert driver.poll() is None, "the driver has ended by itself"
        assert time.monotonic() < until
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    time.sleep(5)  # its workers end with it
    kept = {p.name: p.stat().st_mtime_ns for p in blocks.glob("0*.json")}
    assert 3 <= len(kept) < COUNT
    (tmp_path / "slow").unlink()
    (tmp_path / "done.txt").unlink()
    assert cluster.run(["synth", str(tmp_path)], do, workers=2) == [i * i for i in range(COUNT)]
    assert sorted(map(int, (tmp_path / "done.txt").read_text().split())) == [
        i for i in range(COUNT) if f"{i:06d}.json" not in kept
    ]


def test_a_data_set_is_the_same_as_without_a_cluster_though_a_worker_dies(ray, tmp_path):
    from monopose import cli
    from monopose.commands import cluster

    cube = tmp_path / "cube.stl"
    cube.write_bytes(trimesh_box())
    camera = tmp_path / "camera.json"
    camera.write_text('{"fx": 60, "fy": 60, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}')
    words = ["synth", str(cube), "--unit", "m", "--camera", str(camera), "--images", "60", "--out"]
    assert cli.main([*words, str(tmp_path / "plain/set")]) == 0
    cluster.run([*words, str(tmp_path / "shared/set")], make, workers=2)
    assert (tmp_path / "shared/killed").exists()
    plain, shared = (
        {
            p.relative_to(tmp_path / name).as_posix(): p.read_bytes()
            for p in (tmp_path / name / "set").rglob("*.*")
            if p.is_file()
        }
        for name in ("plain", "shared")
    )
    assert plain == shared
    assert len([name for name in plain if "/rgb/" in name]) == 60


def trimesh_box():
    import trimesh

    return trimesh.creation.box((0.1, 0.07, 0.05)).export(file_type="stl")


def test_a_cluster_that_lets_nobody_in_is_named_with_what_to_do(monkeypatch):
    from monopose.commands import cluster

    class Closed:
        is_initialized = staticmethod(lambda: False)

        def init(self, **options):
            raise ConnectionError(f"Failed to connect to Ray cluster at {options['address']}")

    monkeypatch.setattr(cluster, "_ray", Closed)
    with pytest.raises(ConnectionError, match=r"at 10\.0\.0\.1:6379; is it running there\?.*RAY_AUTH_MODE=token"):
        cluster.run(["synth"], do, address="10.0.0.1:6379")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConnectionError, match="at local"):  # not at one that was started here and has died
        cluster.run(["synth"], do)


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
    from monopose.commands.parquet import write_parquet
    from monopose.datasets.bop import results
    from monopose.io.files import write_json

    rows = [[1.0, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 1.0]]
    pose = {"label": 5, "name": "can", "score": 0.5, "cam_from_obj": rows}
    images = [{"image": "a\udcfe.png", "poses": [pose, pose]}, {"image": "b.png", "poses": []}]
    write_json(tmp_path / "poses.json", {"images": images})
    table = pyarrow.read_table(write_parquet(tmp_path / "poses.json"))
    assert table.num_rows == 2
    sixteen = [v for row in rows for v in row]
    assert table.to_pylist()[1] == {**pose, "image": "a\\udcfe.png", "cam_from_obj": sixteen}
    (tmp_path / "a_b-test.csv").write_text("scene_id,im_id,obj_id,score,R,t,time\n3,7,5,0.5,1 0 0 0 1 0 0 0 1,100 0 500,0.25\n")
    assert results.read_results(tmp_path / "a_b-test.csv").t.tolist() == [[0.1, 0.0, 0.5]]
    (row,) = pyarrow.read_table(write_parquet(tmp_path / "a_b-test.csv")).to_pylist()
    assert row == {"scene_id": 3, "im_id": 7, "obj_id": 5, "score": 0.5, "time": 0.25, "cam_from_obj": sixteen}
