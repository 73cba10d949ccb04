"""The command line: what it writes, what it says, and that bad input is one clear line with exit code 2."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import run, succeed

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.commands import fitting
from ppl_vae.commands.plan import SIZES, Plan
from ppl_vae.data import load_digits
from ppl_vae.recipes.sources import NAMED
from ppl_vae.storage import RunFolder

HEAVY = ("torch", "pyro", "arviz", "matplotlib", "sklearn", "pandas", "numpy", "scipy", "xarray")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small data: binary images with labels and test rows, and a table of real numbers."""
    place = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 40)
    images = (rng.random((40, 9)) < 0.2 + 0.6 * classes[:, None]).astype(np.uint8)
    np.savez(
        place / "bits.npz",
        train=images[:30],
        test=images[30:],
        train_labels=classes[:30],
        test_labels=classes[30:],
    )
    table = rng.normal(size=(30, 3)) * [1.0, 1e-3, 1e3] + [0.0, 5.0, 1e4]
    np.savetxt(place / "table.csv", table, delimiter=",", header="a,b,c", comments="")
    return place


FIT = ("--epochs", 2, "--batch-size", 10, "--latent-dim", 2)


@pytest.fixture(scope="module")
def fitted(place: Path) -> tuple[Path, str]:
    """A small run, and what the command said."""
    folder = place / "fitted"
    return folder, succeed("fit", "vae", "--data", place / "bits.npz", *FIT, "--out", folder)


def table_of(output: str) -> str:
    caption = "nats per datum" if "nats per datum" in output else "nats, all rows together"
    return output[output.index(caption) : output.index("\n\n", output.index(caption))]


# help


@pytest.mark.parametrize("command", [[], ["fit"], ["evaluate"], ["sample"], ["encode"]])
def test_help_has_examples(command: list[str]) -> None:
    text = succeed(*command, "--help")
    assert "Examples:" in text
    assert re.search(r"^ +ppl-vae \w+", text, re.MULTILINE)


LIGHT = ("--help", "fit --help", "diagnose --help", "compare --help", "--version", "list", "fit vea")


@pytest.mark.parametrize("arguments", [words.split() for words in LIGHT])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from ppl_vae.cli import main\n"
        f"try: main({arguments!r})\n"
        f"finally: print('heavy:', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    assert out.splitlines()[-1] == "heavy:"


def test_version_and_list() -> None:
    assert ppl_vae.__version__ in succeed("--version")
    listed = succeed("list")
    assert re.search(r"^ +vae +variational autoencoder", listed, re.MULTILINE)
    assert re.search(r"--lr 0.01 --weight-decay .* --num-latents 1 --num-classes 50$", listed, re.MULTILINE)


# fit


def test_fit_writes_a_run_folder_that_verifies(fitted: tuple[Path, str]) -> None:
    folder = RunFolder(fitted[0])
    folder.verify()
    expected = {
        "config.json",
        "model.safetensors",
        "state.safetensors",
        "history.csv",
        "environment.json",
        "posterior.nc",
        "README.md",
        "plots/elbo.png",
        "plots/latent.png",
        "plots/overview.png",
    }
    assert expected <= set(folder.names())
    assert not (fitted[0] / folder.CHECKPOINT).exists()
    assert len(folder.read_text("history.csv").splitlines()) == 3


def test_fit_ends_with_a_table_and_a_verdict(fitted: tuple[Path, str]) -> None:
    lines = table_of(fitted[1]).splitlines()
    assert re.fullmatch(r"nats per datum +train \(30 rows, K = 5000\) +test \(10 rows, K = 5000\)", lines[0])
    names = ["ELBO", "reconstruction", "KL", "log-likelihood", "  its standard error"]
    values = []
    for line, name in zip(lines[1:], names, strict=True):
        assert line.startswith(name)
        values.append([float(text) for text in line.split()[-2:]])
    elbo, reconstruction, kl, evidence, error = torch.tensor(values)
    assert torch.allclose(elbo, reconstruction - kl, atol=2e-3)
    assert (evidence > elbo).all()
    assert (error > 0).all()
    assert re.search(
        r"\d of 2 latent dimensions are active; \d+ % of \d+ test rows have k-hat < 0.7; the ELBO", fitted[1]
    )


def test_the_model_card_has_the_numbers(fitted: tuple[Path, str]) -> None:
    card = RunFolder(fitted[0]).read_text("README.md")
    for number in re.findall(r"-?\d+\.\d{3}", table_of(fitted[1])):
        assert number in card


