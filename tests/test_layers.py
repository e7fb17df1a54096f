"""The rules of the house that a parser can see: who may import whom, who prints, what stays out of an instant start."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "monopose"
FILES = sorted(p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).parts[0] != "assets")  # those are other programs

# Five storeys. A name may import those of lower storeys, and of its own storey those to its left where "<" stands between.
STOREYS = (
    "compiled geometry < types",
    "io render nets < exported weights command < mesh pnp contour",
    "datasets < evaluation synthesis < viz detection < training prediction",
    "objects viewpoint category road < tracking",
    "runs < commands < cli < __main__",
)
PLACE = {
    name: (storey, group)
    for storey, groups in enumerate(STOREYS)
    for group, names in enumerate(groups.split(" < "))
    for name in names.split()
}
OWNERS = {  # a library -> the only files that may import it
    "trimesh": {"mesh/"},
    "tyro": {
        "cli.py",
        "command.py",
        "commands/options.py",
        "objects/options.py",
        "viewpoint/options.py",
        "category/options.py",
        "road/options.py",
        "tracking/options.py",
    },
    "safetensors": {"weights.py", "category/perceptual.py"},  # which reads an encoder out of a bundled file
    "lightning": {"training/loop.py"},
    "triton": {"render/raster_triton.py", "pnp/kernels/"},
    "manifold3d": {"synthesis/shapes/"},
    "matplotlib": {"viz/figure.py"},
    "bpy": {"synthesis/blender.py"},
    "mathutils": {"synthesis/blender.py"},
    "pooch": {"datasets/download.py"},
    "huggingface_hub": {"datasets/download.py", "io/hub.py", "commands/publish.py"},
    "ray": {"commands/cluster.py"},
    "onnxruntime": {"exported.py"},
    "viser": {"commands/viewer.py"},
    "h5py": {"commands/original_weights.py"},
    "requests": set(),
    "urllib": {"datasets/download.py", "io/hub.py"},
}
LIGHT = (
    "cli.py",
    "command.py",
    *(f"{family}/options.py" for family in ("commands", "objects", "viewpoint", "category", "road", "tracking")),
)
LAZY = {
    "cv2",
    "trimesh",
    "manifold3d",
    "numba",
    "lightning",
    "triton",
    "poselib",
    "matplotlib",
    "pooch",
    "huggingface_hub",
    "bpy",
    "mathutils",
    "torchvision",
}  # heavy to import
LAZY_EXEMPT = {  # modules that are themselves imported only when needed
    "training/loop.py": {"lightning"},
    "detection/two_stage.py": {"torchvision"},
    "category/perceptual.py": {"torchvision"},
    "road/pyramid.py": {"torchvision"},
    "road/inference.py": {"torchvision"},
    "road/losses.py": {"torchvision"},
    "viz/figure.py": {"matplotlib"},
    "synthesis/augment.py": {"cv2"},
    "synthesis/samples.py": {"cv2"},
    "datasets/bop/pictures.py": {"cv2"},
    "objects/samples.py": {"cv2"},
    "detection/samples.py": {"cv2"},
    "render/raster_numba.py": {"numba"},
    "synthesis/fused.py": {"cv2", "numba"},
    "render/raster_triton.py": {"triton"},
    "pnp/kernels/numba_costs.py": {"numba"},
    "contour/kernels.py": {"numba"},
    "pnp/kernels/triton_costs.py": {"triton"},
    "pnp/kernels/triton_solve.py": {"triton"},
}


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def _module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def _top(name: str) -> str:
    return name.split(".")[0]


MODULES = {_module(path): path for path in FILES}


# scope: all tests of a file one after another, so that it is parsed once
each_file = pytest.mark.parametrize("path", FILES, ids=_name, scope="module")


@lru_cache(maxsize=2)
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(path: Path) -> tuple[tuple[str, int, bool], ...]:
    return tuple(_walk_imports(path))


def _walk_imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Absolute names of what a file imports, with the line, and whether it happens on importing the file.

    What stands under TYPE_CHECKING is left out: it never happens.
    """
    tree = _tree(path)
    package = ["monopose", *path.relative_to(SOURCE).parent.parts]
    late: set[ast.AST] = set()
    never: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            never |= set(ast.walk(node))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            late |= set(ast.walk(node))
    for node in ast.walk(tree):
        if node in never:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node not in late
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                yield f"{stem}.{alias.name}", node.lineno, node not in late


