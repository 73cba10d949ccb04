"""``ppl-vae evaluate``, ``diagnose``, ``compare``: how good a run is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from ppl_vae.cli.common import DATA, PAIR, REPORT_SECONDS, RUN, SEED, BadInput, one_clear_line, say, told


@click.command()
@RUN
@DATA
@PAIR
@SEED
@REPORT_SECONDS
@one_clear_line
def evaluate(run: Path, data: str | None, pair: str | None, seed: int | None, report_seconds: float) -> None:
    """Judge a run again: ELBO, reconstruction, KL and log-likelihood, on its data or others, and what else fit says.

    All rows of other data are judged together. They are held against the rows that the run was trained on, and against
    baselines fitted to these, where the run's own data are still there.

    \b
    Examples:
      ppl-vae evaluate runs/vae-digits
      ppl-vae evaluate runs/vae-digits --data other.npy --seed 1
    """
    from ppl_vae.commands.opening import open_run
    from ppl_vae.recipes import report
    from ppl_vae.recipes.pair_file import blame

    opened = open_run(run, pair=pair, data=data)
    if data in (None, opened.plan.data):
        dataset = opened.dataset()
        judge = partial(report.judge, opened.fit, dataset)
        say(*dataset.notes)
    else:
        dataset = opened.dataset(data, hold_out=False)
        train, note = opened.training_rows()
        judge = partial(report.judge_others, opened.fit, dataset, train)
        say(*dataset.notes, note)
    with blame(f"{run} on {dataset.name}"):
        told(opened.plan.target, judge, seed or 0, report_seconds)


@click.command()
@RUN
@DATA
@PAIR
@SEED
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="How long it may take, about; where it is short, less is asked, of fewer draws and rows.",
)
@click.option("--thorough", is_flag=True, help="Chains too, which take minutes: log p from both sides.")
@click.option("--strict", is_flag=True, help="Exit code 1 where a finding is bad, or a check breaks down.")
@click.option("--out", type=click.Path(path_type=Path), help="A file in .html.  [default: RUN/diagnosis.html]")
@one_clear_line
def diagnose(
    run: Path,
    data: str | None,
    pair: str | None,
    seed: int | None,
    seconds: float,
    thorough: bool,
    strict: bool,
    out: Path | None,
) -> None:
    """Ask everything that applies to a run, and write a page of it, to be read without a network.

    One line a finding, which is good, doubtful, bad, or not asked. The page has for each the threshold, where it is
    from, figures and numbers; and the rows that the model finds oddest, by name.

    \b
    Examples:
      ppl-vae diagnose runs/vae-digits
      ppl-vae diagnose runs/vae-people --data new.csv --out new.html --strict
    """
    from ppl_vae.commands.diagnosing import PAGE, diagnose_run
    from ppl_vae.commands.opening import open_run
    from ppl_vae.recipes.pair_file import blame

    path = out or run / PAGE
    if path.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"{path}: the suffix must be .html")
    opened = open_run(run, pair=pair, data=data)
    with blame(f"{run} on {data or opened.plan.data}"):
        found, notes = diagnose_run(opened, data, seconds=seconds, thorough=thorough, seed=seed or 0)
    say(*notes)
    click.echo(f"{found}\n\n{found.save(path)}")
    if strict and not found.ok:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path))
@DATA
@PAIR
@SEED
@click.option("--strict", is_flag=True, help="Exit code 1 where a run predicts worse than the first, beyond 2 errors.")
@one_clear_line
def compare(runs: tuple[Path, ...], data: str | None, pair: str | None, seed: int | None, strict: bool) -> None:
    """Compare runs by log p of the same rows, which they were not fitted to: a table, and paired differences.

    By default these are the test rows that the runs have in common. --pair is that of all runs that need one.

    \b
    Examples:
      ppl-vae compare runs/vae-digits runs/discrete-vae-digits
      ppl-vae compare runs/old runs/new --data new.csv --strict
    """
    from ppl_vae.commands.comparing import compare_runs
    from ppl_vae.commands.opening import needs_pair, open_run

    if len(set(runs)) < 2:
        raise BadInput("compare: two runs at least are required")
    opened = {str(run): open_run(run, pair=pair if needs_pair(run) else None, data=data) for run in runs}
    found = compare_runs(opened, data, seed=seed or 0)
    say(*found.notes)
    click.echo(str(found))
    if strict and found.worse:
        raise click.exceptions.Exit(1)
