"""A command's options as one frozen dataclass: typer gets a signature, the command gets an object.

What several commands can be told alike is declared here once.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import platformdirs
import typer
from typer.models import ParameterInfo

Options = TypeVar("Options")

Data = Annotated[Path, typer.Option(help="Folder with the images, or its manifest.csv.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
SitesAtOnce = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Sites, or baselines, that train at the same time; any number gives the same models.",
        show_default="as the cores allow; 1 on a GPU",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder for preprocessed cases; safe to delete.", show_default="the user's cache folder"
    ),
]


def takes(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Turn `command(options)` into a function whose keyword arguments are the fields of the dataclass."""

    def decorate(command: Callable[[Options], None]) -> Callable[..., None]:
        def wrapped(**values: Any) -> None:
            command(options(**values))

        hints = get_type_hints(options, include_extras=True)
        for hint in hints.values():
            _without_environment(hint)
        parameters = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hints[field.name],
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
            )
            for field in fields(options)  # type: ignore[arg-type]
        ]
        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = hints
        return wrapped

    return decorate


def cache_folder(given: Path | None) -> Path:
    """Where preprocessed cases are kept: the folder asked for, or the user's own."""
    return given or Path(platformdirs.user_cache_dir("medseg")) / "cases"


def personal_file(model: Path, site: str | None) -> Path | None:
    """The file in a model's folder that holds what is a site's own of it."""
    return None if site is None else model / "personal" / f"{site}.safetensors"


def _without_environment(hint: Any) -> None:
    """Keep messages about an option free of `(env var: 'None')`, which click 8.2 adds: no option is read from there."""
    for told in getattr(hint, "__metadata__", ()):
        if isinstance(told, ParameterInfo):
            told.show_envvar = False
