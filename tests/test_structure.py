"""The house is as docs/architecture.md says: who imports whom, what is public, how long files are, that README runs."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from pathlib import Path

import pyro
import pytest

import ppl_vae

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ppl_vae"

# The direction line of docs/architecture.md, floor by floor. A room imports only from lower floors, or itself.
FLOORS = (
    ("_version", "_random", "_psis"),
    ("_arviz", "_private"),
    ("nn", "distributions", "data", "storage", "plots"),
    ("pair", "flows"),
    ("models", "guides"),
    ("objectives", "capture"),
    ("training",),
    ("evidence",),
    ("diagnostics",),
    ("saving", "predictions", "fit_plots"),
    ("result",),
    ("inference",),
    ("__init__",),  # the face: what stands above it may reach things by their public names
    ("recipes",),
    ("loading",),
    ("commands",),  # what the commands do: they open runs with ppl_vae.load, as anybody does
    ("cli",),
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
FOLDERS = (PACKAGE, PACKAGE / "models", PACKAGE / "guides")  # the last two are links, which rglob does not follow
SOURCES = sorted({path for folder in FOLDERS for path in folder.rglob("*.py")} - {PACKAGE / "__init__.py"})


def room(dotted: str) -> str:
    """The room of a module or name inside the package: of its longest prefix in the table.

    A name of the catalogue stands for the module it comes from: ``ppl_vae.load`` for ``ppl_vae.loading``; the package
    itself, and what only it holds, for its face.
    """
    if not dotted or dotted.startswith("__"):
        return "__init__"
    home = ppl_vae._HOME.get(dotted.partition(".")[0])
    parts = (home.removeprefix("ppl_vae.") if home else dotted).split(".")
    prefixes = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in FLOOR), parts[0])


def room_of(path: Path) -> str:
    return room(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def imported_rooms(source: str) -> set[str]:
    """The rooms that a source imports, wherever in it the import stands, or reaches through ``ppl_vae.NAME``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports across files are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ppl_vae":
            found.add(f"ppl_vae.{node.attr}")
    inside = {name.removeprefix("ppl_vae").removeprefix(".") for name in found if f"{name}.".startswith("ppl_vae.")}
    return {room(name) for name in inside}


def violations(importer: str, source: str) -> set[str]:
    return {other for other in imported_rooms(source) if other != importer and FLOOR[other] >= FLOOR[importer]}


def test_the_table_knows_every_room():
    rooms = {room_of(path) for path in SOURCES}
    assert rooms == set(FLOOR) - {"__init__"}
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
    assert violations("storage", "def f():\n    import ppl_vae") == {"__init__"}
    assert violations("storage", "from ppl_vae import __version__") == {"__init__"}
    assert violations("storage", "import ppl_vae as p\np.__version__") == {"__init__"}
    assert violations("recipes", "import ppl_vae\nfit = ppl_vae.load('run')") == {"loading"}
    assert not violations("training", "from ppl_vae.pair import Pair")
    assert not violations("storage", "from ppl_vae._version import __version__")
    assert not violations("commands", "import ppl_vae\nfit = ppl_vae.load('run')")


