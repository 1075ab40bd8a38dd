"""Download atlases, transforms and weights into one directory before going offline: ``bids_semantoks-fetch DIR``."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bids_semantoks.commands import Program
from bids_semantoks.config import EmbeddingConfig, SignalsConfig
from bids_semantoks.errors import AtlasError, InputError, LegibleParser, ModelError, name_count, show_hidden
from bids_semantoks.files import hash_file, open_atomic
from bids_semantoks.runtime.downloads import (
    ATLASES,
    CACHE_VARIABLE,
    HUB,
    HUB_SERVER,
    TEMPLATEFLOW,
    TEMPLATEFLOW_SERVER,
    UNKNOWN,
    Pin,
    find_cache,
)
from bids_semantoks.runtime.logs import Progress

if TYPE_CHECKING:
    from bids_semantoks.models.hub import HubName

LOG = logging.getLogger("bids_semantoks")
_SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
_SURFACES = ("fsLR", "fsaverage")
_NEXT = """To use it, here or on an offline machine with access to the directory:
  export {variable}={directory}"""


def fetch(directory: Path, *, atlases: Sequence[str], spaces: Sequence[str], models: Sequence[str]) -> list[Path]:
    """Fetch atlases for each space, and models (ORG/NAME[/SUBFOLDER][@REVISION] on the hub); return every file of them.
    Files are placed below ``atlases``, ``templateflow`` and ``huggingface/hub`` of `directory`. Raises SemantoksError
    if something is unknown, unavailable or damaged; files fetched before that stay."""
    before = find_cache()
    directory = directory.absolute()
    with _cache_at(directory):
        jobs = [partial(_fetch_atlas, directory, name, space, before) for name in atlases for space in spaces]
        jobs += [partial(_fetch_weights, directory, name) for name in models]
        found = [path for job in Progress("Fetching").each("atlas or model", jobs) for path in job()]
    return list(dict.fromkeys(found))


@contextmanager
def _cache_at(directory: Path) -> Iterator[None]:
    previous = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(directory)
    try:
        yield
    finally:
        if previous is None:
            del os.environ[CACHE_VARIABLE]
        else:
            os.environ[CACHE_VARIABLE] = previous


def _fetch_atlas(directory: Path, name: str, space: str, before: Path | None) -> list[Path]:
    # NumPy and nibabel would slow down --help.
    from bids_semantoks.atlases.load import load_atlas, load_surface_atlas
    from bids_semantoks.atlases.registry import find_places, load_entry
    from bids_semantoks.atlases.supply import fetch_labels, find_parts, join_cohort, name_transform

    path = _find_entry(name)
    places = find_places(None, beside=path.parent)
    places = dataclasses.replace(places, given=(directory, *places.given, *((before,) if before else ())))
    if space.startswith(_SURFACES):
        parts = fetch_labels(load_entry(path, on_surfaces=True), space, places, directory)
        names = [Path(part.file.files[0]).with_name(part.path.name) for part in parts]
        files = [_bring(part.path, directory / ATLASES / name) for part, name in zip(parts, names, strict=True)]
        load_surface_atlas(name, space=space, directory=directory)
        return files
    hint = "Try again with network access, or copy them there."
    files, space = [], join_cohort(space, None)
    for part in find_parts(load_entry(path), space, places, lambda: directory, hint=hint):
        # Files of the package itself need not be copied.
        if part.path.parent != path.parent:
            files.append(_bring(part.path, directory / ATLASES / part.path.name))
        if part.transform is not None:
            relative = Path(TEMPLATEFLOW) / name_transform(part.space, space)
            files.append(_bring(part.transform, directory / relative))
    load_atlas(name, space=space, directory=directory)
    return files


def _find_entry(name: str) -> Path:
    from bids_semantoks.atlases.registry import find_registered, list_registered

    path = find_registered(name)
    if path is None:
        known = ", ".join(one.stem for one in list_registered())
        raise AtlasError(f"Unknown atlas {name}; expected one of {known}.")
    return path


def _parse_model(model: str) -> HubName:
    from bids_semantoks.models.hub import parse_repository

    asked = parse_repository(model)
    if asked is None:
        raise ModelError(
            f"{model} cannot be downloaded: expected ORG/NAME[/SUBFOLDER][@REVISION] on the Hugging Face Hub."
        )
    return asked


def _fetch_weights(directory: Path, model: str) -> list[Path]:
    from bids_semantoks.models.hub import OUR_FILES, find_origin, load_from_hub
    from bids_semantoks.models.weight_files import AUTHORS_FILE

    asked = _parse_model(model)
    path = load_from_hub(asked, cache=directory / HUB)
    files = [path.parent / one for one in OUR_FILES] if path.name in OUR_FILES else [path]
    if path.name not in (*OUR_FILES, AUTHORS_FILE):  # other names, perhaps shards, found in a cache
        files = [one for one in sorted(path.parent.iterdir()) if one.is_file() and not one.name.startswith(".")]
    folder = directory / HUB / f"models--{asked.repository.replace('/', '--')}"
    if folder in path.parents:
        return files
    origin = find_origin(path)
    commit = origin.revision if origin else path.parent.name
    brought = [_bring(one, folder / "snapshots" / commit / asked.place(one.name)) for one in files]
    if asked.revision not in commit or not asked.revision:
        reference = folder / "refs" / (asked.revision or "main")
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit, encoding="utf-8")
    return brought


def _list_addresses(name: str, space: str) -> Iterator[tuple[str, Pin]]:
    """List the addresses of the files of an atlas for a space, from the recipe that is tried first."""
    from bids_semantoks.atlases.registry import load_entry
    from bids_semantoks.atlases.supply import join_cohort, load_published, name_transform

    path = _find_entry(name)
    on_surfaces = space.startswith(_SURFACES)
    entry, space = load_entry(path, on_surfaces=on_surfaces), space if on_surfaces else join_cohort(space, None)
    published = load_published()
    for recipe in entry.recipes.get(space, ()) if on_surfaces else entry.find_recipes(space):
        warped = {name_transform(one.space, space) for one in recipe if entry.is_warped(one, space)}
        if all(one.address for one in recipe) and warped <= published.keys():
            yield from ((one.address, one.pin) for one in recipe)
            yield from ((f"{TEMPLATEFLOW_SERVER}/{one}", published[one]) for one in sorted(warped))
            return
    LOG.info("%s for %s is included in this package or not available as a separate download.", name, space)


def _list_weights(model: str) -> Iterator[tuple[str, Pin]]:
    from bids_semantoks.models.hub import AUTHORS_REPOSITORY, OUR_FILES
    from bids_semantoks.models.weight_files import AUTHORS_FILE

    asked = _parse_model(model)
    for name in [AUTHORS_FILE] if asked.repository == AUTHORS_REPOSITORY else OUR_FILES:
        yield f"{HUB_SERVER}/{asked.repository}/resolve/{asked.revision or 'main'}/{asked.place(name)}", UNKNOWN


def _print_addresses(options: argparse.Namespace, atlases: Sequence[str], models: Sequence[str]) -> None:
    """Print address, size and checksum of each file, if known before the download."""
    found = [one for name in atlases for space in options.space for one in _list_addresses(name, space)]
    found += [one for model in models for one in _list_weights(model)]
    for address, pin in dict(found).items():
        size = f"{pin.size / 1e6:.1f} MB" if pin.size else "size unknown"
        checksum = f"SHA-256 {pin.sha256[0]}" if pin.sha256 else f"MD5 {pin.md5}" if pin.md5 else "checksum unknown"
        print(f"{address}\t{size}\t{checksum}")


def _bring(source: Path, target: Path) -> Path:
    """Copy a file found elsewhere on this machine, atomically, with its checksum record."""
    if source.absolute() == target:
        return target
    with source.open("rb") as original, open_atomic(target) as copy:
        shutil.copyfileobj(original, copy)
    record = source.with_name(f"{source.name}.sha256")
    if record.is_file():
        shutil.copyfile(record, target.with_name(record.name))
    return target


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this program's arguments."""
    parser = LegibleParser(
        prog="bids_semantoks-fetch",
        description="Download atlases, transforms and model weights to a directory for offline use.",
        epilog="Files that exist locally are copied; nothing is downloaded twice.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, nargs="?", help="target directory [the user's cache]")
    default = SignalsConfig().atlas
    parser.add_argument(
        "--atlas", metavar="NAME", nargs="+", default=[default], help=f"names of atlases, or none [{default}]"
    )
    parser.add_argument(
        "--space", metavar="NAME", nargs="+", default=list(_SPACES), help=f"spaces of the data [{' '.join(_SPACES)}]"
    )
    model = EmbeddingConfig().model
    parser.add_argument(
        "--model",
        metavar="ORG/NAME[/SUBFOLDER][@REVISION]",
        nargs="+",
        default=[model],
        help=f"encoders, or `none` [{model}]",
    )
    parser.add_argument(
        "--seeds", action="store_true", help=f"also download the encoders of {model} trained from other seeds"
    )
    parser.add_argument(
        "--print-urls", action="store_true", help="download nothing; list the address, size and checksum of each file"
    )
    return parser


def _list_seeds(models: Sequence[str]) -> list[str]:
    """List the encoders of other seeds of the published one, which must be among `models`: ModelError otherwise."""
    from bids_semantoks.models.hub import AUTHORS_REPOSITORY, AUTHORS_SEEDS, parse_repository

    asked = [parse_repository(model) for model in models]
    whole = [one for one in asked if one and one.repository == AUTHORS_REPOSITORY and not one.subfolder]
    if not whole:
        raise ModelError(
            f"--seeds: no other seeds of {', '.join(models) or 'no model'} are known; they exist for "
            f"{AUTHORS_REPOSITORY} only.",
            hint="Use --model ORG/NAME/SUBFOLDER for other encoders.",
        )
    found = [str(one._replace(subfolder=seed)) for one in whole for seed in AUTHORS_SEEDS]
    return [name for name in found if name not in models]


def _fetch_asked(options: argparse.Namespace) -> None:
    atlases = [name for name in options.atlas if name != "none"]
    models = [name for name in options.model if name != "none"]
    models += _list_seeds(models) if options.seeds else []
    if options.print_urls:
        _print_addresses(options, atlases, models)
        return
    directory: Path | None = options.directory or find_cache()
    if directory is None:
        raise InputError("The user has no home directory for a cache.", hint="Give a target directory.")
    found = fetch(directory, atlases=atlases, spaces=options.space, models=models)
    place = show_hidden(str(directory.absolute()))
    print(f"{name_count(len(found), 'file is', 'files are')} in {place}:")
    for path in found:
        name, size = path.relative_to(directory.absolute()), path.stat().st_size / 1e6
        print(f"  {show_hidden(str(name))}  {size:.1f} MB  SHA-256 {hash_file(path)}")
    print(_NEXT.format(variable=CACHE_VARIABLE, directory=place))


FETCH: Final = Program(build_parser, _fetch_asked, offline_hint="HF_HUB_OFFLINE is set: unset it here.")

if __name__ == "__main__":
    FETCH.main()
