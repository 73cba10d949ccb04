"""What a person gets who installs the package, and that the catalogue costs nothing until it is used."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import ppl_vae

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "pyro", "arviz", "matplotlib", "sklearn", "pandas", "numpy", "scipy", "zuko", "xarray")
NOT_SOURCE = (".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "runs")


def run(command: list[str | Path], cwd: Path) -> str:
    """Output of a command in a clean environment; its whole output is the message when it fails."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# the wheel and the sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from that sdist."""
    place = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, place / "source", symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", place / "source"], place)
    return place / "dist"


def wheel_names(built: Path) -> list[str]:
    (wheel,) = built.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_one_top_level_package(built: Path) -> None:
    tops = {name.split("/")[0] for name in wheel_names(built)}
    assert tops == {"ppl_vae", f"ppl_vae-{ppl_vae.__version__}.dist-info"}


def test_the_wheel_holds_the_page_of_a_diagnosis(built: Path) -> None:
    assert "ppl_vae/diagnostics/diagnosis/report.html" in wheel_names(built)


def test_the_wheel_holds_every_source_file(built: Path) -> None:
    names = set(wheel_names(built))
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ppl_vae").rglob("*.py")}
    linked = {
        f"ppl_vae/{room}/{path.relative_to(ROOT / room).as_posix()}"
        for room in ("models", "guides")
        for path in (ROOT / room).rglob("*.py")
    }
    assert linked
    assert sources | linked | {"ppl_vae/py.typed"} <= names


def test_the_sdist_holds_plain_files(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = {member.name.split("/", 1)[-1] for member in members if member.isfile()}
    assert {"ppl_vae/models/vae.py", "ppl_vae/guides/amortized_normal.py", "LICENSE", "setup.cfg"} <= names


FIT = """
import sys, torch, ppl_vae
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
assert ppl_vae.__file__.startswith(sys.prefix), ppl_vae.__file__
model = VAE(MLP(2, 5, hidden=(8,)), latent_dim=2, likelihood="bernoulli")
guide = AmortizedNormal(MLP(5, 4, hidden=(8,)), latent_dim=2)
fit = ppl_vae.fit(model, guide, torch.ones(20, 5), steps=3, progress=False)
assert len(fit.elbo(torch.ones(20, 5))) == 20
try:
    import models
except ModuleNotFoundError:
    print("fitted")
"""


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment outside the tree with the wheel in it.

    The dependencies are those of the environment that runs the tests, found through a .pth file: to install
    torch again would take a minute. A path in a .pth file does not have its own .pth files read, so an
    editable installation of this repository there stays invisible.
    """
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False, symlinks=True)
    scheme = {"base": str(place), "platbase": str(place)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "--disable-pip-version-check"]
    run([*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel], place)
    return place


def test_the_wheel_fits_outside_the_tree(installed: Path) -> None:
    assert run([installed / "bin" / "python", "-c", FIT], installed).endswith("fitted\n")


def test_the_command_is_installed(installed: Path) -> None:
    assert ppl_vae.__version__ in run([installed / "bin" / "ppl-vae", "--version"], installed)


# a clone without symbolic links, as git makes one on Windows


@pytest.fixture
def unlinked(tmp_path: Path) -> Path:
    """The sources, with the small text files that git writes where it cannot make a link."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE, "tests", "docs"))
    for room in ("models", "guides"):
        (clone / "ppl_vae" / room).unlink()
        (clone / "ppl_vae" / room).write_text(f"../{room}")
    return clone


def test_a_clone_without_links_finds_its_models(unlinked: Path) -> None:
    code = "import ppl_vae.models.priors, ppl_vae.guides; from ppl_vae.models import VAE; import ppl_vae.recipes"
    where = run([sys.executable, "-c", f"{code}; print(ppl_vae.guides.__file__)"], unlinked)
    assert where.strip() == str(unlinked / "guides" / "__init__.py")


def test_a_package_without_models_says_what_to_do(unlinked: Path) -> None:
    """As installed from a wheel that was built in such a clone: setuptools packs no folder, and says nothing."""
    copied = unlinked.parent / "installed"
    shutil.copytree(unlinked / "ppl_vae", copied / "ppl_vae", ignore=shutil.ignore_patterns("models", "guides"))
    for theirs in ("models", "guides"):  # packages of somebody else's, beside it
        (copied / theirs).mkdir()
        (copied / theirs / "__init__.py").touch()
    code = "try:\n    import ppl_vae\nexcept ImportError as error:\n    print(error)"
    assert "git config core.symlinks true" in run([sys.executable, "-c", code], copied)


def test_linked_folders_are_found_as_they_are() -> None:
    assert list(ppl_vae.__path__) == [str(ROOT / "ppl_vae")]


# the catalogue


def test_every_name_of_the_catalogue_is_found() -> None:
    for name in ppl_vae.__all__:
        assert getattr(ppl_vae, name) is not None
        assert name in dir(ppl_vae)


def test_no_public_name_is_also_a_module() -> None:
    """Importing ``ppl_vae/fit.py`` would put the module in the place of the function ``ppl_vae.fit``."""
    modules = {module.name for module in pkgutil.iter_modules(ppl_vae.__path__)}
    assert not modules & set(ppl_vae.__all__)


def test_importing_everything_leaves_the_catalogue_as_it_is() -> None:
    for module in pkgutil.walk_packages(ppl_vae.__path__, "ppl_vae."):
        importlib.import_module(module.name)
    assert callable(ppl_vae.fit)
    assert callable(ppl_vae.load)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ppl_vae' has no attribute 'nonsense'"):
        ppl_vae.nonsense  # noqa: B018


def test_the_two_lists_of_the_catalogue_agree() -> None:
    assert set(ppl_vae.__all__) == {*ppl_vae._HOME, "__version__"}
    tree = ast.parse(Path(ppl_vae.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name: node.module for node in typed.body for alias in node.names}  # type: ignore[attr-defined]
    assert imported == ppl_vae._HOME


@pytest.mark.parametrize("module", ["ppl_vae", "ppl_vae.cli", "ppl_vae.storage"])
def test_the_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    assert run([sys.executable, "-c", code], ROOT).split() == []


def test_the_version_is_said_once_and_the_rest_agrees() -> None:
    assert "version = attr: ppl_vae._version.__version__" in (ROOT / "setup.cfg").read_text()
    assert f"version: {ppl_vae.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_requirement_is_pinned() -> None:
    """A dependency that is not in constraints.txt would change under the feet of the tests."""
    import configparser
    import re

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"].values()
    lines = "\n".join([config["options"]["install_requires"], *extras]).split()
    needed = {re.split(r"[<>=\[]", line)[0].lower() for line in lines}
    pinned = {re.split("[<>=]", line)[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert needed <= pinned, needed - pinned


def test_continuous_integration_runs_the_same_command_as_a_person() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1] == "exec make test"


def test_the_canary_takes_the_newest_and_finds_its_tests() -> None:
    done = subprocess.run(["make", "-n", "canary"], cwd=ROOT, capture_output=True, text=True, check=True)
    (install,) = [line for line in done.stdout.splitlines() if " -m pip install" in line]
    assert "--upgrade" in install and "constraints" not in install and ".venv-canary/" in install
    (tests,) = [line for line in done.stdout.splitlines() if " -m pytest" in line]
    paths = tests.partition(" -m pytest ")[2].split()
    assert "tests/test_private.py" in paths
    assert all((ROOT / path).exists() for path in paths)
