"""The command line: ``ppl-vae fit``, ``evaluate``, ``diagnose``, ``compare``, ``encode``, ``sample``, ``list``.

Options and messages only; what the commands do is in :mod:`ppl_vae.commands`. Everything heavy is
imported inside the commands, so help and ``--version`` answer at once.
"""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

import ppl_vae
from ppl_vae.cli.common import DATA, PAIR, REPORT_SECONDS, RUN, SEED, BadInput, one_clear_line, say, told
from ppl_vae.cli.judging import compare, diagnose, evaluate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(ppl_vae.__version__, prog_name="ppl-vae")
def main() -> None:
    """Fit latent variable models by variational EM, and say how good the fit is.

    \b
    Examples:
      ppl-vae fit vae                                a VAE on real 8x8 digits
      ppl-vae fit vae --data mnist:DIR --epochs 20   the same on MNIST
      ppl-vae fit ss-vae --num-labels 50             digits of which 50 have a label
      ppl-vae fit flow --data wine                   a normalizing flow of a table
      ppl-vae fit vae --data people.csv --index id --label species --drop date,comment
      ppl-vae fit mine.py:pair --data table.csv      your own Pyro model and guide
      ppl-vae evaluate runs/vae-digits
      ppl-vae diagnose runs/vae-digits               all that can be asked of it, and a page
      ppl-vae compare runs/vae-digits runs/other     which predicts held-out rows better
      ppl-vae encode runs/vae-people new.csv --out codes.csv
      ppl-vae sample runs/vae-digits -n 64
    """


@main.command()
@click.argument("target", metavar="RECIPE|FILE.py:FUNCTION")
@DATA
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data, in all.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows a step.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate.")
@click.option("--weight-decay", type=click.FloatRange(min=0), help="Weight w of a penalty w/2 |parameters|^2.")
@click.option("--latent-dim", type=click.IntRange(min=1), help="Size of the latent z of a recipe.")
@click.option("--num-latents", type=click.IntRange(min=1), help="How many latents a code has.")
@click.option("--num-classes", type=click.IntRange(min=2), help="How many classes each of them has.")
@click.option("--num-labels", type=click.IntRange(min=1), help="So many training rows have their label.")
@click.option("--num-components", type=click.IntRange(min=2), help="How many clusters.")
@click.option("--num-layers", type=click.IntRange(min=1), help="How many couplings a flow has.")
@click.option("--columns", multiple=True, metavar="A,B,C", help="Columns of a table to model.  [default: all]")
@click.option("--drop", multiple=True, metavar="A,B", help="Columns to leave out.")
@click.option("--label", metavar="COLUMN", help="Classes, kept beside the model; of ss-vae the labels.")
@click.option("--index", metavar="COLUMN", help="The names of the rows, kept everywhere.")
@click.option("--grey", is_flag=True, help="Make the pictures of a folder grey.")
@SEED
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@REPORT_SECONDS
@click.option("--no-report", "judge", is_flag=True, flag_value=False, default=True, help="No numbers, no figures.")
@click.option("--draws", type=click.IntRange(min=0), default=100, show_default=True, help="A row in posterior.nc.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/RECIPE-DATA]")
@click.option("--overwrite", is_flag=True, help="Replace a run that is in the folder.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, to --epochs in all.")
@one_clear_line
def fit(
    target: str,
    device: str,
    report_seconds: float,
    judge: bool,
    draws: int,
    out: Path | None,
    overwrite: bool,
    resume: bool,
    **given: Any,
) -> None:
    """Fit a recipe, or a pair of your own, and write a run folder.

    RECIPE is the name of a recipe (ppl-vae list), or FILE.py:FUNCTION with

    \b
      def pair(data):              # the training rows, a tensor (N, ...)
          ...
          return model, guide      # any Pyro model and guide

    Options that are left out take the defaults of the recipe, and each recipe has sizes of its own. Table
    columns of real numbers are standardized for recipes, and grey levels 0..255 or 0..16 of images divided by
    their top; a pair of your own gets the data as they are. Ctrl-C (or SIGTERM) ends the fit and keeps what it has.

    A .csv file may have commas, semicolons (then also decimal commas) or tabs. Its columns are chosen by name, or by
    number from 0 where they have none; the options go with the run, so evaluate and encode find the same columns in
    another file. Arrays (N, H, W) and (N, 1, H, W), and folders of .png and .jpg files of one size, are images.

    \b
    Examples:
      ppl-vae fit vae
      ppl-vae fit mixture-vae --data people.csv --index id --label species --drop date,comment
      ppl-vae fit vae --data pictures/ --grey
      ppl-vae fit vae --data table.csv --latent-dim 2 --out runs/table
      ppl-vae fit discrete-vae --num-classes 20
      ppl-vae fit vae --epochs 300 --resume
    """
    from ppl_vae.commands import fitting
    from ppl_vae.commands.claim import alone, require_run
    from ppl_vae.commands.plan import Plan
    from ppl_vae.commands.resuming import resumed

    if overwrite and resume:
        raise BadInput("--overwrite starts again and --resume goes on: give one of them")
    plan = Plan.of(target, given)
    folder = out or plan.folder
    require_run(folder) if resume else _refuse_occupied(folder, overwrite)
    click.get_current_context().with_resource(alone(folder))
    if resume:
        plan = resumed(plan, given, folder)
    else:
        _refuse_occupied(folder, overwrite)  # another process may have ended there just now
    _check_device(device)
    prepared = fitting.prepare(plan)
    click.echo(f"{plan.target} on {prepared.dataset!r}")
    say(*prepared.dataset.notes, prepared.note)
    found = fitting.fit(prepared, folder, device=device, resume=resume)
    click.echo(f"{found.ended} after {found.epochs} epochs, {found.steps} steps, {found.seconds:.1f} s\n")
    report = None
    if judge:
        from ppl_vae.recipes.report import judge as judge_own

        report = told(plan.target, partial(judge_own, found, prepared.dataset), plan.seed, report_seconds)
    command = shlex.join(["ppl-vae", *sys.argv[1:]])
    names = fitting.save(found, prepared, folder, report, command=command, draws=draws)
    click.echo(f"\n{folder}: {', '.join(names)}")


