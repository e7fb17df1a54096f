import json
import re
from pathlib import Path

import pytest

from monopose.commands import doctor

VERSIONS = {
    "torch": "2.9.0+cpu",
    "torchvision": "0.24.0",
    "numba": "0.60",
    "numpy": "2.4",
    "scipy": None,
    "opencv-python-headless": "4.10",
}


@pytest.mark.parametrize(
    "name, error, what, fix",
    [
        (
            "torchvision",
            RuntimeError("operator torchvision::nms does not exist"),
            "do not belong together",
            "force-reinstall torch torchvision",
        ),
        ("torchvision", ImportError("_C.so: undefined symbol: _ZN3c10"), "2.9.0+cpu and torchvision 0.24.0", "in one command"),
        ("scipy", ModuleNotFoundError("No module named 'scipy'"), "scipy is not installed", "pip install"),
        (
            "numba",
            ImportError("Numba needs NumPy 2.0 or less. Got NumPy 2.4."),
            "numba 0.60 does not fit numpy 2.4",
            "--upgrade numba numpy",
        ),
        (
            "opencv-python-headless",
            ImportError("libGL.so.1: cannot open shared object file"),
            "system library",
            "opencv-python-headless",
        ),
        (
            "numba",
            OSError("broken"),
            "numba 0.60 is installed but cannot be imported (OSError: broken)",
            "force-reinstall numba",
        ),
    ],
)
def test_known_traps(name, error, what, fix):
    problem = doctor.explain_import_error(name, error, VERSIONS)
    assert what in problem.what
    assert fix in problem.fix


def test_unused_gpu():
    assert "CPU-only build" in doctor._unused_gpu("2.9.0+cpu").what
    assert "driver" in doctor._unused_gpu("2.9.0").fix


def test_every_dependency_is_examined():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert set(re.findall(r'"([\w-]+)>=', listed[1])) == set(doctor.PACKAGES)


def test_report_of_this_machine():
    report = doctor.examine()
    assert report.cores >= 1
    assert report.disk_free > 0
    assert report.packages["torch"]
    assert not [p for p in report.problems if "import" in p.what or "installed" in p.what]
    assert "torch" in report.text()


def test_problems_are_printed_with_their_fix_and_change_the_exit_code(monkeypatch, capsys):
    from dataclasses import replace

    from monopose import cli

    good = replace(doctor.examine(), problems=[])
    bad = replace(good, problems=[doctor.Problem("torch is broken", "mend it")])
    monkeypatch.setattr(doctor, "examine", lambda: bad)
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "PROBLEM    torch is broken\n       fix mend it\n1 problem" in text
    assert cli.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == [{"what": "torch is broken", "fix": "mend it"}]
    monkeypatch.setattr(doctor, "examine", lambda: good)
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("all is well\n")


def test_kernels_are_compiled_where_all_is_well_and_only_when_asked(monkeypatch):
    from dataclasses import replace

    from monopose import cli

    compiled = []
    good = replace(doctor.examine(), problems=[])
    monkeypatch.setattr(doctor, "warm_up", lambda: compiled.append(1))
    monkeypatch.setattr(doctor, "examine", lambda: good)
    assert cli.main(["doctor"]) == 0
    assert not compiled
    assert cli.main(["doctor", "--warm-up"]) == 0
    assert compiled == [1]
    monkeypatch.setattr(doctor, "examine", lambda: replace(good, problems=[doctor.Problem("torch is broken", "mend it")]))
    assert cli.main(["doctor", "--warm-up"]) == 1
    assert compiled == [1]


def test_a_broken_package_does_not_stop_the_doctor(monkeypatch):
    """A torchvision that cannot be imported, as beside a torch of another build; lightning would fail for the same reason."""
    imported = []

    def import_module(name):
        imported.append(name)
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "import_module", import_module)
    (problem,) = doctor.examine().problems
    assert "builds that do not belong together" in problem.what
    assert "lightning" not in imported
    assert {"torch", "cv2", "trimesh", "yaml"} <= set(imported)
