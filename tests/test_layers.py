"""The house rules that a parser can see: who may import whom, who prints, what stays out of an instant start."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "monopose"
FILES = sorted(SOURCE.rglob("*.py"))

# A room may import those that stand before it.
ORDER = (
    "options", "types", "files", "geometry",
    "images", "weights", "confidence", "mesh", "symmetry_proposals",
    "render", "pnp", "contour", "nets",
    "data", "evaluation", "methods", "refinement", "fitting",
    "viz_posterior", "viz_reliability", "viz", "viz_refiner", "viz_viewpoint", "viz_category", "viz_box3d", "outputs",
    "external_boxes", "heeded", "results",
    "learning", "train", "train_viewpoint", "train_box3d", "train_category", "pipeline", "bop_runs",
    "viewpoint_pipeline", "box3d_pipeline",
    "tracking", "export", "check_folder", "check",
    "app", "demo", "calibrate", "fit_identity", "doctor",
    "object_commands", "viewpoint_commands", "category_commands", "box3d_commands",
    "cli", "__main__",
)  # fmt: skip
LEVEL = {name: level for level, name in enumerate(ORDER)}
STRANGERS = {  # rooms that could, by the order, and still must not
    "render": {"images", "weights", "symmetry_proposals"},
    "pnp": {"images", "weights", "mesh", "symmetry_proposals", "render"},
    "nets": set(ORDER) - {"nets", "geometry"},
    "methods": {"data", "evaluation", "images", "weights"},
    "evaluation": {"pnp", "nets", "images", "weights"},
    "pipeline": {"learning", "train", "train_viewpoint", "evaluation"},
    "bop_runs": {"learning", "train", "train_viewpoint", "evaluation"},
}
LATE = {("types", "geometry")}  # Camera.resized leads to its formula, when it is called
OWNERS = {  # a library -> the only files that may import it
    "trimesh": {"mesh.py"},
    "tyro": {"cli.py", "options.py"},
    "safetensors": {"weights.py", "nets/perceptual.py"},  # which reads an encoder out of a bundled file
    "lightning": {"learning.py"},
    "triton": {"render/raster_triton.py", "pnp/kernels/"},
    "matplotlib": set(),
    "requests": set(),
    "urllib": {"weights.py", "data/download.py"},
}
LAZY = {"cv2", "trimesh", "numba", "lightning", "triton", "poselib"}  # heavy to import
LAZY_EXEMPT = {  # modules that are themselves imported only when needed
    "learning.py": {"lightning"},
    "data/augment.py": {"cv2"},
    "data/dataset.py": {"cv2"},
    "contour/kernels.py": {"numba"},
    "render/raster_numba.py": {"numba"},
    "render/raster_triton.py": {"triton"},
    "pnp/kernels/numba_costs.py": {"numba"},
    "pnp/kernels/amis_cpu.py": {"numba"},
    "pnp/kernels/triton_costs.py": {"triton"},
    "pnp/kernels/triton_solve.py": {"triton"},
}


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Absolute names of what a file imports, with the line, and whether it happens on importing the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["monopose", *path.relative_to(SOURCE).parent.parts]
    late: set[ast.AST] = set()
    for node in ast.walk(tree):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if checking or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            late |= set(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node not in late
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                yield f"{stem}.{alias.name}", node.lineno, node not in late


def _own(name: str) -> str | None:
    """The room that an imported name lies in, None for other packages and for names of monopose itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "monopose" and len(parts) > 1 and parts[1] in LEVEL else None


def test_every_room_has_its_place():
    rooms = {_room(path) for path in FILES} - {"__init__"}
    assert rooms <= set(LEVEL), f"put {sorted(rooms - set(LEVEL))} into ORDER"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_run_downwards(path):
    room = _room(path)
    if room == "__init__":
        return  # resolves the public names when they are used
    for name, line, on_import in _imports(path):
        other = _own(name)
        if other is None or other == room or ((room, other) in LATE and not on_import):
            continue
        where = f"{_name(path)}:{line} imports {name}"
        assert LEVEL[other] < LEVEL[room], f"{where}: {other} stands above {room}"
        assert other not in STRANGERS.get(room, set()), f"{where}: {room} should not know {other}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_libraries_have_one_owner(path):
    for name, line, _ in _imports(path):
        owners = OWNERS.get(name.split(".")[0])
        if owners is not None:
            mine = any(_name(path) == o or (o.endswith("/") and _name(path).startswith(o)) for o in owners)
            assert mine, f"{_name(path)}:{line} imports {name}; only {sorted(owners) or 'nobody'} may"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_heavy_libraries_are_imported_where_they_are_used(path):
    for name, line, on_import in _imports(path):
        top = name.split(".")[0]
        if top in LAZY and top not in LAZY_EXEMPT.get(_name(path), set()):
            assert not on_import, f"{_name(path)}:{line} imports {top} at the top; do it in the function that needs it"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_the_command_line_prints(path):
    if _name(path) == "cli.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), f"{_name(path)}:{node.lineno} calls {node.func.id}"


@pytest.mark.parametrize("path", [p for p in FILES if _room(p) == "methods" and p.stem != "__init__"], ids=_name)
def test_methods_never_import_each_other(path):
    for name, line, _ in _imports(path):
        if name.startswith("monopose.methods."):
            own = path.relative_to(SOURCE).parts[1].removesuffix(".py")  # a file, or a folder of them
            assert name.split(".")[2] in (own, "objects", "silhouettes"), f"{_name(path)}:{line} imports {name}"


def test_importing_monopose_imports_nothing_heavy():
    code = (
        "import sys, monopose\n"
        "monopose.__version__, dir(monopose)\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'trimesh', 'numba', 'scipy', 'tyro'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_exist():
    import monopose

    for name in monopose.__all__:
        assert getattr(monopose, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'; public names: .*Camera"):
        monopose.nothing  # noqa: B018
