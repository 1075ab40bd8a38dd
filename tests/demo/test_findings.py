"""The table of what was found says what the tables of the probes say."""

from bids_semantoks.demo.__main__ import main
from bids_semantoks.outputs.group_tables import build_group_table, write_group_table
from bids_semantoks.outputs.sidecars import read_column_descriptions


def build_row(table, **cells):
    return dict.fromkeys(read_column_descriptions(table), 0) | {"n_pretrained": None} | cells


def build_score(phenotype, model, value, role="baseline", **cells):
    is_class = phenotype != "age"
    known = {
        **{"phenotype": phenotype, "model": model, "role": role, "value": value, "verdict": "not detected"},
        **{"kind": "classification" if is_class else "regression", "metric": "auroc" if is_class else "r"},
        **{"ci_low": value - 0.1, "ci_high": value + 0.1, "chance": 0.5 if is_class else 0.0, "difference": None},
    }
    return build_row("group_probe", **(known | cells))


def write_probes(folder):
    scores = [build_score(name, "tiny", 0.71, "encoder", verdict="above chance") for name in ("sex", "age", "group")]
    scores += [build_score(name, "random", 0.63) for name in ("sex", "age")]
    scores[3] |= {"difference": 0.08, "difference_low": -0.01, "difference_high": 0.17, "verdict": "above chance"}
    scores += [build_score("group", "site", 0.68), build_score("site", "tiny", 0.93, "leakage")]
    scores += [build_score(name, "chance", 0.5) for name in ("sex", "age", "group")]
    inside = {"phenotype": "group", "by": "site", "value": 0.47, "ci_low": 0.3, "ci_high": 0.6}
    strata = [build_row("group_strata", **inside, level="EU")]
    people = {"Classes": [], "People": {}}
    facts = {"Encoder": {"Name": "tiny"}, "Overview": [], "Pretraining": {}, "Warnings": []}
    facts |= {"Phenotypes": dict.fromkeys(("sex", "age", "group"), people)}
    write_group_table(folder, "group_probe", build_group_table("group_probe", scores), facts)
    write_group_table(folder, "group_strata", build_group_table("group_strata", strata))


def test_shows_scores_verdicts_and_the_confound(tmp_path, capsys):
    write_probes(tmp_path)
    assert main([str(tmp_path), "--show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    by_start = {" ".join(line.split()[:2]): line for line in reversed(lines) if line}
    assert "synthetic" in lines[0]
    assert by_start["tiny (pretrained)"].count("0.71 [0.61, 0.81]") == 2
    assert by_start["tiny (pretrained)"].endswith("  above chance")
    assert "sex above chance, age not detected" in by_start["random weights"]
    assert by_start["chance 0.50"].split() == ["chance", "0.50", "0.00"]
    assert "sex +0.08 [-0.01, +0.17]" in by_start["Pretrained minus"]
    assert "0.68 [0.58, 0.78]" in by_start["site only"]
    assert "within site EU  0.47 [0.30, 0.60]" in by_start["tiny (pretrained),"]
    assert "AUROC 0.93 [0.83, 1.03]" in lines[-1]


def test_without_probes_there_is_nothing_to_show(tmp_path, capsys):
    assert main([str(tmp_path), "--show"]) == 3
    assert str(tmp_path) in capsys.readouterr().err
