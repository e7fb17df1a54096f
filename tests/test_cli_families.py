"""The command line finds out what it is about, and takes the options of exactly that."""

import subprocess
import sys

import pytest

from monopose import cli, runs


@pytest.fixture
def folder(tmp_path):
    """Makes a run folder that seems to hold these weights."""

    def make(*methods):
        path = tmp_path / "_".join(methods)
        path.mkdir()
        for name in methods:
            (path / f"{name}.safetensors").touch()
        return path

    return make


def test_a_run_belongs_to_the_family_of_its_weights(folder, tmp_path):
    assert runs.family_of(folder("viewpoint", "normals")) == "viewpoint"
    assert runs.family_of(folder("category", "detector")) == "category"
    assert runs.family_of(folder("box3d")) == "road"
    both = folder("coordinates", "viewpoint")
    assert runs.family_of(both) == "objects"  # its poses say more
    assert runs.family_of(both / "viewpoint.safetensors") == "viewpoint"
    assert runs.family_of("demo") == "objects"  # bundled
    assert runs.family_of(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("method", "own", "foreign"),
    [
        ("coordinates", ("--bop", "--looks", "--posterior"), ("--mask", "--nocs", "--views", "--pix3d")),
        ("viewpoint", ("--pix3d", "--mask", "--mesh", "--corrupt"), ("--bop", "--search", "--refine", "--flip")),
        ("category", ("--nocs", "--mask", "--search"), ("--bop", "--mesh", "--refine", "--views")),
        ("box3d", ("--views", "--flip", "--split"), ("--bop", "--mask", "--debug-folder", "--boxes")),
    ],
)
def test_the_help_of_a_run_shows_what_it_heeds(folder, capsys, method, own, foreign):
    with pytest.raises(SystemExit):
        cli.main(["predict", "--model", str(folder(method)), "--help"])
    shown = set(capsys.readouterr().out.replace("│", " ").split())
    assert {*own, "--model", "--fov", "--json", "--device"} <= shown
    assert not shown & set(foreign)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synth", "--out", "x", "--road", "--pix3d"], "give one of them"),
        (["synth", "a.ply", "--out", "x", "--size", "64", "160"], "--size belongs to --road, not to BOP folders"),
        (["synth", "--out", "x", "--pix3d", "--upright"], "--upright belongs to BOP folders, not to --pix3d"),
        (["synth", "a.ply", "--out", "x", "--road"], "--road makes its own shapes; leave a.ply out"),
        (["synth", "--out", "x"], "no models; give mesh files or one models folder"),
        (["train", "normals", "--data", "x", "--by", "shape"], "--by belongs to viewpoint, not to normals"),
        (
            ["train", "viewpoint", "--data", "x", "--init", "y"],
            "--init belongs to coordinates, probabilistic, refiner, silhouettes, detector",
        ),
        (
            ["train", "detector", "--data", "x", "--categories", "car"],
            "--categories belongs to viewpoint and normals and box3d",
        ),
        (["train", "category"], "--category mug, bottle, bowl, can, laptop or camera"),
        (["train", "category", "--category", "sofa"], "no category 'sofa' is made in code"),
        (["train", "category", "--category", "mug", "--unit", "mm"], "--unit belongs to --data DIR"),
        (["train", "category", "--data", "x", "--instances", "9"], "with --data your own are taken"),
        (
            ["evaluate", "a_b-c.csv", "--data", "x", "--split", "s"],
            "--split belongs to boxes on roads, not to BOP result files",
        ),
        (["evaluate", "a.json", "--data", "x", "--protocol", "classic"], "--protocol belongs to BOP result files, not to"),
        (["evaluate", "a_b-c.csv", "--data", "x", "--protocol", "classic", "--vsd"], "--vsd belongs to BOP's protocol, not to"),
        (["evaluate", "a_b-c.csv", "--data", "x", "--flip-eggbox"], "--flip-eggbox belongs to --protocol classic, not to"),
        (["evaluate", "--data", "x"], "no RESULTS"),
        (["predict", "a.png", "--model", "x", "--nocs", "y"], "--nocs belongs to category runs, not to x"),
        (["predict", "a.png", "--model", "x", "--views", "2d"], "--views belongs to box3d runs, not to x"),
        (["predict", "a.png", "--model=x", "--size_m", "1", "1", "1"], "--size-m belongs to viewpoint runs and category runs"),
    ],
)
def test_what_does_not_belong_is_refused_in_one_line(words, message, capsys):
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_the_word_that_decides_may_stand_anywhere(tmp_path):
    assert type(cli.parse(["train", "--data", "road", "box3d"])).__module__ == "monopose.road.options"
    assert (
        type(cli.parse(["train", "--objects", "5", "8", "--data", "x", "coordinates"])).__module__ == "monopose.objects.options"
    )
    assert type(cli.parse(["evaluate", "--data", "x", "a.json"])).__module__ == "monopose.viewpoint.options"
    assert type(cli.parse(["evaluate", "--data", "x", str(tmp_path)])).__module__ == "monopose.road.options"
    (tmp_path / "a.json").write_text('{"results": {}}')
    assert type(cli.parse(["evaluate", str(tmp_path / "a.json"), "--data", "x"])).__module__ == "monopose.road.options"
    assert type(cli.parse(["evaluate", "--vsd", "a_b-c.csv", "--data=x"])).__module__ == "monopose.objects.options"


def test_results_that_cannot_be_read_are_one_line(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{")
    assert cli.main(["evaluate", str(tmp_path / "a.json"), "--data", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.json" in line


def test_wrong_options_are_told_without_waiting_for_torch():
    code = (
        "import sys\nfrom monopose.cli import main\n"
        "assert main(['predict', 'a.png', '--model', 'x', '--fov', '60', '--true-boxes']) == 2\n"
        "assert main(['predict', 'a.png', '--model', 'x', '--nocs', 'y']) == 2\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--true-boxes belongs to --bop DIR" in done.stderr