def test_the_run_loads_as_a_fit_with_the_same_numbers(fitted: tuple[Path, str], place: Path) -> None:
    fit = ppl_vae.load(fitted[0])
    data = torch.tensor(np.load(place / "bits.npz")["test"], dtype=torch.float32)
    shown = float(re.search(r"ELBO.* (-\d+\.\d+)", table_of(fitted[1])).group(1))
    assert float(fit.elbo(data, num_samples=500).mean()) == pytest.approx(shown, abs=0.1)


def test_evaluate_says_what_fit_said(fitted: tuple[Path, str]) -> None:
    assert table_of(succeed("evaluate", fitted[0])) == table_of(fitted[1])


def test_a_seed_is_a_run_to_the_bit(fitted: tuple[Path, str], place: Path) -> None:
    weights = {}
    for name, seed in (("same", 0), ("other", 1)):
        out = place / f"seed-{name}"
        succeed("fit", "vae", "--data", place / "bits.npz", *FIT, "--seed", seed, "--out", out)
        weights[name] = RunFolder(out).read_tree("model.safetensors")
    first = RunFolder(fitted[0]).read_tree("model.safetensors")
    assert all(torch.equal(first[key], weights["same"][key]) for key in first)
    assert not all(torch.equal(first[key], weights["other"][key]) for key in first)


