"""``ninelives release``."""

from __future__ import annotations

import typer

from ninelives.cli import judge

app = typer.Typer(no_args_is_help=True)
app.command()(judge.judge)
app.command()(judge.sample)
