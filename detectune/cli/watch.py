"""`detectune watch`: the page of a study or run, live in a browser."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer


def watch(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A study or run directory; it may not exist yet.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to serve at. Anything but this machine's own lets others read DIR.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port, 0 for any free one. [default: the first free one from 8321 on]")
    ] = None,
) -> None:
    """Show the page of a study or run while it goes on; any number of people may look.

    The page follows the files: what is chosen, opened or filtered in it stays. Ctrl-C ends the command.
    """
    from detectune.report.server import make_server

    directory = directory.expanduser()
    with make_server(directory, host=host, port=port) as server:
        name = f"[{host}]" if ":" in host else host
        print(
            f"Watching {directory} at http://{name}:{server.server_address[1]}/  (Ctrl-C ends it)", flush=True
        )
        if not directory.is_dir():
            print(f"{directory} is not there yet; the page says so and fills in when it is.", flush=True)
        if host not in ("127.0.0.1", "::1", "localhost"):
            print(f"Whoever reaches {host} can read everything in {directory}.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
