"""Rehearse every chapter as Colab would run it: install cell first, then the rest without a network.

    python tools/rehearse.py [NOTEBOOK ...]         in an environment of its own that has what Colab has
    python tools/rehearse.py --here [NOTEBOOK ...]  in this one, which is Colab's image

Needs nothing but Python, git and a package registry. Where this interpreter has torch, its packages are
linked into the new environment; elsewhere they are installed there. The last commit is rehearsed: git answers
for the repository's address with this folder, so that the text of the install cells stays as it is.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COLAB = (
    *("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib"),
    *("tqdm", "ipywidgets", "ipykernel", "nbclient"),
)
STUB = """
import sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
"""
# An audit hook cannot be taken back. Sockets within the machine stay: the kernel itself talks through them.
NETWORK_OFF = """
import socket, sys

def _stay_here(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
        if not (host == "localhost" or host == "::1" or host.startswith("127.")):
            raise OSError(f"the network is off: {host}")
    elif event == "socket.getaddrinfo" and arguments[0] not in (None, "localhost", "127.0.0.1", "::1"):
        raise OSError(f"the network is off: {arguments[0]}")

sys.addaudithook(_stay_here)
try:
    socket.create_connection(("pypi.org", 443))
except OSError as error:
    assert "the network is off" in str(error)
else:
    raise AssertionError("the network is not off")
import csos_lib
assert "-packages" in csos_lib.__file__, csos_lib.__file__
print("csos_lib", csos_lib.__file__)
"""


def command(*words: object, **options: object) -> None:
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, **options)  # type: ignore[call-overload]


def linked(names: tuple[str, ...], target: Path) -> None:
    """Link these packages of this interpreter, and what they need, into a site-packages folder.

    Hard links, so that pip may replace or remove them there and nothing happens to them here.
    """
    todo, done = list(names), set()
    while todo:
        wanted = todo.pop()
        name, extras = re.match(r"([\w.-]+)(?:\[(.*?)\])?", wanted).groups()  # type: ignore[union-attr]
        if wanted in done:
            continue
        done.add(wanted)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a requirement for another system
        for line in found.requires or []:
            requirement, _, marker = line.partition(";")
            extra = re.search(r"extra == .([\w-]+)", marker)
            if extra is None or extra[1] in (extras or "").split(","):
                todo.append(re.sub(r"[^\w.\[\],-].*", "", requirement.replace(" ", "")))
        for file in found.files or []:
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.is_file():
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target / file)
                except FileExistsError:
                    pass
                except OSError:  # another disk
                    shutil.copy(source, target / file)
    print(f"linked {len(done)} packages of {sys.prefix}")


def new_environment(folder: Path) -> Path:
    """The interpreter of a new environment that has what Colab has, and nothing of ours."""
    print("== an environment with what Colab has:", *COLAB)
    command(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    if all(importlib.util.find_spec(name.replace("scikit-learn", "sklearn")) for name in COLAB):
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = subprocess.run([python, "-c", query], check=True, capture_output=True, text=True).stdout
        linked(COLAB, Path(site.strip()))
    else:
        command(python, "-m", "pip", "install", "--quiet", *COLAB)
    return python


def installed() -> dict[str, str]:
    """Names and versions of what this interpreter has, asked anew."""
    query = "from importlib.metadata import distributions as d\nfor x in d(): print(x.name, x.version)"
    lines = subprocess.run(
        [sys.executable, "-P", "-c", query], check=True, capture_output=True, text=True
    ).stdout
    return dict(line.split(" ", 1) for line in lines.splitlines())


def rehearse(path: Path, folder: Path) -> str:
    """Run one chapter, its install cell first; what was wrong, or nothing. Takes away what was installed."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    install = notebook.cells[place]
    install.metadata.tags = []  # the other runs skip it
    print(install.source.splitlines()[-1].strip(), flush=True)
    new_cell = nbformat.v4.new_code_cell
    notebook.cells[place : place + 1] = [new_cell(STUB), install, new_cell(NETWORK_OFF)]
    before, start, wrong = installed(), time.monotonic(), ""
    try:
        NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(folder))
    except CellExecutionError as error:
        wrong = str(error)
    after = installed()
    changed = [
        f"{name} {before[name]} -> {after.get(name)}" for name in before if before[name] != after.get(name)
    ]
    new = sorted(after.keys() - before.keys())
    seconds = time.monotonic() - start
    kept = ", ".join(f"{name} {after.get(name)}" for name in ("torch", "numpy"))
    print(f"{seconds:.0f} s; installed {', '.join(new)}; still {kept}", flush=True)
    if new:
        pip = [sys.executable, "-P", "-m", "pip", "uninstall", "--quiet", "--yes", *new]
        subprocess.run(pip, check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})
    if changed:
        wrong += f"\nthe install cell changed {', '.join(changed)}"
    return wrong


def here(paths: list[Path]) -> int:
    """Rehearse in this interpreter's environment; the number of chapters that failed."""
    sys.path.insert(0, str(ROOT / "tools"))
    import set_repository

    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("== the last commit, and its wheel")
        repository = folder / "repository"
        command("git", "clone", "--quiet", "--no-local", ROOT, repository)
        command(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, repository)
        wheel = next(folder.glob("*.whl"))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        for path in paths:
            print(f"== {path.name}", flush=True)
            os.environ.update(
                GIT_CONFIG_COUNT="1",
                GIT_CONFIG_KEY_0=f"url.{repository.as_uri()}.insteadOf",
                GIT_CONFIG_VALUE_0=set_repository.current(),
                OMP_NUM_THREADS="1",
            )
            wrong = rehearse(path, folder)
            failures += bool(wrong)
            print(f"FAILED: {wrong}" if wrong else "passed")
    print(f"== {len(paths) - failures} of {len(paths)} chapters run as in Colab")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--here", action="store_true", help="this environment is Colab's image")
    arguments = parser.parse_args()
    paths = [path.resolve() for path in arguments.notebooks] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if arguments.here:
        return 1 if here(paths) else 0
    with tempfile.TemporaryDirectory() as name:
        python = new_environment(Path(name))
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        script = [python, __file__, "--here", *paths]
        return subprocess.run([str(word) for word in script], env=clean, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
