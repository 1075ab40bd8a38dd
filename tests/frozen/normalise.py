"""Files as text that is the same whenever the same is computed. Each rule says why a thing may differ."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np

#: Patterns and what takes their place.
RULES: tuple[tuple[str, str], ...] = (
    # The folder of a call is named after the time and six random digits.
    (r"\d{8}T\d{6}Z_[0-9a-f]{6}", "RUN_ID"),
    # torchrun draws the name of a launch.
    (r"launch-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "launch-ID"),
    # Lines of the log begin with the time.
    (r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", "TIME "),
    # Status of a run: how long it took, and memory, which depends on what the kernel had to give.
    (r'("seconds": )[\d.e-]+', r"\1SECONDS"),
    (r'("peak_rss_mb": )[\d.]+', r"\1MEGABYTES"),
    # The same time in the first table of a report, whose last column it is.
    (r'(<td class="wide">)[\d.]+ (s|min|h)(</td>\n</tr>)', r"\1SECONDS\3"),
    # Progress: of runs, of the demo, of masking networks, of folds, of training.
    (r"(?<=: ok )\([\d.]+ s(, about [\d.]+ (s|min|h) left)?\)", "(SECONDS)"),
    (r"in \d+ s: (a raw BIDS root|parcellated series)", r"in SECONDS: \1"),
    (r"(Masking networks took )[\d.]+ s", r"\1SECONDS"),
    (r", (\d+ participants/s(, )?)?(about \d+ (s|min) left)?(?=\.?\n)", ", SPEED"),
    # Where in the code, and by which steps, something was said: the code may move, what is said may not.
    (r'(?m)^  File ".*", line \d+, in .*\n(    .*\n)*', ""),
    (r"(?m)^bids_semantoks[\w.]*\.(?=\w+: )", ""),
    (r"TREE/[\w/]+\.py:\d+: (\w+: .*\n)  .*\n", r"CODE: \1"),
)
#: Columns of tables: time, memory and speed as above.
COLUMNS = ("seconds", "peak_rss_mb", "participants_per_second")
#: With several processes runs end in any order. The order is counted; what is said of many runs at once names the first
#: to end; and a report compares its participant with the others that were there when it was drawn.
UNORDERED: tuple[tuple[str, str], ...] = (
    (r"\[\d+/(?=\d+\] )", "[N/"),
    (r"(?m)^warning: sub-.*\n", ""),
    (r'(<img alt="Stability of the embedding" src=")[^"]*', r"\1PICTURE"),
)


class Normaliser:
    """Knows what differs between the sides for no reason: the tree, its version, and the order of what it says."""

    def __init__(self, tree: Path, version: str, *, unordered: bool = False) -> None:
        self.tree, self.unordered = tree, unordered
        self.rules = [
            # The cache of results may lie in the tree, too; its path is that of both sides.
            (re.compile(re.escape(str(tree)) + r"(?=/bids_semantoks/)"), "TREE"),
            (re.compile(rf"(?<![\d.]){re.escape(version)}(?![\d.])"), "VERSION"),
            *((re.compile(pattern), to) for pattern, to in RULES),
        ]

    def normalise_name(self, name: Path, path: Path) -> str:
        """Replace the run id in a path, and the random name of packed signals by a part of their checksum."""
        text = str(name)
        if name.parts[-3:-2] == (".signals",):
            text = str(name.with_stem(hashlib.sha256(path.read_bytes()).hexdigest()[:16]))
        for pattern, to in RULES[:2]:
            text = re.sub(pattern, to, text)
        return text

    def normalise_text(self, text: str, name: str) -> str:
        """Apply the rules; sort the lines of what several processes said."""
        for pattern, to in self.rules:
            text = pattern.sub(to, text)
        if name.endswith(".tsv"):
            text = drop_columns(text)
        for pattern, to in UNORDERED if self.unordered else ():
            text = re.sub(pattern, to, text)
        if self.unordered and name in ("stdout", "stderr", "bids_semantoks.log"):
            text = "".join(sorted(text.splitlines(keepends=True)))
        return text

    def normalise_file(self, path: Path) -> str:
        """Read a file as text, or describe it."""
        if path.is_symlink():
            return f"link to {path.readlink()}\n"
        content = path.read_bytes()
        if self.unordered and path.name.endswith("Stability_bold.svg"):
            return "PICTURE\n"
        if path.suffix == ".safetensors":
            return describe_safetensors(content)
        if path.suffix == ".npy":
            values = np.load(path)
            return f"{values.dtype} {values.shape} {hashlib.sha256(content).hexdigest()}\n"
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            return f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}\n"
        return self.normalise_text(text, path.name)


def drop_columns(text: str) -> str:
    """Empty the cells of the columns that hold times."""
    lines = [line.split("\t") for line in text.split("\n")]
    for at in [i for i, name in enumerate(lines[0]) if name in COLUMNS]:
        for cells in lines[1:]:
            if len(cells) > at:
                cells[at] = ""
    return "\n".join("\t".join(cells) for cells in lines)


def describe_safetensors(content: bytes) -> str:
    """Give metadata, and name, type, shape and checksum of each tensor."""
    start = 8 + int.from_bytes(content[:8], "little")
    lines = []
    for name, entry in sorted(json.loads(content[8:start]).items()):
        if "data_offsets" in entry:
            first, last = entry.pop("data_offsets")
            entry["sha256"] = hashlib.sha256(content[start + first : start + last]).hexdigest()
        lines.append(f"{name}: {json.dumps(entry, sort_keys=True)}\n")
    return "".join(lines)
