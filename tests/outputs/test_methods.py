"""The methods text says what was done, and every citation leads somewhere."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bids_semantoks.config import EmbeddingConfig, RunningConfig, SignalsConfig
from bids_semantoks.outputs import credits, methods
from bids_semantoks.outputs.methods import (
    describe_methods,
    find_keys,
    read_bibliography,
    to_html,
    to_latex,
    write_citation,
)

ROOT = Path(__file__).resolve().parents[2]


VERSIONS = dict.fromkeys(
    ("bids_semantoks", "python", "nibabel", "nilearn", "numpy", "pybids", "scipy", "torch"), "9.8.7"
)


SIGNALS = {
    "atlas": "Schaefer400Tian3Buckner7",
    "atlas_sha256": "5" * 64,
    "space": "MNI152NLin6Asym",
    "denoising": {
        "name": "36p",
        "description": "Motion and means.",
        "strategy": ["motion", "wm_csf", "global_signal"],
        "options": [["motion", "full"], ["wm_csf", "full"]],
        "columns": [],
    },
    "band_pass": [0.011, 0.13],
    "fd_threshold": 0.37,
    "dummy_scans": "6",
    "min_coverage": 0.43,
    "averaged_over": "voxels inside the brain mask",
    "pipelines": ["fMRIPrep 24.1.1"],
    "n_parcels": 457,
    "min_time": 123.0,
}


CHOSEN = {"name": "mine", "description": ""}


XCPD = {"denoised_by": "xcp_d 0.9", "pipelines": ["xcp_d 0.9"]}


EMBEDDING = {
    "model": "Own",
    "model_sha256": "7" * 64,
    "n_windows": 11,
    "pooling": "cls",
    "precision": "bf16",
    "repetition_time": 2.0,
    "window_seconds": 200.0,
    "weights": "All weigh alike.",
    "device": "a GPU",
    "description": "An encoder of ours",
    "is_random": False,
    "random_seed": 17,
}


PRETRAINING = {"data": {"runs": 31, "participants": 29, "hours": 3.25}, "recipe": {"mask_ratio": [0.65, 0.85]}}


PROBING = {"probe": ["age"], "protocol": "nested", "n_repeats": 17, "n_permutations": 213, "baselines": ["pearson"]}


ALL = {"versions": VERSIONS, "signals": SIGNALS, "embedding": EMBEDDING, "pretraining": PRETRAINING, "probing": PROBING}


def read_own_bibliography():
    return read_bibliography((ROOT / "boilerplate" / "references.bib").read_text(encoding="utf-8"))


def test_every_key_is_in_the_bibliography_and_every_entry_leads_somewhere():
    references = read_own_bibliography()
    source = (ROOT / "boilerplate" / "references.bib").read_text(encoding="utf-8")
    assert len(references) == source.count("\n@") + source.startswith("@")
    template = (ROOT / "boilerplate" / "methods.md.jinja").read_text(encoding="utf-8")
    tables = (credits.ATLAS_KEYS, credits.COMPONENT_KEYS)
    used = {key for table in tables for key in table.values()} | set(find_keys(template))
    used |= {key for keys in credits.PIPELINE_KEYS.values() for key in keys} | {credits._EXPANSION_KEY}
    used |= set(find_keys(" ".join(methods._BASELINES.values())))
    assert used == set(references)
    for reference in references.values():
        assert reference.fields.get("doi", "").startswith("10.") or reference.fields.get("url", "").startswith(
            "https://"
        )
        assert {"author", "title", "year"} <= set(reference.fields)


def test_what_was_done_is_said():
    text = describe_methods(ALL)
    for phrase in (
        *("fMRIPrep 24.1.1", "MNI152NLin6Asym", "457 parcels", "Schaefer400Tian3Buckner7", "5555555555555555"),
        *("less than 43 %", "The first 6 volumes", "above 0.37 mm", "less than 123 s", "*36p*", "0.011 to 0.13 Hz"),
        *(
            "up to 11 windows of 200 s, equally spaced",
            "overlap in runs shorter than 2200 s",
            "*Own*",
            "7777777777777777",
            "a GPU",
            "bf16",
            "pooling `cls`",
        ),
        *(
            "seed was 17",
            "31 runs of 29 participants",
            "masked shares 0.65 to 0.85",
            "permuted 213 times",
            "9.8.7",
            "CC0",
        ),
        *("[@schaefer2018; @tian2020; @buckner2011]", "[@friston1996; @satterthwaite2013]", "All weigh alike."),
    ):
        assert phrase in text, phrase
    assert "  " not in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"fd_threshold": None}, "No volumes were scrubbed"),
        ({"averaged_over": "voxels inside the native brain mask"}, "the run's FNIRT field"),
        ({"motion_filter": ["lp", 0.17]}, "low-pass filtered at 0.17 Hz (Butterworth, order 4 in"),
        ({"dummy_scans": "0"}, "No initial volumes were dropped"),
        ({"dummy_scans": "auto"}, "marked as"),
        ({"min_time": 0.0}, "No minimum run length"),
        ({"band_pass": None}, "signals and regressors, and both were not filtered, before"),
        ({"band_pass": [0, 0.13]}, "low-pass filtered at 0.13 Hz"),
        ({"band_pass": [0.011, 0]}, "high-pass filtered at 0.011 Hz"),
        (
            {"denoising": {"name": "none", "description": "Nothing.", "strategy": [], "columns": []}},
            "no regressors were removed",
        ),
        ({"denoising": {"name": "mine", "description": "", "columns": ["rot_*"]}}, r"columns rot_\*"),
        ({"denoising": None, "pipelines": ["xcp_d 0.10.6"]}, "xcp_d 0.10.6 [@mehta2024]"),
        ({"denoising": None}, "series of the atlas Schaefer400Tian3Buckner7 [@schaefer2018; @tian2020; @buckner2011]"),
        ({"pipelines": ["XCP-D 0.11.0"]}, "XCP-D 0.11.0 [@mehta2024]"),
        ({"pipelines": ["fMRIPost-AROMA 0.0.9"]}, "fMRIPost-AROMA 0.0.9 [@pruim2015]"),
        (XCPD, "xcp_d 0.9,"),
        (XCPD | {"band_pass": None}, "A linear trend was removed from the parcel signals; they were not filtered"),
        (XCPD | {"fd_threshold": None}, "xcp_d 0.9"),
        ({"denoised_by": "UK Biobank", "pipelines": ["UK Biobank"], "fd_threshold": None}, "No volumes were scrubbed"),
        ({"denoising": None}, "without further denoising, detrending or filtering"),
        ({"denoising": {**CHOSEN, "columns": ["global*"]}}, "The global signal was regressed out, which"),
        ({"denoising": {**CHOSEN, "columns": ["csf"]}}, "Mean signals of white matter"),
        ({"denoising": {**CHOSEN, "columns": ["csf"]}}, "The global signal was not regressed out: this would"),
        ({"fd_threshold": None}, "both were band-pass filtered at 0.011 to 0.13 Hz with the same Butterworth filter"),
        ({}, "above 0.37 mm [@power2012] were scrubbed, without their neighbours. Dropped volumes between"),
        ({}, "spectrum of the kept volumes [@power2014]"),
        ({}, "order of scrubbing (interpolate, filter, regress, drop), except"),
        ({"uses_pybids": True}, ", PyBIDS 9.8.7 [@yarkoni2019]."),
        ({"min_coverage": 0.0}, "a parcel without voxels inside the brain mask was treated as absent"),
    ],
)
def test_what_was_not_done_is_not_said(change, phrase):
    text = describe_methods({**ALL, "signals": {**SIGNALS, **change}})
    assert phrase in text
    alone = describe_methods({"versions": VERSIONS, "signals": {**SIGNALS, **change}})
    assert "Embeddings" not in alone
    assert "Probes" not in alone


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({}, "on both sides of a split. Five folds were drawn 17 times, stratified by the phenotype; splits"),
        (
            {"same_splits": True},
            "times, the same for all phenotypes of the same participants and therefore not stratified",
        ),
        ({"protocol": "paper"}, "divided 17 times into 60 % for training, 20 % for validation and 20 % for test"),
        ({"leave_out": "site"}, "*site*"),
        ({"splits": "mine.tsv", "group_by": "family"}, "*mine.tsv*;"),
        ({"finetune": True, "finetune_epochs": 19}, "19 epochs (AdamW"),
        ({"network_importance": True}, "tokens of one network masked, and"),
        ({"scaling": [0.5, 1.0], "scaling_seeds": 3}, "shares of the data, each with 3 seeds"),
        ({"probe": [], "task_blocks": "trial_type"}, "Each block of *trial_type* was embedded as one patch"),
        ({"probe": [], "audit": True}, "with those of another session or run [@finn2015], participants were looked up"),
    ],
)
def test_what_was_probed_is_said(change, phrase):
    probing = {**PROBING, **change}
    text = describe_methods({**ALL, "probing": probing})
    assert phrase in text
    assert ("Linear probes" in text) == bool(probing["probe"])
    is_drawn = bool(probing["probe"]) and not change.keys() & {"protocol", "leave_out", "splits"}
    assert ("Five folds" in text) == is_drawn


def test_p_values_are_those_that_were_computed():
    probing = {**PROBING, "leave_out": "site", "group_by": "family"}
    text = describe_methods({**ALL, "probing": probing})
    assert all(part in text for part in ("*family*", "213 times among participants of the same *site*,"))
    assert "the observed order counts as one of the permutations [@phipson2010]" in text
    assert "corrected resampled t test [@nadeau2003], applied to repeated cross-validation [@bouckaert2004]" in text
    assert "Holm's method [@holm1979]" in text
    assert "square root of 1 + n / n(train)" in text
    assert " 0.0047. " in text
    assert "on the first repetition of the scored splits" in text
    assert "[@holm1979] over all comparisons " in text
    assert "allefeld2016" not in text
    text = describe_methods({**ALL, "probing": {**PROBING, "n_permutations": 0}})
    assert "permuted" not in text
    assert "No permutation tests" in text
    assert "phipson2010" not in text
    text = describe_methods({**ALL, "probing": {**PROBING, "probe": [], "task_blocks": "trial_type"}})
    assert "since no true accuracy is below chance [@allefeld2016]" in text
    assert "bootstrap" not in text


def test_baselines_are_named_with_their_references():
    text = describe_methods({**ALL, "probing": {**PROBING, "baselines": ["pearson", "ledoit_wolf", "tangent", "site"]}})
    assert "shrunk covariances [@ledoit2004], their tangent space [@dadi2019] and site." in text
    assert "Baselines" not in describe_methods({**ALL, "probing": {**PROBING, "baselines": ["none"]}})


@pytest.mark.parametrize(
    ("cohort", "said"),
    [
        (
            {"participants": 3, "runs": 4, "participants_out": 1, "runs_out": 2, "reasons": ["1 a", "1 b"]},
            "4 runs of 3 participants were used. 2 further runs were excluded: 1 a; 1 b. As a consequence, 1 "
            "participant had",
        ),
        (
            {"participants": 1, "runs": 1, "participants_out": 0, "runs_out": 1, "reasons": ["1 a"]},
            "1 run of 1 participant was used. 1 further",
        ),
        (
            {"participants": 2, "runs": 2, "participants_out": 0, "runs_out": 0, "reasons": []},
            "2 runs of 2 participants",
        ),
        (None, ""),
    ],
)
def test_people_and_runs_are_counted(cohort, said):
    text = describe_methods({**ALL, "cohort": cohort})
    assert said in text
    assert ("## Data" in text) == bool(cohort)


def test_settings_are_not_listed():
    """A text for a paper says what a reader needs; logs hold the rest."""
    recipe = {"epochs": 100, "adam_eps": 1e-8, "coding_rate_eps": 0.05}
    probing = {**PROBING, "id_column": "eid", "n_bins": 4, "covariate": ["age", "sex"], "finetune_epochs": 50}
    text = describe_methods({**ALL, "pretraining": {**PRETRAINING, "recipe": recipe}, "probing": probing})
    assert not {word for word in ("Settings", "eid", "1e-08", "adam", "None", "none") if word in text}
    assert "(epochs 100)" in text
    assert "Covariates (*age*, *sex*) were removed" in text
    assert "4 classes" in text
    assert "yarkoni2019" not in text  # PyBIDS was not used


def test_results_have_their_numbers():
    test = "permutation test: ridge r 0.30, p = 0.005, smallest possible 0.005"
    one = {
        "phenotype": "age_*",
        "used": 30,
        "what": "participants",
        "out": ["2 with no value of age"],
        "score": "r 0.31",
    }
    one |= {"motion": {"N": 29, "Mean": 0.187, "SD": 0.06}, "verdict": "above chance", "test": test}
    other = {**one, "phenotype": "sex", "out": [], "motion": {}, "test": ""}
    text = describe_methods({**ALL, "probing": {**PROBING, "covariate": ["site"], "results": [one, other]}})
    assert (
        r"*age_\** was predicted in 30 participants (excluded: 2 with no value of age), with a mean framewise "
        f"displacement of 0.19 mm (SD 0.06, available for 29): r 0.31, above chance ({test})." in text
    )
    assert "*sex* was predicted in 30 participants (excluded: none): r 0.31, above chance." in text
    assert "Covariates (*site*) were removed" in text


def test_all_encoders_and_preparations_are_named():
    compared = [
        {"model": name, "model_sha256": name.lower() * 64, "description": f"Weights {name}."}
        for name in ("B", "C", "D")
    ]
    settings = {"atlas": "Tian3", "denoising": {"strategy": ["compcor"]}}
    prepared = {
        "main": {"Text": "atlas A", "Pipelines": ["fMRIPrep 24.1.1"], "Settings": {"atlas": "Schaefer400"}},
        "gsr": {"Text": "atlas *B", "Pipelines": ["XCP-D 0.10.0"], "Settings": settings},
    }
    facts = {"probing": {**PROBING, "preparations": prepared}}
    text = describe_methods({**ALL, **facts, "embedding": {**EMBEDDING, "compared": compared}})
    listed = [f"*{name}* (SHA-256 `{name.lower() * 16}`; Weights {name})" for name in "BCD"]
    assert f"Compared with it were {listed[0]}, {listed[1]} and {listed[2]}. The embedding of a window" in text
    assert (
        "*main* (atlas A) [@esteban2019; @schaefer2018]; *gsr* (atlas \\*B) [@mehta2024; @tian2020; @behzadi2007]."
        in text
    )
    assert "compared with the same model of *main*" in text
    text = describe_methods({**ALL, "embedding": {**EMBEDDING, "compared": compared[:1]}})
    assert f"Compared with it was {listed[0]}. The embedding" in text
    assert "preparations" not in text


def test_citations_become_links_and_commands(tmp_path):
    references = read_own_bibliography()
    text = "# Title\n\nDone & *said* in `a_b` [@tian2020; @gijsen2026], 50 %."
    page = to_html(text, references)
    assert '(<a href="#ref-tian2020">Tian et al., 2020</a>; <a href="#ref-gijsen2026">Gijsen et al., 2026</a>)' in page
    assert "Done &amp; <em>said</em> in <code>a_b</code>" in page
    assert "https://doi.org/10.1038/s41593-020-00711-6" in page
    latex = to_latex(text)
    assert r"Done \& \emph{said} in \texttt{a\_b} \citep{tian2020,gijsen2026}, 50 \%." in latex


def test_files_are_written_once_and_hold_only_what_is_cited(tmp_path):
    write_citation(tmp_path, ALL)
    files = {ending: tmp_path / "logs" / f"CITATION.{ending}" for ending in ("md", "html", "tex", "bib")}
    before = {ending: (path.read_bytes(), path.stat().st_ino) for ending, path in files.items()}
    write_citation(tmp_path, ALL)
    assert before == {ending: (path.read_bytes(), path.stat().st_ino) for ending, path in files.items()}
    cited = find_keys(files["md"].read_text(encoding="utf-8"))
    assert set(read_bibliography(files["bib"].read_text(encoding="utf-8"))) == set(cited)
    assert "pruim2015" not in cited


#: What cannot change a result of a run: paths, processes, the device, verbosity, which outputs are written, and how
#: windows weigh in the means of the group.
NEUTRAL = {
    *("min_kept", "atlas_dir", "signals_only", "save_raw_signals", "device", "batch_size", "save_tokens", "check"),
    *("n_procs", "omp_nthreads", "mem", "work_dir", "dry_run", "reports_only", "boilerplate_only", "overwrite"),
    *("format", "redo_older_than", "stop_on_first_crash", "ignore_failed_runs", "notrack", "verbose", "quiet"),
    *("more_models", "figures", "networks_format", "connectivity"),
}


FIELDS = [
    (stage, field.name)
    for stage, kind in (("signals", SignalsConfig), ("embedding", EmbeddingConfig), ("running", RunningConfig))
    for field in dataclasses.fields(kind)
    if field.name not in NEUTRAL
]


#: A value that cannot stand in the text by chance, the words that say it, and where the sidecar has it.
SAID = {
    "atlas": ("Demo457", "Demo457", ("signals", "Settings", "atlas", "Demo457")),
    "denoise": ("24p", "*24p*", ("signals", "Settings", "denoising", "name", "24p")),
    "band_pass": ((0.013, 0.091), "0.013 to 0.091 Hz", ("signals", "Settings", "band_pass", [0.013, 0.091])),
    "fd_threshold": (0.83, "0.83 mm", ("signals", "Settings", "fd_threshold", 0.83)),
    "motion_filter": (
        "notch:10-13",
        "10 to 13 breaths per minute",
        ("signals", "Settings", "motion_filter", ["notch", 10.0, 13.0]),
    ),
    "dummy_scans": ("7", "The first 7 volumes", ("signals", "Settings", "dummy_scans", "7")),
    "min_time": (61.0, "less than 61 s", ("signals", "MinimumTime", 61.0)),
    "min_coverage": (0.47, "less than 47 %", ("signals", "Settings", "min_coverage", 0.47)),
    "model": ("random:tiny", "*RandomTinySeed3Avg*", ("embedding", "Settings", "model", "RandomTinySeed3Avg")),
    "precision": ("fp32", "fp32 arithmetic", ("embedding", "Settings", "precision", "fp32")),
    "n_windows": (5, "up to 5 windows", ("embedding", "Settings", "n_windows", 5)),
    "pooling": ("avg", "pooling `avg`", ("embedding", "Settings", "pooling", "avg")),
    "random_seed": (3, "seed 3", ("embedding", "RandomSeed", 3)),
}


def test_every_field_that_changes_results_is_in_sidecar_and_text(study, tmp_path, app):
    assert {name for _, name in FIELDS} == set(SAID)
    out = tmp_path / "out"
    arguments = ["--participant-label", "001"]
    for _, name in FIELDS:
        value = SAID[name][0]
        if name not in ("atlas", "model"):
            values = value if isinstance(value, tuple) else (value,)
            arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    assert app(study, out, *arguments)[0] == 0
    sidecars = {
        "signals": json.loads(next(out.rglob("*_stat-mean_timeseries.json")).read_text()),
        "embedding": json.loads(next(out.rglob("*_embedding.json")).read_text()),
    }
    text = (out / "logs" / "CITATION.md").read_text(encoding="utf-8")
    for name, (_, words, (*keys, wanted)) in SAID.items():
        assert words in text, name
        found = sidecars
        for key in keys:
            found = found[key]
        assert found == wanted, name


def test_boilerplate_only_writes_the_text_and_nothing_else(study, tmp_path, app):
    out = tmp_path / "out"
    code, text = app(study, out, "--boilerplate-only")
    assert code == 0
    assert "methods text written" in text
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        f"CITATION.{ending}" for ending in ("md", "html", "tex", "bib")
    }


def test_the_installed_wheel_of_the_sdist_has_the_text(tmp_path):
    """Archives keep no symlink: what it points to must take its place."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("bids_semantoks", "boilerplate"):
        shutil.copytree(ROOT / name, project / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(project)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--quiet"]
    subprocess.run([*install, "--target", str(tmp_path / "site"), str(wheel)], check=True, capture_output=True)
    code = (
        "import bids_semantoks, sys; assert bids_semantoks.__file__.startswith(sys.argv[1])\n"
        "from bids_semantoks.outputs.methods import describe_methods\n"
        f"print(describe_methods({{'versions': {VERSIONS!r}}}))"
    )
    called = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path / "site",
    )
    assert called.stdout.startswith("# Methods")
    assert "[@gijsen2026]" in called.stdout


