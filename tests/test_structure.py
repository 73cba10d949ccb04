"""The house is as docs/architecture.md says: who imports whom, what is public, how long a file is, what the README types."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import ppl_vae

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ppl_vae"

# The direction line of docs/architecture.md, floor by floor. A room imports only from lower floors, or itself.
FLOORS = (
    ("_random", "_arviz"),
    ("nn", "distributions", "data", "storage"),
    ("pair",),
    ("models", "guides"),
    ("objectives",),
    ("training",),
    ("evidence",),
    ("diagnostics",),
    ("plots",),
    ("saving",),
    ("result",),
    ("inference",),
    ("recipes",),
    ("loading", "cli"),
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
# recipes/session.py opens runs by the public name ppl_vae.load, at call time.
FOLDERS = (PACKAGE, PACKAGE / "models", PACKAGE / "guides")  # the last two are links, which rglob does not follow
SOURCES = sorted({path for folder in FOLDERS for path in folder.rglob("*.py")} - {PACKAGE / "__init__.py"})


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """The rooms that a source imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module == "ppl_vae":
            names = [f"ppl_vae.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("ppl_vae.")}
    return found


def violations(room: str, source: str) -> set[str]:
    return {other for other in imported_rooms(source) if other != room and FLOOR[other] >= FLOOR[room]}


def test_the_table_knows_every_room():
    rooms = {room_of(path) for path in SOURCES}
    assert rooms == set(FLOOR)
    line = next(row for row in (ROOT / "docs/architecture.md").read_text().splitlines() if row.startswith("Direction:"))
    named = re.findall(r"\w+", line.removeprefix("Direction:"))
    floors = [FLOOR[name] for name in named]
    assert floors == sorted(floors)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_never_run_back_up(path):
    assert not violations(room_of(path), path.read_text())


def test_the_twin_an_import_that_runs_up_is_seen():
    assert violations("pair", "from ppl_vae.training import Trainer") == {"training"}
    assert violations("models", "import ppl_vae.guides.mean_field") == {"guides"}
    assert violations("training", "def f():\n    from ppl_vae.evidence import log_evidence") == {"evidence"}
    assert not violations("training", "from ppl_vae.pair import Pair")


@pytest.mark.parametrize("name", [name for name in ppl_vae.__all__ if not name.startswith("_")])
def test_every_public_name_is_documented(name):
    thing = getattr(ppl_vae, name)
    assert (inspect.getdoc(thing) or "").strip(), f"{name} has no docstring"


def test_no_file_is_over_500_lines():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    paths = [ROOT / line for line in listed.stdout.splitlines()] or list(ROOT.rglob("*.py"))
    return [path for path in paths if path.is_file() and path.suffix in {".py", ".md", ".cfg", ".toml", ".txt", ""}]


def test_no_file_names_a_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+)/")
    named = [str(p.relative_to(ROOT)) for p in tracked_files() if p != Path(__file__) and pattern.search(p.read_text())]
    assert not named


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


SHORTER = {
    "epochs=150": "epochs=2",
    "epochs=50": "epochs=1",
    "num_samples=1000": "num_samples=40",
    "steps=2000": "steps=5",
}


def test_the_readme_runs_as_typed(tmp_path, monkeypatch):
    """All Python blocks, in order, as one script; only the numbers of epochs and draws are smaller."""
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks((ROOT / "README.md").read_text())
    assert len(blocks) >= 2
    script = "\n".join(blocks)
    for long, short in SHORTER.items():
        script = script.replace(long, short)
    exec(compile(script, "README.md", "exec"), {})
    assert (tmp_path / "runs/vae/model.safetensors").exists()
