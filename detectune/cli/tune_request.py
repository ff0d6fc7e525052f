"""What `detectune tune` is asked: from a study file, a configuration with options, or the folder of a study."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from detectune.cli.places import find_config
from detectune.config.best_metric import best_metric
from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.report.posthoc_page import is_inference_study
from detectune.tuner.space import read_entry
from detectune.tuner.spec import (
    MAY_CHANGE,
    Request,
    Spec,
    base_config,
    complete,
    is_study_file,
    read_spec,
    read_study_file,
)
from detectune.tuner.study import BASE, SPEC


def prepare(
    study: str, words: Sequence[str], knobs: str | None, asked: Request
) -> tuple[Spec, Config, Request]:
    """(study, base configuration, request) from a study file or a configuration, with the options on top."""
    request, config_file, default_name = _read_request(study, knobs, asked)
    if not request.knobs and not request.place:
        raise UserError(f"{study} is a configuration: name what to search, as --knobs SOLVER.BASE_LR.")
    base = base_config(request, config_file, words)
    _tell_notices(base)
    if request.workers is not None and request.workers < 1:
        raise UserError(f"workers must be at least 1, not {request.workers}.")
    spec = complete(request, base, default_name=default_name, default_metric=best_metric(base))
    if spec.population:
        from detectune.cli.population_pool import check_population

        check_population(spec.space, base)
    return spec, base, request


def prepare_inference(
    study: str, words: Sequence[str], knobs: str | None, asked: Request
) -> tuple[Request, Config, str]:
    """(request, base configuration, name) for `--stage inference`."""
    request, config_file, name = _read_request(study, knobs, asked)
    base = base_config(request, config_file, words)
    _tell_notices(base)
    return request, base, name


def go_on(
    study: str, words: Sequence[str], knobs: str | None, asked: Request
) -> tuple[Spec, Config, Request]:
    """(study, base configuration, request) of a study's folder: what it asks, but for how far it goes."""
    folder = Path(study)
    if is_inference_study(folder):
        raise UserError(
            f"{study} is a study of inference knobs; give its command again, with the configuration, --stage inference "
            "and --output, and it goes on from its raw outputs."
        )
    if words or knobs:
        raise UserError(
            f"{study} is a study's folder: what it asks stays; leave out {[*words, '--knobs'][0]}."
        )
    given = {name: getattr(asked, name) for name in MAY_CHANGE if getattr(asked, name) is not None}
    spec = replace(read_spec(folder / SPEC), **given)
    return spec, load_config(folder / BASE), asked


def _read_request(study: str, knobs: str | None, asked: Request) -> tuple[Request, Path, str]:
    """(request, file of the configuration, name) from a study file or a configuration, with the options on top."""
    file = find_config(study)
    request, config_file = Request(), file
    if is_study_file(file):
        request = read_study_file(file)
        if request.config is None:
            raise UserError(f"{file}: config is missing: the configuration around which is searched.")
        beside = file.parent / request.config
        config_file = beside if beside.is_file() else find_config(request.config)
    for option in fields(Request):
        value = getattr(asked, option.name)
        if value is not None and option.name not in ("overrides", "knobs", "place", "config"):
            setattr(request, option.name, value)
    if knobs:
        request.knobs = [read_entry(word.strip()) for word in knobs.split(",") if word.strip()]
    return request, config_file, file.stem


def _tell_notices(base: Config) -> None:
    for notice in dict.fromkeys(base.notices):
        print(f"Notice: {notice}", file=sys.stderr)
