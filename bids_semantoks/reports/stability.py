"""Stability of a participant's embeddings compared with a sample of other participants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.outputs.store import OutputPaths, read_embedding
from bids_semantoks.reports.figure_files import build_figure_path, write_figure
from bids_semantoks.reports.figures_embedding import compute_stability, draw_stability
from bids_semantoks.reports.pictures import Picture, load_picture

_MAX_OTHERS: Final = 20


_Kind = tuple[tuple[str, str], ...]


def draw_stabilities(out_dir: Path, participant: str) -> list[tuple[str, Picture]]:
    """Draw a participant's embedding stability; return (space, atlas and encoder in words; picture) per combination."""
    own = _find_embeddings(out_dir, participant)
    kinds = sorted({kind for kind, _ in own})
    others = _find_others(out_dir, participant) if kinds else []
    pictures = []
    for kind in kinds:
        mine = [paths for found, paths in own if found == kind]
        theirs = [read_embedding(paths) for found, paths in others if found == kind]
        labels = _shorten([paths.stem for paths in mine])
        stem = "_".join([f"sub-{participant}", *(f"{key}-{value}" for key, value in kind[:-1] if value)])
        word = f"{kind[-1][1]}Stability"
        vectors = [read_embedding(paths) for paths in mine]
        same = [one for one in theirs if one.shape[1] == vectors[0].shape[1]]
        stability = compute_stability(vectors, labels, same)
        write_figure(build_figure_path(out_dir, stem, word), lambda found=stability: draw_stability(found))  # type: ignore[misc]
        name = ", ".join(value for _, value in kind if value)
        pictures.append((name, load_picture(out_dir, stem, word, "Stability")))
    return pictures


def _find_embeddings(out_dir: Path, participant: str) -> list[tuple[_Kind, OutputPaths]]:
    """Find the embeddings of a participant, with the space, atlas and encoder of each."""
    root = out_dir / f"sub-{participant}"
    found: list[tuple[_Kind, OutputPaths]] = []
    for path in sorted([*root.glob("func/*_embedding.json"), *root.glob("ses-*/func/*_embedding.json")]):
        stem, _, model = path.name.removesuffix("_embedding.json").partition("_desc-")
        entities = parse_entities(stem)
        kind = (("space", entities.get("space", "")), ("atlas", entities.get("atlas", "")), ("desc", model))
        paths = OutputPaths(out_dir=out_dir, directory=path.parent, stem=stem, model=model)
        if paths.embedding.is_file():
            found.append((kind, paths))
    return found


def _find_others(out_dir: Path, participant: str) -> list[tuple[_Kind, OutputPaths]]:
    """Find the embeddings of a sample of other participants, spread evenly over the dataset: reading all takes too
    long."""
    labels = sorted(path.name[4:] for path in out_dir.iterdir() if path.name.startswith("sub-") and path.is_dir())
    labels = [label for label in labels if label != participant]
    step = max(1, -(-len(labels) // _MAX_OTHERS))
    return [one for label in labels[::step] for one in _find_embeddings(out_dir, label)]


def _shorten(stems: Sequence[str]) -> list[str]:
    """Reduce each name to the entities that differ between names."""
    names = [parse_entities(stem) for stem in stems]
    keys = [key for key in names[0] if len({name.get(key) for name in names}) > 1] if names else []
    keys += [key for name in names for key in name if key not in names[0] and key not in keys]
    labels = [" ".join(f"{key}-{name[key]}" for key in dict.fromkeys(keys) if key in name) for name in names]
    return [label or name.get("task", "run") for label, name in zip(labels, names, strict=True)]
