"""Set the repository's address wherever it stands.

python tools/set_repository.py https://github.com/OWNER/NAME
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ADDRESS = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+)")
FILES = ("CITATION.cff", "_config.yml", "pyproject.toml", "README.md", "book/*.md", "notebooks/*.ipynb")


def current() -> str:
    """The address that _config.yml gives."""
    found = re.search(r"^  url: (\S+)$", (ROOT / "_config.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def variants(address: str) -> dict[str, str]:
    """How an address is written in the project: itself, and in Colab's links."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise SystemExit(f"the address must look like https://github.com/OWNER/NAME, got {address!r}")
    owner, name = found.groups()
    return {
        "repository": address,
        "colab": f"https://colab.research.google.com/github/{owner}/{name}/",
    }


def paths() -> list[Path]:
    return [path for pattern in FILES for path in sorted(ROOT.glob(pattern))]


def main(address: str) -> None:
    old, new = variants(current()), variants(address.rstrip("/"))
    for path in paths():
        text = before = path.read_text(encoding="utf-8")
        for kind in old:
            text = text.replace(old[kind], new[kind])
        if text != before:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: set")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
