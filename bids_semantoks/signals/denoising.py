"""Denoising presets: the regressors to remove, as a built-in or user-supplied JSON file."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import read_json

HIGH_PASS_PERIOD: Final = 128.0  # cut-off (s) of the high-pass that fMRIPrep's cosines implement
PRESETS: Final = ("none", "simple", "simple+gsr", "24p", "36p", "compcor", "acompcor", "ica_aroma", "ica_aroma_aggr")
MODELS: Final = {
    "basic": ("",),
    "derivatives": ("", "_derivative1"),
    "power2": ("", "_power2"),
    "full": ("", "_derivative1", "_power2", "_derivative1_power2"),
}
BASES: Final = {
    "motion": ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"),
    "wm_csf": ("csf", "white_matter"),
    "global_signal": ("global_signal",),
}
# Each kind of CompCor needs components of every group; a group lists the column prefixes and, if a prefix is used for
# several masks, the mask (fMRIPrep before 21.0 calls all anatomical components a_comp_cor_*, later versions use w_ and
# c_comp_cor_* for single tissues).
_TISSUES: Final = (("a", "CSF"), ("a", "WM"), ("w", ""), ("c", ""))
_COMBINED: Final = (("a", "combined"),)
_TEMPORAL: Final = (("t", ""),)
COMPCOR: Final[dict[str, tuple[tuple[tuple[str, str], ...], ...]]] = {
    "anat_combined": (_COMBINED,),
    "anat_separated": (_TISSUES,),
    "temporal": (_TEMPORAL,),
    "temporal_anat_combined": (_TEMPORAL, _COMBINED),
    "temporal_anat_separated": (_TEMPORAL, _TISSUES),
}
#: Columns of ICA-AROMA noise components; the orthogonal ones share no variance with components kept as signal.
AROMA: Final = {"basic": "aroma_motion_", "orthogonal": "aroma_orth_motion_"}
# Every option with the component that reads it, its default (not always nilearn's) and its allowed values.
_OPTIONS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "motion": ("motion", "full", tuple(MODELS)),
    "wm_csf": ("wm_csf", "basic", tuple(MODELS)),
    "global_signal": ("global_signal", "basic", tuple(MODELS)),
    "compcor": ("compcor", "anat_combined", tuple(COMPCOR)),
    "n_compcor": ("compcor", "all", ("all",)),
    "ica_aroma": ("ica_aroma", "basic", ("basic", "orthogonal")),
}
_COMPONENTS: Final = ("motion", "wm_csf", "global_signal", "compcor", "ica_aroma", "high_pass")
_ELSEWHERE: Final = {
    "scrub": "Use --fd-threshold for scrubbing.",
    "non_steady_state": "Use --dummy-scans to drop non-steady-state volumes.",
    "tedana": "List tedana's columns under columns instead.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Denoising:
    """Regressors to remove, by nilearn's strategy or by column name."""

    name: str  # of the preset, or stem of the file
    description: str = ""  # one sentence for the methods text
    strategy: tuple[str, ...] = ()  # components of nilearn's load_confounds
    options: tuple[tuple[str, str | int], ...] = ()  # all options of these components, defaults filled in
    columns: tuple[str, ...] = ()  # names with * as wildcard, instead of a strategy

    @property
    def is_none(self) -> bool:
        """Whether nothing is regressed out."""
        return not self.strategy and not self.columns


