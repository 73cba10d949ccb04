"""The command line in this process, as a person types it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from ppl_vae.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout
