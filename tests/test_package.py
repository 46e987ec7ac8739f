"""What is installed: the light import, the extras, the wheel of a release, and who sees its types."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import csos_lib
from csos_lib import relatives

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OPTIONAL = ("torchvision", "matplotlib", "ipywidgets", "anywidget", "scipy", "sklearn", "tensorly")
OPTIONAL += ("torchdiffeq", "torchdeq", "IPython", "pandas", "joblib", "dask")


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints that finds this csos_lib."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def requirements(names: list[str]) -> set[str]:
    """Names of packages, those of the project's own extras followed."""
    found = set()
    for requirement in map(Requirement, names):
        if canonicalize_name(requirement.name) == "csos-lib":
            for extra in requirement.extras:
                found |= requirements(EXTRAS[extra])
        else:
            found.add(canonicalize_name(requirement.name))
    return found


def test_the_import_brings_nothing_that_is_optional() -> None:
    code = f"""
import sys, importlib.metadata
def unknown(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = unknown
import csos_lib
print(csos_lib.__version__, *[m for m in {OPTIONAL} if m in sys.modules])
"""
    assert python(code) == "0+unknown"  # and not an error, where it was never installed


def test_the_light_install_trains_reads_and_sorts() -> None:
    """As if nothing optional were there; each part that needs more names its extra."""
    code = f"""
import sys
for name in {OPTIONAL}:
    sys.modules[name] = None
import torch, csos_lib
from csos_lib.relatives.flow import Flow
data = csos_lib.load_dataset()
data = csos_lib.Dataset(*(t[:64] for t in data))
model = csos_lib.CSOS(12)
csos_lib.fit(model, data, epochs=1, progress=False)
csos_lib.evaluate(model, data.test_images, data.test_labels)
csos_lib.load_results("memo_seeds")
print(len(csos_lib.operators.mini_library(4)), csos_lib.interpret.attribute.__name__)
for name in csos_lib.relatives.__all__:
    getattr(csos_lib.relatives, name)
csos_lib.reactions.CPReaction.from_tensor(torch.rand(3, 3, 3), 2)
for need in (
    lambda: csos_lib.plots,
    lambda: csos_lib.animation,
    lambda: csos_lib.operators.mini_library(4).draw(),
    lambda: csos_lib.playground,
    lambda: Flow(),
    lambda: csos_lib.load_dataset("mnist", "/nowhere"),
):
    try:
        need()
    except ImportError as error:
        print(error)
"""
    first, *messages = python(code).splitlines()
    assert first == "32 attribute"
    extras = [re.findall(r'pip install "csos_lib\[(\w+)\]"', message) for message in messages]
    assert extras == [[name] for name in ("plots", "plots", "plots", "playground", "relatives", "data")]
    assert {name for [name] in extras} <= EXTRAS.keys()


def test_what_the_library_imports_is_declared() -> None:
    """Every import of a package of others is a dependency, or in an extra that the chapters have."""
    providers = packages_distributions()
    declared = requirements(PROJECT["dependencies"] + EXTRAS["chapters"]) | {"traitlets"}  # anywidget's own
    for path in (ROOT / "csos_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"csos_lib"}:
                found = {canonicalize_name(name) for name in providers[top]}
                assert found & declared, f"{path.name} imports {top}"


def test_the_chapters_are_served_by_their_extra() -> None:
    """In Colab nothing else is installed but what Colab has: Jupyter, and what torch brings along."""
    for name in ("data", "decompose", "features", "playground", "plots", "relatives"):
        assert requirements(EXTRAS[name]) <= requirements(EXTRAS["chapters"])
    assert requirements(EXTRAS["chapters"]) <= requirements(EXTRAS["book"]) & requirements(EXTRAS["test"])
    assert "jupyter-book" not in requirements(EXTRAS["chapters"])


def test_every_part_is_found_by_name_and_by_completion() -> None:
    for name in dir(csos_lib):
        assert getattr(csos_lib, name) is not None
    assert {"relatives", "plots", "playground", "animation", "exercises", "__version__"} <= set(dir(csos_lib))
    assert set(csos_lib.__all__) <= set(dir(csos_lib))
    files = {path.stem for path in Path(relatives.__file__).parent.glob("[!_]*.py")}
    assert set(relatives.__all__) == set(dir(relatives)) == files
    for module in (csos_lib, relatives):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018
    code = """
from csos_lib import *
import sys, csos_lib
print(relatives.games.__name__, "matplotlib" in sys.modules, csos_lib.plots.__name__)
"""
    assert python(code) == "csos_lib.relatives.games False csos_lib.plots"


def test_every_name_that_is_given_out_exists() -> None:
    for path in (ROOT / "csos_lib").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__}.{name}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a package is made of, in a folder of its own: building writes into it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "csos_lib", folder / "csos_lib", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the source distribution as a release makes it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert [path.suffix for path in sorted(folder.iterdir())] == [".whl", ".gz"]
    return next(folder.glob("*.whl"))


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(source: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {
        path.relative_to(source).as_posix() for path in (source / "csos_lib").rglob("*") if path.is_file()
    }
    for name in (
        "py.typed",
        "data/mnist5k.npz",
        "data/LICENSE.md",
        "results/scoreboard.csv",
        "playground/playground.js",
        "playground/digits.bin",
    ):
        assert f"csos_lib/{name}" in names
    assert wheel.stat().st_size < 5e6


def test_the_metadata_say_what_pyproject_says(wheel: Path) -> None:
    metadata = read_metadata(wheel)
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == PROJECT["license"]
    assert set(metadata.get_all("License-File", [])) == set(PROJECT["license-files"])
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS.keys()
    needs = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    assert {need.name for need in needs if need.marker is None} == {"torch", "numpy", "tqdm"}
    assert metadata.get_payload().startswith("# ")  # type: ignore[union-attr]


def test_a_registry_would_take_it(wheel: Path) -> None:
    files = map(str, wheel.parent.iterdir())
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", str(tmp_path), str(wheel)], check=True, capture_output=True)
    code = """
import csos_lib
print(csos_lib.__file__)
print(csos_lib.__version__)
model = csos_lib.playground.load_weights("mirror-cp")
data = csos_lib.load_dataset()
print(len(csos_lib.load_results("memo_seeds")), csos_lib.evaluate(model, *data[2:]).accuracy > 0.9)
"""
    file, version, works = python(code, PYTHONPATH=str(tmp_path)).splitlines()
    assert Path(file).is_relative_to(tmp_path)
    assert version == PROJECT["version"]
    assert works == "100 True"


def test_type_checkers_see_an_editable_install(source: Path, tmp_path: Path) -> None:
    """They follow the path in a .pth file, and never the code that finds a package when Python imports it."""
    code = f"import setuptools.build_meta as backend; backend.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        paths = [name for name in archive.namelist() if name.endswith(".pth")]
        assert [Path(archive.read(name).decode().strip()) for name in paths] == [source]
        assert not [name for name in archive.namelist() if "finder" in name]


def test_a_release_is_checked_before_it_is_published() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    commands = [step["run"] for step in build["steps"] if "run" in step]
    assert "python -m build" in commands
    assert "python -m twine check --strict dist/*" in commands
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert "RELEASE_TO_PYPI" in publish["if"], "nothing is published by accident"