def _refuse_occupied(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something; it is made only when there is something to put into it."""
    from ppl_vae.storage import RunFolder

    cut_off = (folder / RunFolder.CHECKPOINT / RunFolder.STATE).exists()
    if cut_off and not overwrite:
        raise BadInput(f"{folder}: a run was cut off here; --resume goes on with it, --overwrite starts again")
    if RunFolder(folder).exists() and not overwrite:
        raise BadInput(f"{folder}: there is a run here already; --overwrite replaces it, --resume goes on with it")
    if folder.exists():
        RunFolder(folder).claim(overwrite=overwrite)


def _check_device(device: str) -> None:
    import torch

    if device == "auto":
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {device}: {str(error).splitlines()[0]}") from None


@main.command()
@RUN
@click.argument("source", required=False)
@click.option("--num-samples", type=click.IntRange(min=1), help="Draws a row for its log p.  [default: 1000]")
@PAIR
@SEED
@click.option("--out", type=click.Path(path_type=Path), help="A file in .csv.  [default: RUN/codes.csv]")
@one_clear_line
def encode(
    run: Path, source: str | None, num_samples: int | None, pair: str | None, seed: int | None, out: Path | None
) -> None:
    """Write what a run makes of each row of SOURCE (by default its own data): latents, classes, log p, k-hat.

    One line a row, the oddest (least log p) first. SOURCE is what --data of fit may be; a .csv file needs the columns
    of the run, by name, and may have others.

    \b
    Examples:
      ppl-vae encode runs/vae-digits
      ppl-vae encode runs/vae-people new.csv --out codes.csv
    """
    from ppl_vae.commands.encoding import encode_rows, in_words, write_codes
    from ppl_vae.commands.opening import open_run
    from ppl_vae.recipes.pair_file import blame

    path = out or run / "codes.csv"
    opened = open_run(run, pair=pair, data=source)
    dataset = opened.dataset(source, hold_out=source is None)
    say(*dataset.notes)
    with blame(f"{run} on {dataset.name}"):
        table, notes = encode_rows(opened, dataset, num_samples=num_samples, seed=seed or 0)
    say(*notes)
    write_codes(path, table)
    click.echo(f"{path}: {len(table)} rows, {', '.join(map(str, table.columns))}\n{in_words(table)}")


@main.command()
@RUN
@click.option("-n", "count", type=click.IntRange(min=1), default=64, show_default=True, help="How many.")
@click.option("--mean", is_flag=True, help="The mean of x given a drawn z, not a draw of x.")
@PAIR
@SEED
@click.option(
    "--out", type=click.Path(path_type=Path), help="A file in .npy, .csv or .png.  [default: RUN/samples.npy]"
)
@one_clear_line
def sample(run: Path, count: int, mean: bool, pair: str | None, seed: int | None, out: Path | None) -> None:
    """Draw new data from a fitted model, in the units of its data.

    \b
    Examples:
      ppl-vae sample runs/vae-digits -n 64
      ppl-vae sample runs/vae-digits -n 64 --mean --out digits.png
    """
    from ppl_vae.commands.opening import open_run
    from ppl_vae.commands.samples import draw, write_samples

    opened = open_run(run, pair=pair)
    path = out or run / "samples.npy"
    rows = draw(opened, count, mean=mean, seed=seed or 0)
    write_samples(path, rows, opened.origin.image_shape, names=opened.origin.feature_names)
    click.echo(f"{path}: {tuple(rows.shape)}")


@main.command(name="list")
@one_clear_line
def list_recipes() -> None:
    """List the recipes and the data sources."""
    from dataclasses import asdict

    from ppl_vae.commands.plan import option
    from ppl_vae.recipes import RECIPES
    from ppl_vae.recipes.sources import NAMED

    click.echo("recipes")
    width = max(map(len, RECIPES)) + 2
    for recipe in RECIPES.values():
        defaults = {"data": recipe.data, **asdict(recipe.training), **recipe.sizes}
        shown = [f"{option(name)} {value}" for name, value in defaults.items() if value]
        click.echo(f"  {recipe.name:<{width}}{recipe.description}\n  {'':<{width}}{' '.join(shown)}")
    click.echo(f"data\n  {', '.join(NAMED)}, mnist:DIR, a file in .csv, .npy, .npz, or a folder of pictures")


for command in (evaluate, diagnose, compare):
    main.add_command(command)
