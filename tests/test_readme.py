"""The README and docs keep their promises: commands parse, runnable Python runs, links lead somewhere.

A Python block is run if the line before it is `<!-- run -->`; blocks of one file share their names, as a reader would type
them one after the other, in a folder that holds photo.jpg and its camera.json (a bundled demo picture). Shell blocks are those
without a language, or with sh; listings that only look like one say `text`.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from monopose import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^(?P<before>[^\n]*)\n+```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = set(cli.COMMANDS)


def _blocks(page: Path) -> list[tuple[str, str, str]]:
    """(line before, language, body) of every fenced block."""
    text = "\n\n" + page.read_text(encoding="utf-8")
    return [(m["before"].strip(), m["language"].lower(), m["body"]) for m in FENCE.finditer(text)]


def _commands(page: Path) -> list[str]:
    """Every `monopose …` line of the shell blocks, continued lines joined, prompt and comment taken off."""
    found = []
    for _, language, body in _blocks(page):
        if language in ("python", "py", "json", "csv", "yaml", "toml", "text"):
            continue
        for line in body.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s*(?:&&|\||;)\s*", line):
                part = re.sub(r"^\$\s+", "", part.strip())
                if part.startswith("monopose "):
                    found.append(part)
    return found


def _words(command: str) -> list[str]:
    """The arguments as the shell gives them, up to a comment or a redirection."""
    words = shlex.split(command, comments=True)[1:]
    stop = next((i for i, word in enumerate(words) if re.match(r"\d?[<>]", word)), len(words))
    return words[:stop]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which every documented run, data set and result seems to lie: what options there are depends on them."""
    folder = tmp_path_factory.mktemp("workplace")

    def touch(path, content=""):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)

    for words in (_words(command) for page in PAGES for command in _commands(page) if "…" not in command):
        options = {a: b for a, b in zip(words, [*words[1:], ""]) if a.startswith("--")}
        if words[:1] == ["train"] and "--out" in options:
            touch(f"{options['--out']}/{words[1]}.safetensors")
        if words[:1] == ["train"] and "--category" in options:
            touch(f"runs/category_{options['--category']}/category.safetensors")
        if words[:2] == ["synth", "--road"]:
            touch(f"{options['--out']}/infos.json")
    touch("photos/a.png")
    touch("results/results_test_scene_1_0000.pkl")
    touch("runs/box3d_table/distribution_0_800/box3d.safetensors")  # made by a benchmark
    for data in ("DATA/kitti_mini", "DATA/nuscenes_mini_sample", "nuscenes/v1.0-trainval"):
        touch(f"{data}/infos.json")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_parse(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    for command in _commands(page):
        words = _words(command)
        if not words or words[0].startswith("-") or "…" in command or "..." in command:
            continue
        assert words[0] in COMMANDS, f"{page.name}: {command!r}: there is no command {words[0]!r}"
        if "--help" in words:
            continue
        try:
            cli.parse(words)
        except cli.UsageError as error:
            pytest.fail(f"{page.name}: {command!r}: {error}")


STAND_INS = """
to_monopose() { while [ "$1" != monopose ]; do shift; done; "$@"; }
srun() { to_monopose "$@"; }; torchrun() { to_monopose "$@"; }; pip() { :; }; cd() { :; }
sbatch() { case "${@: -1}" in monopose*) eval "${@: -1}";; *) echo 7 >&2;; esac; }
parallel() { to_monopose "${@//\\{\\}/3}"; }
monopose() { printf '%s\\0' "$@"; printf '\\n'; }
"""


def test_scripts_for_clusters_do_their_share(workplace, monkeypatch):
    """The blocks of docs/scale.md, run with stand-ins for the schedulers, as the third of many processes."""
    monkeypatch.chdir(workplace)
    shares = []
    place = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_SUBMIT_DIR": ".", "JOB_COMPLETION_INDEX": "2"}
    for _, language, body in _blocks(ROOT / "docs/scale.md"):
        if language == "yaml":
            job = yaml.safe_load(body)["spec"]
            container = job["template"]["spec"]["containers"][0]
            assert {v["name"] for v in container["volumeMounts"]} == {v["name"] for v in job["template"]["spec"]["volumes"]}
            shell, flag, body = container["command"]
            assert (shell, flag, job["completionMode"]) == ("sh", "-c", "Indexed")
        elif language != "bash":
            continue
        script, env = STAND_INS + body, {**os.environ, **place}
        done = subprocess.run(["bash", "-eu", "-c", script], env=env, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            words = line.split("\0")[:-1]
            words = words[: words.index(":::")] if ":::" in words else words
            args = cli.parse(words)
            shares.append(getattr(getattr(args, "sharing", None), "shard", None))
    assert [s for s in shares if s] == ["3/64", "3/64", "3/64", "3/8", "3/8", "3/64", "3/64", "3/32", "3/256"]
    assert job["completions"] == job["parallelism"] == 64


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_are_python(page):
    for _, language, body in _blocks(page):
        if language in ("python", "py"):
            compile(body, str(page), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_runnable_python_runs(page, tmp_path, monkeypatch):
    bodies = [body for before, language, body in _blocks(page) if language in ("python", "py") and before == "<!-- run -->"]
    if not bodies:
        return
    monkeypatch.chdir(tmp_path)
    demo = ROOT / "src" / "monopose" / "assets" / "demo"  # the reader's photo and camera
    shutil.copyfile(demo / "photos" / "test" / "000001" / "rgb" / "000001.jpg", "photo.jpg")
    shutil.copyfile(demo / "camera.json", "camera.json")
    names: dict[str, object] = {"__name__": "__readme__"}
    for body in bodies:
        exec(compile(body, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for _, language, body in _blocks(page):
        if language in ("sh", "bash", "shell", "console", ""):
            for target in re.findall(r"^\$?\s*make ([a-z][\w-]*)", body, re.MULTILINE):
                assert target in targets, f"{page.name}: make {target}: the Makefile has only {sorted(targets)}"


def test_the_checks_see_what_they_should(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n```sh\n$ monopose check part.stl \\\n    --unit mm   # look\nmonopose demo && monopose doctor > a.txt\n```\n"
        "\n<!-- run -->\n```python\nx = 1\n```\n\n```python\nmonopose demo\n```\n"
    )
    assert [_words(c) for c in _commands(page)] == [["check", "part.stl", "--unit", "mm"], ["demo"], ["doctor"]]
    assert [(before, language) for before, language, _ in _blocks(page)] == [
        ("Text", "sh"),
        ("<!-- run -->", "python"),
        ("", "python"),
    ]


def test_the_line_that_computes_the_pose_is_three_jumps_away():
    """README -> Pipeline -> coordinates -> pnp.ransac: each file names the next one's function where it calls it."""
    import inspect

    import monopose
    from monopose import pnp, runs
    from monopose.objects import coordinates, pipeline

    assert "model(photo, camera=camera)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert monopose.load is runs.load
    assert isinstance(monopose.load("demo"), pipeline.Pipeline)
    assert "self.predict(" in inspect.getsource(pipeline.Pipeline.__call__)
    assert "self._predict(" in inspect.getsource(pipeline.Pipeline.predict)
    assert "coordinates.predict_traced(" in inspect.getsource(pipeline)
    assert "solve(" in inspect.getsource(coordinates.predict_traced)
    assert "pnp.ransac(" in inspect.getsource(coordinates.solve)
    assert inspect.getmodule(pnp.ransac).__name__ == "monopose.pnp.robust"
