"""What commands share: options, errors in one line, and what is said at the end of a report."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

LONGEST_MESSAGE = 500  # characters


class BadInput(click.ClickException):
    """One line for the person who typed the command; exit code 2."""

    exit_code = 2


def one_clear_line(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--debug``, and turn an error in what it was given into one line.

    Errors of these types say who, what was required and what came, and are about the input. Any other is a
    mistake in the program: it ends with exit code 1, a line that says so, and where to find out more.
    """

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError, ArithmeticError) as error:
            if debug:
                raise
            raise BadInput(_in_lines(error)) from error
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if debug:
                raise
            text = f"{type(error).__name__}: {_one_line(error)} (unexpected; --debug shows where)"
            raise click.ClickException(text) from error

    return wrapped


def _in_lines(error: BaseException) -> str:
    """One line; a list, which is to be read line by line, as it is."""
    return str(error) if getattr(error, "is_list", False) else _one_line(error)


def _one_line(error: BaseException) -> str:
    text = str(error).partition("Trace Shapes:")[0]  # Pyro adds a table of every site
    text = " ".join(text.split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."


RUN = click.argument("run", type=click.Path(path_type=Path))
DATA = click.option(
    "--data",
    metavar="SOURCE",
    help="digits, grey-digits, iris, wine, mnist:DIR, a .csv, .npy, .npz, or a folder of pictures.",
)
PAIR = click.option("--pair", metavar="FILE.py:FUNCTION", help="The pair, for a run of your own pair.")
REPORT_SECONDS = click.option(
    "--report-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Time for the draws of the report, about; where it is short, fewer draws, then fewer rows.",
)
SEED = click.option("--seed", type=click.IntRange(min=0), help="Of all noise.  [default: 0]")


def say(*notes: str) -> None:
    """Print those that say something."""
    for note in notes:
        if note:
            click.echo(note)


def told(target: str, judge: Callable[..., Any], seed: int, seconds: float) -> Any:
    """Judge, with the measures of a recipe, and say what was found."""
    from ppl_vae.commands.plan import recipe_of

    recipe = recipe_of(target)
    options: dict[str, Any] = {"measure": recipe.measure} if recipe else {}
    report = judge(seed=seed, seconds=seconds, **options)
    click.echo(f"{report}\n\n{report.verdict}")
    return report