def test_the_default_folder_is_named_after_recipe_and_data(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = succeed("fit", "vae", "--data", place / "bits.npz", *FIT)
    assert out.splitlines()[-1].startswith("runs/vae-bits: ")
    assert RunFolder(tmp_path / "runs" / "vae-bits").exists()


def test_an_existing_run_is_replaced_only_on_request(fitted: tuple[Path, str], place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("fit", "vae", "--data", place / "bits.npz", *FIT, "--out", out)
    succeed(*command)
    refused = run(*command)
    assert refused.exit_code == 2
    assert "there is a run here already; --overwrite replaces it, --resume goes on with it" in refused.stderr
    succeed(*command, "--overwrite", "--epochs", 1)
    assert len(RunFolder(out).read_text("history.csv").splitlines()) == 2


# resume


def same_weights(first: Path, second: Path) -> bool:
    a, b = (RunFolder(folder).read_tree("model.safetensors") for folder in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def longer(place: Path) -> Path:
    """The same run as ``fitted`` with twice the epochs, never interrupted."""
    succeed("fit", "vae", "--data", place / "bits.npz", *FIT, "--epochs", 4, "--out", place / "longer")
    return place / "longer"


def test_a_finished_run_goes_on_as_if_it_had_not_ended(place: Path, longer: Path, tmp_path: Path) -> None:
    succeed("fit", "vae", "--data", place / "bits.npz", *FIT, "--out", tmp_path / "run")
    succeed("fit", "vae", "--resume", "--epochs", 4, "--out", tmp_path / "run")
    assert same_weights(tmp_path / "run", longer)
    assert len(RunFolder(tmp_path / "run").read_text("history.csv").splitlines()) == 5


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not(place: Path, longer: Path, tmp_path: Path) -> None:
    given = {"data": str(place / "bits.npz"), "epochs": 3, "batch_size": 10, "latent_dim": 2}
    fitting.fit(fitting.prepare(Plan.of("vae", given)), tmp_path / "run", progress=False)
    refused = run("fit", "vae", "--data", place / "bits.npz", "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "a run was cut off here; --resume goes on with it, --overwrite starts again" in refused.stderr
    succeed("fit", "vae", "--resume", "--epochs", 4, "--out", tmp_path / "run")
    assert same_weights(tmp_path / "run", longer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", 1], "the run has --seed 0, got 1; leave it out to resume"),
        (["--lr", 0.5], "the run has --lr 0.002, got 0.5"),
        (["--latent-dim", 3], "the run has --latent-dim 2, got 3"),
        (["--weight-decay", 0.1], "the run has --weight-decay 0.0, got 0.1"),
        (["--num-classes", 3], "--num-classes is none of its sizes"),
        (["--overwrite"], "--overwrite starts again and --resume goes on"),
    ],
)
def test_a_resumed_run_keeps_its_options(fitted: tuple[Path, str], options: list[object], message: str) -> None:
    result = run("fit", "vae", "--resume", "--out", fitted[0], *options)
    assert result.exit_code == 2
    assert message in result.stderr


# sample


@pytest.mark.parametrize("mean", [[], ["--mean"]])
def test_samples_are_written_as_arrays(fitted: tuple[Path, str], tmp_path: Path, mean: list[str]) -> None:
    for name in ("a.npy", "b.npy"):
        succeed("sample", fitted[0], "-n", 5, "--out", tmp_path / name, *mean)
    rows = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert rows.shape == (5, 9)
    assert set(np.unique(rows)) <= {0, 1} or mean
    assert np.array_equal(rows, np.load(tmp_path / "b.npy"))
    succeed("sample", fitted[0], "-n", 5, "--seed", 1, "--out", tmp_path / "c.npy", *mean)
    assert not np.array_equal(rows, np.load(tmp_path / "c.npy"))


def test_samples_go_to_the_run_folder_by_default(fitted: tuple[Path, str]) -> None:
    assert succeed("sample", fitted[0]).strip() == f"{fitted[0] / 'samples.npy'}: (64, 9)"
    RunFolder(fitted[0]).verify()


def test_samples_of_a_standardized_table_are_in_its_own_units(place: Path, tmp_path: Path) -> None:
    succeed("fit", "vae", "--data", place / "table.csv", *FIT, "--out", tmp_path / "run")
    succeed("sample", tmp_path / "run", "-n", 400, "--out", tmp_path / "a.csv")
    rows = np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1)
    assert rows.shape == (400, 3)
    assert np.allclose(rows.mean(0), [0.0, 5.0, 1e4], atol=[1.0, 1e-3, 1e3])
    assert "standard deviations of the column" in RunFolder(tmp_path / "run").read_text("README.md")


def test_digits_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default recipe on the real digits, a few steps of it, with every picture."""
    monkeypatch.setattr("ppl_vae.recipes.budget.BUDGET", 100_000)
    out = succeed("fit", "vae", "--epochs", 1, "--batch-size", 500, "--out", tmp_path / "run")
    names = RunFolder(tmp_path / "run").names()
    assert {"plots/samples.png", "plots/reconstructions.png", "plots/latent.png"} <= set(names)
    assert re.search(r"% of \d+ test digits have k-hat < 0.7", out)
    succeed("sample", tmp_path / "run", "-n", 9, "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


# the other recipes: sizes, what the report says beside the evidence, the figures

OTHERS = {
    "discrete-vae": (
        ["--num-classes", 4],
        ["log-likelihood (exact)", "perplexity of c (of 4)", "dead classes of c (of 4)"],
        "KL(q(c|x) || p(c))",
        {"plots/use.png"},
    ),
    "ss-vae": (
        ["--latent-dim", 2, "--num-labels", 8],
        ["perplexity of y (of 2)", "dead classes of y (of 2)", "accuracy of q(y|x)"],
        "KL(q(y, z|x) || p(y, z))",
        set(),
    ),
    "mixture-vae": (
        ["--latent-dim", 2, "--num-components", 3],
        ["perplexity of c (of 3)", "cluster accuracy (best matching)", "adjusted Rand index"],
        "KL(q(z|x) || p(z))",
        {"plots/latent.png"},
    ),
    "vae-flow": (
        ["--latent-dim", 2, "--num-layers", 1],
        ["reconstruction", "log-likelihood (importance-weighted)", "  its standard error"],
        "KL(q(z|x) || p(z))",
        {"plots/latent.png"},
    ),
    "survae": (
        ["--num-layers", 2],
        ["contribution of the flow", "log-likelihood (importance-weighted)", "  its standard error"],
        "log p(z)",
        {"plots/latent.png"},
    ),
}


@pytest.mark.parametrize("recipe", OTHERS)
def test_a_recipe_is_fitted_evaluated_resumed_and_sampled(recipe: str, place: Path, tmp_path: Path) -> None:
    options, names, kl, figures = OTHERS[recipe]
    out = tmp_path / "run"
    command = ("fit", recipe, "--data", place / "bits.npz", "--batch-size", 10, "--out", out)
    said = succeed(*command, "--epochs", 1, *options)
    table = table_of(said)
    assert kl in table
    for name in names:
        assert re.search(rf"^{re.escape(name)} +-?\d+(\.\d+)? +-?\d+(\.\d+)?$", table, re.MULTILINE)
    assert figures | {"plots/elbo.png", "plots/overview.png", "posterior.nc"} <= set(RunFolder(out).names())
    assert table_of(succeed("evaluate", out)) == table
    assert "samples.npy: (5, 9)" in succeed("sample", out, "-n", 5)
    succeed("fit", recipe, "--resume", "--epochs", 2, "--out", out)
    assert RunFolder(out).read_json("config.json")["run"]["epochs"] == 2
    whole = tmp_path / "whole"
    succeed(*command[:-1], whole, "--epochs", 2, *options)
    assert same_weights(out, whole)


def test_a_flow_of_a_table_is_exact_and_says_so(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = succeed("fit", "flow", "--data", place / "table.csv", "--epochs", 2, "--num-layers", 1, "--out", out)
    lines = table_of(said).splitlines()
    assert re.fullmatch(r"nats per datum +train \(24 rows\) +test \(6 rows\)", lines[0])
    elbo, prior, volume, evidence = (torch.tensor([float(text) for text in line.split()[-2:]]) for line in lines[1:])
    assert lines[2].startswith("log p(z)")
    assert lines[3].startswith("contribution of the flow")
    assert lines[4].startswith("log-likelihood (exact)")
    assert torch.equal(elbo, evidence)
    assert torch.allclose(elbo, prior + volume, atol=2e-3)
    assert re.search(
        r"the log-likelihood of all \d+ test rows is exact; the ELBO equals the evidence within 0.001", said
    )
    assert "the ELBO is the log-likelihood log p(x) itself" in RunFolder(out).read_text("README.md")
    assert "plots/kl.png" not in RunFolder(out).names()
    assert table_of(succeed("evaluate", out)) == table_of(said)
    succeed("sample", out, "-n", 300, "--out", tmp_path / "a.csv")
    rows = np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1)
    assert np.allclose(rows.mean(0), [0.0, 5.0, 1e4], atol=[1.0, 1e-3, 1e3])


def test_the_note_is_said_and_kept(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    many = ("--num-latents", 3, "--num-classes", 20)
    said = succeed("fit", "discrete-vae", "--data", place / "bits.npz", "--epochs", 1, *many, "--out", out)
    note = "20^3 joint codes are too many to be summed over (at most 4096): they are drawn, the objective is RLOO(4)"
    assert note in said
    assert note in RunFolder(out).read_text("README.md")
    assert "log-likelihood (importance-weighted)" in said
    assert "dead classes of c (of 3 x 20)" in said


def test_digits_of_every_class_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_digits(binary=True)
    few = replace(
        digits,
        train=digits.train[:100],
        test=digits.test[:40],
        train_labels=digits.train_labels[:100],
        test_labels=digits.test_labels[:40],
    )
    monkeypatch.setitem(NAMED, "digits", lambda: few)
    monkeypatch.setattr("ppl_vae.recipes.budget.BUDGET", 10_000)
    figure = {"discrete-vae": "classes", "ss-vae": "classes", "mixture-vae": "clusters"}
    for recipe, name in figure.items():
        succeed("fit", recipe, "--epochs", 1, "--out", tmp_path / recipe)
        assert f"plots/{name}.png" in RunFolder(tmp_path / recipe).names()


def test_weight_decay_is_in_the_plan_and_in_the_fit(fitted: tuple[Path, str], place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("fit", "vae", "--data", place / "bits.npz", *FIT, "--weight-decay", 0.5, "--out", out)
    assert RunFolder(out).read_json("config.json")["fit"]["source"]["weight_decay"] == 0.5
    assert not same_weights(out, fitted[0])


def test_a_run_of_the_first_version_is_opened_and_resumed(fitted: tuple[Path, str], tmp_path: Path) -> None:
    """Its plan and facts had fewer fields."""
    out = tmp_path / "run"
    shutil.copytree(fitted[0], out)
    config = RunFolder(out).read_json("config.json")
    for name in ("weight_decay", *set(SIZES) - {"latent_dim"}):
        del config["fit"]["source"][name]
    del config["recipe"]["facts"]["num_classes"]
    RunFolder(out).write({"config.json": config}, keep=True)
    assert table_of(succeed("evaluate", out)) == table_of(fitted[1])
    succeed("fit", "vae", "--resume", "--epochs", 3, "--out", out)


# a pair of one's own

MINE = """
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def guide(x):
    weight = pyro.param("weight", torch.tensor(0.1))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(weight * x[:, 0], scale))


def pair(data):
    return model, lambda x: guide(x)


def shared_mean(data):
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x[:, 0])

    def guide(x):
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.2))

    return model, guide