def _own(name: str) -> str | None:
    """The module of monopose that an imported name is or lies in; None for other packages."""
    if _top(name) != "monopose":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or None


def test_every_file_has_its_storey():
    tops = {_top(_module(path)) for path in FILES} - {"__init__"}
    assert tops <= set(PLACE), f"put {sorted(tops - set(PLACE))} into STOREYS"


@each_file
def test_imports_run_downwards(path):
    here = _top(_module(path))
    if here == "__init__":
        return  # resolves the public names when they are used
    for name, line, _ in _imports(path):
        other = _own(name)
        if other is not None and _top(other) != here:
            where = f"{_name(path)}:{line} imports {name}"
            assert PLACE[_top(other)] < PLACE[here], f"{where}: {_top(other)} stands above or beside {here}"


@pytest.mark.slow
def test_no_imports_in_circles():
    edges = {m: {_own(n) for n, _, _ in _imports(p)} - {None, m} for m, p in MODULES.items()}
    state: dict[str, int] = {}

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for other in sorted(edges.get(module, ())):
            assert state.get(other) != 1, " -> ".join([*path[path.index(other) if other in path else 0 :], module, other])
            if other not in state:
                visit(other, [*path, module])
        state[module] = 2

    for module in MODULES:
        if module not in state and module != "__init__":
            visit(module, [])


@each_file
def test_private_names_stay_in_their_file(path):
    local: dict[str, str] = {}
    tree = _tree(path)
    for name, line, _ in _imports(path):
        if _own(name) is not None:
            last = name.rpartition(".")[2]
            assert not last.startswith("_") or last.startswith("__"), f"{_name(path)}:{line} imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and (getattr(node, "level", 0) or "monopose" in ast.unparse(node)):
            local |= {a.asname or a.name: a.name for a in node.names}
    modules = {key for key, name in local.items() if any(m == name or m.endswith("." + name) for m in MODULES)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not private, f"{_name(path)}:{node.lineno} uses {node.value.id}.{node.attr}"


@each_file
def test_libraries_have_one_owner(path):
    for name, line, _ in _imports(path):
        owners = OWNERS.get(_top(name))
        if owners is not None:
            mine = any(_name(path) == o or (o.endswith("/") and _name(path).startswith(o)) for o in owners)
            assert mine, f"{_name(path)}:{line} imports {name}; only {sorted(owners) or 'nobody'} may"


@each_file
def test_heavy_libraries_are_imported_where_they_are_used(path):
    for name, line, on_import in _imports(path):
        if _top(name) in LAZY and _top(name) not in LAZY_EXEMPT.get(_name(path), set()):
            assert not on_import, f"{_name(path)}:{line} imports {_top(name)} at the top; do it in the function that needs it"


@each_file
def test_only_the_command_line_prints(path):
    if _name(path) == "cli.py":
        return
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), f"{_name(path)}:{node.lineno} calls {node.func.id}"


@each_file
def test_files_of_strangers_run_nothing(path):
    """Nobody unpickles, torch only as data; trimesh and Pillow open no file beside the readers with limits."""
    for name, line, _ in _imports(path):
        assert _top(name) not in ("pickle", "dill", "joblib", "shelve", "marshal"), f"{_name(path)}:{line} imports {name}"
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.Call):
            continue
        called, place = ast.unparse(node.func), f"{_name(path)}:{node.lineno}"
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert not called.startswith("trimesh.load"), f"{place} lets trimesh open a file"
        assert called not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"), f"{place} loads YAML with code in it"
        assert called != "torch.load" or given.get("weights_only") == "True", f"{place} unpickles"
        assert called != "np.load" or given.get("allow_pickle", "False") == "False", f"{place} unpickles"
        own = _name(path) in ("io/limits.py", "synthesis/blender.py")  # which reads what it has just rendered
        assert called != "Image.open" or own, f"{place}: pictures come through limits.picture"


def test_importing_monopose_and_its_options_imports_nothing_heavy():
    light = [f"monopose.{_module(SOURCE / name)}" for name in LIGHT if (SOURCE / name).is_file()]
    code = (
        f"import sys, monopose, {', '.join(light)}\n"
        "monopose.__version__, dir(monopose)\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'trimesh', 'numba', 'scipy'} & set(sys.modules)\n"
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
