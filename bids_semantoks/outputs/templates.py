"""Jinja templates of the package, compiled once per machine: compiling takes as long as a tenth of extracting one
run."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_semantoks.files import open_atomic

if TYPE_CHECKING:
    from jinja2 import Environment, Template

#: Compiled code by name; read-only installations store nothing on disk.
_COMPILED: dict[str, bytes] = {}


def load_template(
    name: str, read: Callable[[str], str], prepare: Callable[[Environment], None], **options: Any
) -> Template:
    """Load the template `name` that `read` gives the source of; `prepare` adds filters and globals, `options` are those
    of the environment. An unknown name in a template is an error."""
    # Imported late: it takes 50 ms, which --help should not need.
    from jinja2 import BytecodeCache, Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415
    from jinja2.bccache import Bucket  # noqa: PLC0415

    class CacheBesideCode(BytecodeCache):
        """Stores compiled templates where Python stores the compiled code of the package."""

        def load_bytecode(self, bucket: Bucket) -> None:
            """Load code; Jinja compares the checksum of its source, and Python's version."""
            with contextlib.suppress(OSError):
                _COMPILED.setdefault(name, _find_place(name).read_bytes())
            try:
                bucket.bytecode_from_string(_COMPILED[name])
            except Exception:  # noqa: BLE001 - absent, or whatever a damaged file leads to
                bucket.reset()

        def dump_bytecode(self, bucket: Bucket) -> None:
            """Store code, on disk if Python does."""
            _COMPILED[name] = bucket.bytecode_to_string()
            if not sys.dont_write_bytecode:
                with contextlib.suppress(OSError), open_atomic(_find_place(name)) as file:
                    file.write(_COMPILED[name])

    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(read),
        bytecode_cache=CacheBesideCode(),
        **options,
    )
    prepare(environment)
    return environment.get_template(name)


@functools.cache
def _find_place(name: str) -> Path:
    """Find the place for the compiled code of a template, one for each version of Python and Jinja."""
    version = "".join(filter(str.isalnum, metadata.version("jinja2")))
    source = Path(str(files("bids_semantoks"))) / "data" / name
    return Path(importlib.util.cache_from_source(source, optimization=f"jinja{version}"))