def bad_shape(data):
    return (lambda x: model(x @ torch.ones(7, 7))), guide
"""


@pytest.fixture(scope="module")
def mine(place: Path) -> Path:
    path = place / "mine.py"
    path.write_text(MINE)
    np.save(place / "column.npy", np.random.default_rng(1).normal(size=(40, 1)))
    return path


@pytest.mark.parametrize("function", ["pair", "shared_mean"])
def test_a_pair_of_ones_own_is_fitted_evaluated_and_sampled(
    function: str, mine: Path, place: Path, tmp_path: Path
) -> None:
    target, out = f"{mine}:{function}", tmp_path / "run"
    said = succeed("fit", target, "--data", place / "column.npy", "--epochs", 2, "--out", out)
    assert ("test (8 rows" in said) == (function == "pair")
    assert RunFolder(out).read_json("config.json")["recipe"] is None
    for command in ("evaluate", "sample"):
        refused = run(command, out)
        assert refused.exit_code == 2
        assert f"name it again with --pair {target}" in " ".join(refused.stderr.split())
    assert table_of(succeed("evaluate", out, "--pair", target)) == table_of(said)
    assert "samples.npy" in succeed("sample", out, "--pair", target)


# bad input


def bad_files(place: Path) -> None:
    np.save(place / "nan.npy", np.array([[1.0, 2.0], [3.0, np.nan]]))
    np.save(place / "empty.npy", np.zeros((0, 3)))
    (place / "nan.csv").write_text("a,b\n1,2\n3,\n")
    (place / "empty.csv").write_text("")
    (place / "words.csv").write_text("1,2\n3,cat\n")
    (place / "garbage.npz").write_bytes(b"\x00" * 100)
    np.savez(place / "shapes.npz", train=np.ones((5, 3)), test=np.ones((5, 4)))
    (place / "thesis").mkdir(exist_ok=True)
    (place / "thesis" / "thesis.tex").write_text("a file of the user")


BAD = {
    "unknown recipe": (["fit", "vea"], "unknown recipe 'vea'; did you mean vae?"),
    "unknown data": (["fit", "vae", "--data", "digit"], "unknown data 'digit'; did you mean digits or grey-digits?"),
    "no such file": (
        ["fit", "vae", "--data", "{place}/no.csv"],
        "no.csv must be a file or a folder of pictures, and there is none",
    ),
    "unreadable": (["fit", "vae", "--data", "{place}/garbage.npz"], "must be a readable .npz file"),
    "words": (
        ["fit", "vae", "--data", "{place}/words.csv"],
        "must hold numbers; column '1': 1 of 2 cells are no numbers ('cat' at row 1): --drop 1",
    ),
    "NaN": (["fit", "vae", "--data", "{place}/nan.npy"], "got NaN at row 1, column 1"),
    "NaN by name": (
        ["fit", "vae", "--data", "{place}/nan.csv"],
        "column 'b': 1 of 2 cells is empty (the first at row 1): fill them in the file, or --drop b",
    ),
    "shapes": (["fit", "vae", "--data", "{place}/shapes.npz"], "test must be (M, 3) as train is, got (5, 4)"),
    "no rows": (["fit", "vae", "--data", "{place}/empty.npy"], "must hold at least one row, got shape (0, 3)"),
    "empty file": (["fit", "vae", "--data", "{place}/empty.csv"], "must hold at least one row, got an empty file"),
    "no MNIST": (["fit", "vae", "--data", "mnist:{place}"], "must hold train-images-idx3-ubyte"),
    "no file": (["fit", "no.py:pair"], "no.py: no such file"),
    "no function": (["fit", "{place}/mine.py"], "FILE.py:FUNCTION is required"),
    "not the function": (["fit", "{place}/mine.py:pear"], "no function 'pear'; there is bad_shape, guide, model"),
    "shape in a pair": (["fit", "{place}/mine.py:bad_shape", "--data", "{place}/column.npy"], "mine.py:bad_shape: "),
    "latent dim": (["fit", "{place}/mine.py:pair", "--latent-dim", "2"], "--latent-dim is for recipes"),
    "size of a file": (["fit", "{place}/mine.py:pair", "--num-labels", "2"], "--num-labels is for recipes"),
    "size of another": (
        ["fit", "vae", "--num-classes", "3"],
        "vae: --num-classes is none of its sizes, which are --latent-dim",
    ),
    "no labels": (["fit", "ss-vae", "--data", "{place}/table.csv"], "data with labels of two classes or more"),
    "few labels": (["fit", "ss-vae", "--num-labels", "9"], "num_labels must be at least 10, one a class, got 9"),
    "density of levels": (
        ["fit", "flow", "--data", "{place}/bits.npz"],
        "flow: real numbers are required, got data on levels (whole multiples of 1/1)",
    ),
    "levels of a density": (
        ["fit", "survae", "--data", "{place}/table.csv"],
        "survae: data on levels are required (grey values, counts, zeros and ones)",
    ),
    "one column": (["fit", "flow", "--data", "{place}/column.npy"], "at least 2 are required, got 1"),
    "decay": (["fit", "vae", "--weight-decay", "-1"], "-1.0 is not in the range x>=0"),
    "device": (["fit", "vae", "--device", "nonsense"], "--device nonsense: "),
    "epochs": (["fit", "vae", "--epochs", "0"], "0 is not in the range x>=1"),
    "rate": (["fit", "vae", "--lr", "-1"], "-1.0 is not in the range x>0"),
    "not a run": (["fit", "vae", "--out", "{place}/thesis"], "thesis: exists and is not a run folder"),
    "not even then": (["fit", "vae", "--out", "{place}/thesis", "--overwrite"], "is not a run folder"),
    "nothing to resume": (["fit", "vae", "--out", "{place}/none", "--resume"], "there is no run to resume"),
    "no run": (["evaluate", "{place}/none"], "this is not a run folder"),
    "no run to sample": (["sample", "{place}/none"], "this is not a run folder"),
    "no suffix": (["sample", "{place}/fitted", "--out", "a.jpg"], "a.jpg: the suffix must be one of .npy, .csv, .png"),
    "no images": (["sample", "{place}/fitted", "--out", "a.png"], "the data of this run are no images"),
    "other columns": (
        ["evaluate", "{place}/fitted", "--data", "iris"],
        "data of shape (N, ..., 9) as in the fit are required, got (150, 4)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(
    name: str, place: Path, fitted: object, mine: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_files(place)
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    result = run(*(text.format(place=place) for text in arguments))
    assert result.exit_code == 2, result.output
    *usage, line = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert all(text.startswith(("Usage: ", "Try ")) or not text for text in usage)
    assert "Traceback" not in result.output


def test_a_damaged_run_is_named(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("fit", "vae", "--data", place / "bits.npz", *FIT, "--out", out)
    raw = bytearray((out / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (out / "model.safetensors").write_bytes(raw)
    for command in ("evaluate", "sample"):
        result = run(command, out)
        assert result.exit_code == 2
        assert "model.safetensors: the content does not match the manifest" in result.stderr


@pytest.mark.parametrize("rows", [1, 2, 21])
def test_few_rows_are_enough(rows: int, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=(rows, 2)))
    out = succeed("fit", "vae", "--data", tmp_path / "few.npy", *FIT, "--out", tmp_path / "run")
    assert ("test" in table_of(out)) == (rows > 20)


def test_a_run_that_leaves_the_numbers_says_so_in_one_line(place: Path, tmp_path: Path) -> None:
    data, out = place / "table.csv", tmp_path / "run"
    result = run("fit", "vae", "--data", data, *FIT, "--lr", 1e30, "--out", out)
    assert result.exit_code == 2
    assert re.fullmatch(r"Error: .*(not finite|nan).*\n", result.stderr)


def test_debug_shows_the_error_itself() -> None:
    with pytest.raises(ValueError, match="unknown recipe"):
        CliRunner().invoke(main, ["fit", "vea", "--debug"], catch_exceptions=False)


def test_a_mistake_of_the_program_is_told_from_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("ppl_vae.commands.plan.Plan.of", broken)
    result = run("fit", "vae")
    assert result.exit_code == 1
    assert "Error: KeyError: 'oh' (unexpected; --debug shows where)" in result.stderr


def test_a_single_row_is_fitted_and_drawn(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    result = run("fit", "vae", "--data", str(tmp_path / "one.csv"), "--epochs", "1", "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_what_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    for arguments in (["--data", str(tmp_path / "none.csv")], ["--lr", "nan"]):
        result = run("fit", "vae", *arguments, "--out", str(tmp_path / "run"))
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "run").exists()


def test_a_run_does_not_resume_to_fewer_epochs(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert run("fit", "vae", "--data", "iris", "--epochs", "2", "--out", out).exit_code == 0
    result = run("fit", "vae", "--data", "iris", "--epochs", "1", "--out", out, "--resume")
    assert result.exit_code == 2
    assert "the run has 2 epochs already, got --epochs 1" in result.stderr
    result = run("evaluate", out, "--pair", "mine.py:pair")
    assert result.exit_code == 2
    assert "leave out --pair" in result.stderr