def load_denoising(name_or_file: str, band_pass: tuple[float, float] | None = None) -> Denoising:
    """Load a denoising preset by name, or a JSON file by path.

    A preset omits fMRIPrep's cosines if `band_pass` (Hz) removes the same drifts, except with CompCor, whose
    components were computed without these drifts; a file is used as written.

    A file holds ``strategy`` (motion, wm_csf, global_signal, compcor, ica_aroma, high_pass) with the options of these
    components, or ``columns`` (names, ``*`` as wildcard), and may hold a ``description``. Raises ConfigurationError
    if it does not exist, is invalid or has a key that would be ignored.
    """
    if name_or_file in PRESETS:
        folder = Path(__file__).parent.parent / "data" / "denoise"
        preset = _read_denoising(folder / f"{name_or_file}.json", name_or_file)
        is_filtered = band_pass is not None and band_pass[0] >= 1 / HIGH_PASS_PERIOD
        if not is_filtered or "compcor" in preset.strategy:
            return preset
        return replace(preset, strategy=tuple(one for one in preset.strategy if one != "high_pass"))
    path = Path(name_or_file)
    if path.is_file():
        return _read_denoising(path, path.stem)
    if path.suffix == ".json" or len(path.parts) > 1:
        raise ConfigurationError(f"--denoise: file {name_or_file} not found.", hint=f"Presets: {', '.join(PRESETS)}.")
    near = difflib.get_close_matches(name_or_file.lower(), PRESETS, n=1, cutoff=0.4)
    raise ConfigurationError(
        f"--denoise: unknown preset {name_or_file!r}; expected one of {', '.join(PRESETS)}.",
        hint=f"Did you mean {near[0]}?" if near else "Give a JSON file by its path.",
    )


def _read_denoising(path: Path, name: str) -> Denoising:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--denoise: {path} is not a readable JSON file ({error}).") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"--denoise: {path} must contain a JSON object, found {type(content).__name__}.")
    known = ("description", "strategy", "columns", *_OPTIONS)
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise ConfigurationError(
            f"--denoise: {path} has unknown keys: {', '.join(unknown)}.", hint=f"Known keys: {', '.join(known)}."
        )
    if ("strategy" in content) == ("columns" in content):
        raise ConfigurationError(f"--denoise: {path} must have either strategy or columns.")
    strategy = _strings(content.get("strategy", []), "strategy", path)
    _check_strategy(strategy, path)
    return Denoising(
        name=name,
        description=str(content.get("description", "")),
        strategy=strategy,
        options=_read_options(content, strategy, path),
        columns=_strings(content.get("columns", []), "columns", path),
    )


def _strings(value: Any, key: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ConfigurationError(f"--denoise: {key} in {path} must be a list of names, found {value!r}.")
    if len(set(value)) != len(value):
        raise ConfigurationError(f"--denoise: {key} in {path} has duplicates: {value!r}.")
    return tuple(value)


def _check_strategy(strategy: tuple[str, ...], path: Path) -> None:
    for component in strategy:
        if component not in _COMPONENTS:
            raise ConfigurationError(
                f"--denoise: strategy in {path} has unknown component {component!r}; expected "
                f"{', '.join(_COMPONENTS)}.",
                hint=_ELSEWHERE.get(component, ""),
            )
    if "compcor" in strategy and "high_pass" not in strategy:
        raise ConfigurationError(
            f"--denoise: strategy in {path} has compcor without high_pass.",
            hint="fMRIPrep computes CompCor on high-pass filtered data, so its cosines must be regressed out as well.",
        )


def _read_options(content: dict[str, Any], strategy: tuple[str, ...], path: Path) -> tuple[tuple[str, str | int], ...]:
    options: list[tuple[str, str | int]] = []
    for key, (component, default, allowed) in _OPTIONS.items():
        if component not in strategy:
            if key in content:
                raise ConfigurationError(f"--denoise: {path} sets {key}, but its strategy has no {component}.")
            continue
        value = content.get(key, default)
        is_count = key == "n_compcor" and type(value) is int and value >= 1
        if value not in allowed and not is_count:
            expected = ", ".join(allowed) + (" or a number from 1" if key == "n_compcor" else "")
            raise ConfigurationError(
                f"--denoise: {key} in {path} is {value!r}, expected {expected}.",
                hint="Images already denoised by ICA-AROMA are not supported." if value == "full" else "",
            )
        options.append((key, value))
    return tuple(options)
