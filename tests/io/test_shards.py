"""Jobs in blocks: shared in any way they give the same rows; what is missing or of another kind is named."""

import pytest

from monopose.io.shards import MERGE, Job, Shard, folder_of, jobs, parse


def do(folder, shard, settings=None, count=23, made=None):
    job = Job(folder, settings or {"seed": 1}, count, 5, shard)
    for block, pieces in job.todo():
        if made is not None:
            made.append(block)
        job.save(block, [i * i for i in pieces])
    return job


def merged(folder, **more):
    return list(Job(folder, more.get("settings", {"seed": 1}), 23, 5, MERGE).rows())


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_any_number_of_shards_gives_the_same(tmp_path, count):
    for index in reversed(range(1, count + 1)):
        do(tmp_path / "job", Shard(index, count))
    assert merged(tmp_path / "job") == [i * i for i in range(23)]


def test_what_is_complete_is_skipped_and_what_is_missing_is_done_by_any(tmp_path):
    do(tmp_path / "job", Shard(1, 2), made=(first := []))
    do(tmp_path / "job", Shard(1, 2), made=(again := []))
    assert (first, again) == ([0, 2, 4], [])
    do(tmp_path / "job", Shard(1, 1), made=(rest := []))  # gone on with in another number
    assert rest == [1, 3]
    assert merged(tmp_path / "job") == [i * i for i in range(23)]


def test_a_merge_says_what_is_missing(tmp_path):
    do(tmp_path / "job", Shard(2, 3))
    with pytest.raises(ValueError, match=r"15 of 23 are missing in .*from 0: 0 to 4, 10 to 19.*run --shard 1/3, 3/3 again"):
        merged(tmp_path / "job")


def test_shards_with_other_settings_are_refused(tmp_path):
    do(tmp_path / "job", Shard(1, 2))
    with pytest.raises(ValueError, match=r'other settings: \{"seed": 1\}, here \{"seed": 2\}; give all shards the same'):
        do(tmp_path / "job", Shard(2, 2), {"seed": 2})
    do(tmp_path / "job", Shard(2, 2))
    other = do(tmp_path / "other", Shard(1, 1), {"seed": 2})
    other.file(1).replace(tmp_path / "job" / "000001.json")  # as of a shard that started at the same moment
    with pytest.raises(ValueError, match=r"000001\.json was made with other settings"):
        merged(tmp_path / "job")
    assert [b for b, _ in Job(tmp_path / "job", {"seed": 2}, 23, 5).todo()] == list(range(5))  # no shard: starts again


def test_the_command_is_kept_for_the_merge(tmp_path):
    out = tmp_path / "results.csv"
    with pytest.raises(FileNotFoundError, match=r"no shards of .*results\.csv"):
        jobs(out)
    job = do(folder_of(out), parse("2/3", ["predict", "--shard", "2/3"]))
    (found,) = jobs(out)
    assert (found["command"], found["shards"]) == (["predict", "--shard", "2/3"], 3)
    job.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["0/3", "4/3"])
def test_a_shard_outside_of_n_is_refused(text):
    with pytest.raises(ValueError, match=f"--shard counts from 1/.*got {text}; where an array job counts from 0, add 1"):
        parse(text)


@pytest.mark.parametrize("text", ["", "3", "a/b", "1/2/3", "-1/3", "1.0/2", "1/0", "٣/4"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError, match="--shard expects I/N, such as 3/8, got"):
        parse(text)


def test_files_of_the_same_name_that_hold_something_else_are_other_settings(tmp_path):
    boxes = tmp_path / "boxes.json"
    boxes.write_text("[1]")
    do(tmp_path / "job", Shard(1, 2), {"boxes": boxes})
    do(tmp_path / "job", Shard(2, 2), {"boxes": boxes})
    boxes.write_text("[2]")
    with pytest.raises(ValueError, match=r"other settings: .*boxes\.json \("):
        do(tmp_path / "job", MERGE, {"boxes": boxes})


def test_what_a_piece_has_written_must_still_be_there(tmp_path):
    job, files = do(tmp_path / "job", Shard(1, 1)), {i: tmp_path / f"{i}.png" for i in range(23)}
    for i in set(files) - {7, 22}:
        files[i].touch()
    with pytest.raises(ValueError, match=r"8 of 23 are missing in .*from 0: 5 to 9, 20 to 22.*run --shard 1/1 again"):
        job.require_files(files)
    assert [block for block, _ in job.todo()] == [1, 4]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"job": 1, "rows": [], "about": {}}', '{"job": "a", "rows": '])
def test_broken_files_are_named(tmp_path, text):
    job = do(tmp_path / "job", Shard(1, 1))
    whole = job.file(3).read_text()
    job.file(3).write_text(text)
    with pytest.raises(ValueError, match=r"000003\.json is not (valid JSON|what a shard writes)"):
        merged(tmp_path / "job")
    job.file(3).write_text(whole)
    (tmp_path / "job/job.json").write_text(text)
    for shard in (MERGE, Shard(1, 2), None):
        with pytest.raises(ValueError, match=r"job\.json is not (valid JSON|what a shard writes)"):
            do(tmp_path / "job", shard)
