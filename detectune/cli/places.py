"""Where the command line finds configurations and puts runs."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from detectune.config.detectron2_zoo import zoo_name
from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.config.load import Config

PACKAGE = Path(__file__).resolve().parent.parent


def config_folders() -> list[Path]:
    """Folders with the configurations that come with Detectune: in the wheel, or beside the package in a checkout."""
    in_wheel, checkout = PACKAGE / "_configs", PACKAGE.parent
    if in_wheel.is_dir():
        return [in_wheel]
    # Beside an installed package lies other people's `configs`, perhaps.
    return [checkout / "configs"] if (checkout / "pyproject.toml").is_file() else []


def packaged_configs() -> dict[str, Path]:
    """Name -> file of every configuration that comes with Detectune, such as getting_started/shapes."""
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for folder in config_folders()
        for file in sorted(folder.rglob("*.yaml"))
    }


def find_config(name: str) -> Path:
    """The file that CONFIG means: a path, or the name of a configuration that comes with Detectune.

    Raises:
        UserError: if there is neither; it names the nearest of what there is.
    """
    file = Path(name).expanduser()
    if file.is_file():
        return file
    if zoo_name(name) is not None:
        return Path(name)  # `load_config` knows detectron2's model zoo by name
    packaged = packaged_configs()
    short = name.removesuffix(".yaml").removesuffix(".yml").removeprefix("configs/")
    if short in packaged:
        return packaged[short]
    if file.is_dir():
        inside = sorted(found.name for found in file.glob("*.yaml"))
        listing = f" It holds {', '.join(inside[:8])}." if inside else ""
        raise UserError(f"{name} is a folder; CONFIG must be a YAML file.{listing}")
    neighbours = (
        {str(found): found for found in sorted(file.parent.glob("*.y*ml"))} if file.parent.is_dir() else {}
    )
    near = difflib.get_close_matches(name, neighbours, n=1) or difflib.get_close_matches(short, packaged, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(
        f"There is no configuration file {name}.{hint} "
        f"Configurations that come with Detectune: {', '.join(packaged) or 'none found'}."
    )


def choose_run_directory(config: Config, *, output: Path | None, name: str) -> Path:
    """The folder of a run: --output; else OUTPUT_DIR where the configuration sets it; else runs/<configuration>."""
    if output is not None:
        return output.expanduser()
    changed = config.diff().get("OUTPUT_DIR")
    return Path(str(changed[1])).expanduser() if changed else Path("runs") / Path(name).stem