def takers_of_the_common_call() -> set[str]:
    """The files of models and guides with a ``forward`` that lists x, y, mask and num_samples."""
    common = {"x", "y", "mask", "num_samples"}
    return {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "forward"
        if common <= {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    }


def test_the_common_call_stands_once_a_side():
    """Besides, what has no use for it names it: a density without data, and a guide that asks for the rows' numbers."""
    once = {"models/model.py", "guides/amortized.py"}
    assert takers_of_the_common_call() == once | {"models/energy.py", "guides/mean_field.py"}


# Private names that are used where they are, and why.
OF_A_SUBCLASS = {"_validate_args", "_validate_sample", "_extended_shape", "_get_checked_instance"}
"""What torch's own distributions are written with, and so must those of anybody else."""
OF_PYTHON = {"_signal", "_fields", "_getframe"}


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(tree: ast.AST) -> set[str]:
    """Names that a source defines: functions, classes, variables, and the attributes and buffers that it sets."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "register_buffer":
            found |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return found


BY_NAME = ("getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller")


def foreign_names(tree: ast.AST, own: set[str]) -> set[str]:
    """Private names that a source uses and that nothing of ours defines: by import, attribute, or as a string."""
    found: set[object] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            paths = [f"{getattr(node, 'module', '')}.{alias.name}" for alias in node.names]
            found |= {part for path in paths if "ppl_vae" not in path for part in path.split(".") if is_private(part)}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in BY_NAME:
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {str(name) for name in found if is_private(name)} - own


TREES = {path: ast.parse(path.read_text()) for path in SOURCES if path.name != "_private.py"}
OWN = set().union(*map(own_names, TREES.values()))


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_of_libraries_stand_in_one_file(path):
    assert not foreign_names(TREES[path], OWN) - OF_A_SUBCLASS - OF_PYTHON


def test_the_twin_a_private_name_is_seen():
    sources = {
        "from torch.optim.optimizer import _global_hooks": "_global_hooks",
        "import torch._inductor.config": "_inductor",
        "import torch\nx = torch._fused_nothing_(1)": "_fused_nothing_",
        "def f(store):\n    return store._params": "_params",
        "hooks = operator.attrgetter('_backward_hooks')": "_backward_hooks",
    }
    for source, name in sources.items():
        assert foreign_names(ast.parse(source), OWN) == {name}, source
    assert not foreign_names(ast.parse("from ppl_vae import _private"), OWN)


@pytest.mark.parametrize("name", [name for name in ppl_vae.__all__ if not name.startswith("_")])
def test_every_public_name_is_documented(name):
    thing = getattr(ppl_vae, name)
    assert (inspect.getdoc(thing) or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("name", ppl_vae._ROOMS)
def test_every_public_name_of_a_room_is_documented(name):
    rooms = getattr(ppl_vae, name)
    things = {public: getattr(rooms, public) for public in getattr(rooms, "__all__", ())}
    speaking = {public: thing for public, thing in things.items() if callable(thing) or inspect.ismodule(thing)}
    assert inspect.getdoc(rooms)
    assert not [public for public, thing in speaking.items() if not (inspect.getdoc(thing) or "").strip()]


def lines_over(most: int, files: list[Path]) -> dict[str, int]:
    return {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > most}


def test_no_file_is_long():
    assert not lines_over(400, SOURCES)
    scripts = [path for folder in ("examples", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    assert not lines_over(500, scripts)


@pytest.mark.parametrize(
    "name", ["inference.compiled_svi.CompiledSVI", "capture.program.Program", "training.trainer.Trainer", "result.Fit"]
)
def test_a_class_with_a_life_is_under_250_lines(name):
    path, _, kind = name.rpartition(".")
    (node,) = (
        node
        for node in ast.parse((PACKAGE / f"{path.replace('.', '/')}.py").read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == kind
    )
    assert node.end_lineno - node.lineno < 250


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    paths = [ROOT / line for line in listed.stdout.splitlines()] or list(ROOT.rglob("*.py"))
    return [path for path in paths if path.is_file() and path.suffix in {".py", ".md", ".cfg", ".toml", ".txt", ""}]


def test_no_file_names_a_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.])/(?:work|root|tmp/dev|home/\w+|Users/\w+)/")
    named = [str(p.relative_to(ROOT)) for p in tracked_files() if p != Path(__file__) and pattern.search(p.read_text())]
    assert not named


# Names in the right-hand column of docs/theory.md that are words of Pyro or of the mathematics, or options.
NOT_NAMES = {"rsample", "evidence", "elbo", "gap", "reconstruction", "kl", "e_lr", "m_lr", "beta", "free_bits"}


def names_in_theory() -> list[str]:
    """The names in backticks in the last column of the tables of docs/theory.md."""
    rows = [line for line in (ROOT / "docs/theory.md").read_text().splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\)\|", row)[-2] for row in rows]
    return sorted({name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)} - NOT_NAMES)


@pytest.mark.parametrize("name", names_in_theory())
def test_every_name_in_the_theory_exists(name):
    first, *rest = name.split(".")
    thing = getattr(ppl_vae, first)
    for part in rest:
        thing = getattr(thing, part)
    assert thing is not None


def test_the_tables_of_the_theory_are_read():
    assert {"objectives.ELBO", "Fit.encode", "guides.MeanField"} <= set(names_in_theory())


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


SHORTER = {
    "epochs=150": "epochs=2",
    "epochs=50": "epochs=1",
    "num_samples=1000": "num_samples=40",
    "num_replicates=1000": "num_replicates=3",
    "steps=2000": "steps=5",
}


@pytest.mark.filterwarnings("ignore:\\s*ArviZ is undergoing:FutureWarning")  # it says so on its first import of a day
def test_the_readme_runs_as_typed(tmp_path, monkeypatch):
    """All Python blocks, in order, as one script; only the numbers of epochs and draws are smaller."""
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks((ROOT / "README.md").read_text())
    assert len(blocks) >= 2
    script = "\n".join(blocks)
    for long, short in SHORTER.items():
        script = script.replace(long, short)
    with pyro.get_param_store().scope():  # CompiledSVI uses Pyro's own store, as SVI does
        exec(compile(script, "README.md", "exec"), {})
    assert (tmp_path / "runs/vae/model.safetensors").exists()