@pytest.mark.parametrize(
    ("pipeline", "keys"),
    [
        ("NiBabies 24.1.0", "nibabies; @esteban2019"),
        ("giga_connectome 0.6.0", "wang2025"),
        ("giga-connectome", "wang2025"),
        ("HCP minimal preprocessing", "glasser2013"),
        ("HCP ICA-FIX", "glasser2013; @salimikhorshidi2014; @griffanti2014"),
        ("HCP Lifespan", "glasser2013; @salimikhorshidi2014; @griffanti2014"),
        ("UK Biobank", "alfaroalmagro2018; @salimikhorshidi2014; @griffanti2014"),
        ("abcd-hcp-pipeline", "feczko2021; @glasser2013"),
        ("C-PAC 1.8.7", "craddock2013"),
        ("HALFpipe 1.2.2", "waller2022"),
        ("tedana 24.0.2", "dupre2021"),
    ],
)
def test_each_pipeline_is_cited(pipeline, keys):
    text = describe_methods({"versions": VERSIONS, "signals": {**SIGNALS, "pipelines": [pipeline]}})
    assert f"{pipeline} [@{keys}]" in text


def test_dois_are_those_of_their_works():
    """Copied from the works' own pages or bibliographies."""
    dois = {key: one.fields.get("doi") for key, one in read_own_bibliography().items()}
    for key, doi in {
        "wang2025": "10.21105/joss.07061",
        "glasser2013": "10.1016/j.neuroimage.2013.04.127",
        "salimikhorshidi2014": "10.1016/j.neuroimage.2013.11.046",
        "griffanti2014": "10.1016/j.neuroimage.2014.03.034",
        "alfaroalmagro2018": "10.1016/j.neuroimage.2017.10.034",
        "craddock2013": "10.3389/conf.fninf.2013.09.00042",
        "waller2022": "10.1002/hbm.25829",
        "dupre2021": "10.21105/joss.03669",
        "feczko2021": "10.1101/2021.07.09.451638",
        "power2014": "10.1016/j.neuroimage.2013.08.048",
        "ciric2017": "10.1016/j.neuroimage.2017.03.020",
        "murphy2017": "10.1016/j.neuroimage.2016.11.052",
        "bouckaert2004": "10.1007/978-3-540-24775-3_3",
        "allefeld2016": "10.1016/j.neuroimage.2016.07.040",
        "ledoit2004": "10.1016/S0047-259X(03)00096-4",
        "dadi2019": "10.1016/j.neuroimage.2019.02.062",
    }.items():
        assert dois[key] == doi
