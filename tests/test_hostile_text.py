"""Text of others in every field: what is written shows it, and runs none of it."""

from __future__ import annotations

import base64
import functools
import hashlib
import html.parser
import json
import os
import re
import subprocess
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import surface_files as made
from helpers.trees import C2009, runs_of, write_fmriprep, write_run

from bids_semantoks.atlases.label_surfaces import load_surface_labels
from bids_semantoks.cli import call
from bids_semantoks.files import read_json, write_json, write_text
from bids_semantoks.images.fsl_warps import describe_applywarp
from bids_semantoks.inputs.accounting import describe_absent_content
from bids_semantoks.outputs.methods import read_bibliography, read_methods, write_citation
from bids_semantoks.pretraining.card import write_model_card
from bids_semantoks.reports.figures import write_figures
from bids_semantoks.signals.read_series import load_parcel_series

pytestmark = pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")

HOSTILE = {
    "attribute": 'xcp_d http://a"onfocus="document.title=1"autofocus="x \'onload=\'y',
    "element": "</title></style></p>--><script>document.title=2</script><img src=x onerror=document.title=3>]]>",
    "link": "[x](javascript:document.title=4) <http://b.c> javascript:document.title=5 http://c.d/?a=1&b=2",
    "latex": r"\input{/etc/passwd} \write18{id} ^^5cinput $\alpha$ %x #1 }{ ~ \end{document} http://a}\input{x}",
    "markdown": "[@nobody2020] [@gijsen2026] *em* _em_ `code` ``x`` # Head &lt;b &#60; <b> | ![i](j) \\",
    "bibtex": "@article{x, title = {y}} \n}\n\n@misc{z,\n",
    "template": "{{ 7 * 7 }} {% raw %} %(asctime)s {0} {x!r}",
    "controls": "\x1b[31mred\x1b]0;title\x07 \x00 \x9b \u2028 \ud800 \udcff \u202etxt\nerror: fake",
    "lines": "\r2020-01-01 00:00:00,000 ERROR fake\n\n# Head\n\n---\n\n    code\n- item",
}

#: What fields of a table, and so labels of figures, can hold; other controls make a table a binary file.
CELL = " ".join(HOSTILE.values()).encode("utf-8", "ignore").decode()
CELL = " ".join(re.sub("[\x00\x07]", "", CELL).split())

#: What labels in names of files can hold.
LABEL = '["><img src=x onerror=document.title=8>*]$(id)'

#: What pages are made of; links lead into the page, to files beside it, or to a work that is cited.
ELEMENTS = {
    *("html lang", "head", "meta charset", "meta name", "meta content", "meta http-equiv", "title", "style", "body"),
    *("nav", "main", "section id", "section class", "div class", "div id", "footer", "h1", "h2", "h3", "h4", "p class"),
    *("a href", "span class", "dl", "dt", "dd", "ul class", "li id", "code", "em", "figure", "figcaption"),
    *("img alt", "img src", "table", "thead", "tbody", "tr class", "th class", "td class", "details open", "summary"),
    *("nav aria-label", "a class", "a aria-label", "tr id", "section data-run", "figure class", "noscript", "strong"),
    *("div tabindex", "div role", "div aria-label", "script", "script type", "script id"),
    *("svg class", "svg viewbox", "svg width", "svg role", "svg aria-label", "g transform", "path class", "path d"),
    *(
        "text class",
        "text x",
        "text y",
        "text transform",
        "rect class",
        "rect x",
        "rect y",
        "rect width",
        "rect height",
    ),
    *("rect data-bars", "image class", "image href", "image x", "image y", "image width", "image height"),
    *("image preserveaspectratio", "image data-map", "polyline class", "polyline points", "circle class", "circle cx"),
    *("button id", "button type", "button hidden", "canvas role", "input id", "input type", "input autocomplete"),
    *(
        "input placeholder",
        "input list",
        "input spellcheck",
        "p id",
        "p role",
        "th title",
        "output id",
        "output for",
        "label for",
        "canvas tabindex",
        "canvas class",
    ),
    *("circle cy", "circle r", "th scope", "table class", "div data-from", "img class", "img width", "img height"),
}
LINK = re.compile(r"(#|sub-|logs/CITATION|group_\w+\.|README\.md$|dataset_description|https://[\w./:()-]+$)")

_SVG = {
    *("svg", "metadata", "RDF", "Work", "type", "format", "title", "creator", "Agent", "defs", "style", "g", "path"),
    *("use", "text", "tspan", "clipPath", "rect", "image", "pattern", "marker"),
}

_COMMANDS = {
    *("documentclass", "usepackage", "begin", "end", "section", "subsection", "emph", "texttt", "citep", "url"),
    *("bibliographystyle", "bibliography", "textbackslash", "textasciitilde", "textasciicircum"),
}


class Page(html.parser.HTMLParser):
    """Elements of a page in their order, its text, links, pictures and what it lets itself do."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.policy, self.text = "", ""
        self.scripts: list[str] = []
        self.is_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements += [f"{tag} {name}" for name, _ in attrs] or [tag]
        values = dict(attrs)
        if "href" in values:
            (self.pictures if tag == "image" else self.links).append(values["href"] or "")
        if "src" in values:
            self.pictures.append(values["src"] or "")
        self.is_script = tag == "script" and "type" not in values
        assert tag != "script" or values.get("type", "application/json") == "application/json"
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.is_script:
            self.scripts.append(data)
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self.is_script = False

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def check_page(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    words = {one.partition(" ")[0] for one in ELEMENTS}
    found = {one for one in page.elements if not re.search(r" (data|aria)-[a-z]+$", one)}
    assert found <= ELEMENTS | words, sorted(found - ELEMENTS - words)
    assert [link for link in page.links if not LINK.match(link)] == []
    for part in ("default-src 'none'", "img-src data:", "base-uri 'none'"):
        assert part in page.policy
    rules = dict(one.strip().split(" ", 1) for one in page.policy.split(";"))
    allowed = {f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in page.scripts}
    assert set(rules.get("script-src", "").split()) == allowed
    for picture in page.pictures:
        head, _, body = picture.partition(",")
        if head == "data:image/png;base64":
            assert base64.b64decode(body, validate=True).startswith(b"\x89PNG")
            continue
        assert head == "data:image/svg+xml;charset=utf-8"
        check_svg(urllib.parse.unquote(body).encode())
    return page


def check_svg(content: bytes) -> None:
    tags = {str(element.tag).rpartition("}")[2] for element in ElementTree.fromstring(content).iter()}
    assert tags <= _SVG, tags - _SVG


def check_latex(text: str, n_lines: int) -> None:
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= _COMMANDS
    bare = re.sub(r"\\([A-Za-z]+|.)", "", text)
    assert not set(bare) & set("%$#&^~_")
    assert bare.count("{") == bare.count("}")
    assert len(text.splitlines()) == n_lines
    assert text.count("\\end{document}") == 1


def build_facts(text: str) -> dict[str, Any]:
    """Facts of everything that the methods text says, `text` wherever somebody else may choose it."""
    versions = ("bids_semantoks", "python", "nibabel", "nilearn", "numpy", "pybids", "scipy", "torch")
    return {
        "versions": dict.fromkeys(versions, f"1 {text}"),
        "cohort": {"participants": 1, "runs": 2, "participants_out": 1, "runs_out": 1, "reasons": [f"1 r {text}"]},
        "signals": {
            "atlas": f"A {text}",
            "atlas_sha256": text,
            "atlas_warped": f"W {text}",
            "space": f"S {text}",
            "denoising": {"name": f"D {text}", "description": f"D {text}", "columns": [f"C {text}", "rot_*", "a_*"]},
            "band_pass": [0.01, 0.1],
            "fd_threshold": 0.3,
            "dummy_scans": f"3 {text}",
            "min_coverage": 0.5,
            "averaged_over": f"voxels inside {text}",
            "pipelines": [f"P {text}", f"Q {text}"],
            "n_parcels": 457,
            "min_time": 100.0,
        },
        "embedding": {
            "model": f"M {text}",
            "model_sha256": text,
            "n_windows": 8,
            "pooling": "cls",
            "precision": f"p {text}",
            "repetition_time": 2.0,
            "window_seconds": 200.0,
            "device": "the CPU",
            "description": f"E {text}",
            "weights": f"w {text}",
            "is_random": False,
            "random_seed": 0,
        },
        "pretraining": {
            "data": {"runs": f"1 {text}", "participants": 1, "hours": 1},
            "recipe": {"epochs": f"e {text}", "mask_ratio": [f"v {text}", f"w {text}"]},
        },
        "probing": {
            "probe": [f"age {text}", "sex"],
            "covariate": [f"c {text}"],
            "protocol": "nested",
            "group_by": f"g {text}",
            "leave_out": f"l {text}",
            "n_repeats": 10,
            "task_blocks": f"b {text}",
        },
    }


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_methods_text_shows_it_in_every_language(tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind]
    written = {}
    for name, words in (("benign", "words of nobody at all"), ("hostile", text)):
        write_citation(tmp_path / name, build_facts(words))
        written[name] = {
            ending: (tmp_path / name / "logs" / f"CITATION.{ending}").read_text(encoding="utf-8")
            for ending in ("md", "html", "tex", "bib")
        }
    benign, hostile = written["benign"], written["hostile"]
    pages = [check_page(tmp_path / name / "logs" / "CITATION.html") for name in written]
    assert pages[0].elements == pages[1].elements
    assert pages[0].links == pages[1].links
    # Everything arrives but backticks and what steers.
    shown = re.sub(r"[\x00-\x1f\x80-\x9f\u2028\u202e\ud800\udcff]", "\ufffd", re.sub(r"\s", " ", text))
    shown = re.sub(r" +", " ", shown.replace("`", "'")).rstrip()
    assert pages[0].text.count("words of nobody at all") == pages[1].text.count(shown)
    check_latex(hostile["tex"], len(benign["tex"].splitlines()))
    assert hostile["tex"].count("\\citep") == benign["tex"].count("\\citep")
    assert hostile["bib"] == benign["bib"]
    assert read_bibliography(hostile["bib"])
    assert len(hostile["md"].splitlines()) == len(benign["md"].splitlines())
    assert not re.search(r"<[a-z/!]", hostile["md"])
    # Read back, as for --reports-only, it is what was written.
    assert read_methods(tmp_path / "hostile") in hostile["html"]


def test_a_methods_text_of_others_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    old = "\n\n".join([f"# {one} [@nobody2020] [@gijsen2026; @nobody2020]" for one in HOSTILE.values()])
    (tmp_path / "logs" / "CITATION.md").write_bytes(old.encode(errors="surrogatepass") + b"\xff\n\n## References\n")
    (tmp_path / "logs" / "CITATION.html").write_text("<body>\n<script>1</script></body>")
    fragment = read_methods(tmp_path)
    page = Page(fragment)
    assert {one.partition(" ")[0] for one in page.elements} <= {"h2", "h3", "p", "a", "code", "em", "ul", "li"}
    assert {one.partition(" ")[2] for one in page.elements} <= {"", "href", "id"}
    assert all(re.match(r"#ref-\w+$|https?://[\w./%-]+$", link) for link in page.links)


def poison(values: Any, text: str) -> Any:
    """Add `text` to every text of a sidecar that people or other programs choose."""
    if isinstance(values, dict):
        return {key: poison(value, text) if key != "Parcels" else value for key, value in values.items()}
    if isinstance(values, list):
        return [poison(value, text) for value in values]
    return f"{values} {text}" if isinstance(values, str) else values


def write_hostile_study(root: Path) -> None:
    """Series of twelve people, two of them with two sessions; parcels, networks, columns and classes are hostile."""
    rng, networks = np.random.default_rng(0), [f"{name} {CELL}" for name in ("Vis", "SomMot")]
    parcels = [f"{i} {CELL}" for i in range(6)]
    table = ["index\tlabel\tnetwork_label", *(f"{i + 1}\t{parcels[i]}\t{networks[i % 2]}" for i in range(6))]
    (root.parent / "Own.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    names = [f"{name} {CELL}" for name in ("participant_id", "age", "sex", "school", "scanner", "family")]
    people = ["\t".join([*names, "site"])]
    for number in range(1, 13):
        # Minus 999 and unknown may mean missing, and None does.
        first = ("-999", "None") if number == 1 else (str(20 + number), f"{'AB'[number // 7]} {CELL}")
        values = [*first[:1], f"{'MF'[number % 2]} {CELL}", first[1], str(number % 3), f"{number} {CELL}"]
        place = "unknown" if number == 2 else f"{'AB'[number // 7]} {CELL}"
        people.append("\t".join([f"sub-{number:02d}", *values, place]))
        for session in "12"[: 2 if number < 3 else 1]:
            folder = root / f"sub-{number:02d}" / f"ses-{session}" / "func"
            folder.mkdir(parents=True)
            name = f"{_STEM.replace('sub-01_ses-1', f'sub-{number:02d}_ses-{session}')}_stat-mean_timeseries"
            values = rng.standard_normal((110, 6)).round(3)
            lines = ["\t".join(parcels), *("\t".join(map(str, row)) for row in values.tolist())]
            (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            (folder / f"{name}.json").write_text('{"RepetitionTime": 2.0}')
    (root / "participants.tsv").write_text("\n".join(people) + "\n", encoding="utf-8")
    scanner = {"Levels": dict.fromkeys("012", CELL), "MissingValues": [HOSTILE["controls"]]}
    write_json(root / "participants.json", {names[4]: scanner})
    text = " ".join(HOSTILE.values())
    generator = {"Name": f"xcp_d {text}", "Version": f"0.1 {text}", "CodeURL": "javascript:document.title=6"}
    description = {"Name": text, "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [generator]}
    (root / "dataset_description.json").write_text(json.dumps(description))


def test_pages_and_figures_of_hostile_outputs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    series, out = tmp_path / "series", tmp_path / "out"
    write_hostile_study(series)
    run: Callable[..., int] = functools.partial(_run, series, out)
    assert run("participant", "--min-time", "0", "--save-tokens") == 0, capfd.readouterr()
    asked = (
        "--probe",
        f"age {CELL}",
        f"sex {CELL}",
        "--n-repeats",
        "1",
        "--n-permutations",
        "3",
        "--id-column",
        f"participant_id {CELL}",
    )
    asked += ("--covariate", f"school {CELL}", f"scanner {CELL}", "--group-by", f"family {CELL}", "--baselines", "none")
    assert run("group", *asked) == 0, capfd.readouterr()
    said = "".join(capfd.readouterr())
    assert not set(said) & set("\x1b\x07\x9b\x00\u202e\r")
    assert not re.search(r"^(error: fake|2020-01-01|# Head)", said, re.MULTILINE)
    logs = list((out / "logs").glob("calls/*/bids_semantoks.log"))
    assert logs
    for log in logs:
        lines = log.read_text(encoding="utf-8").splitlines()
        assert all(re.match(r"20(?!20-01-01)\S+ \S+ [A-Z]+ |    ", line) for line in lines)
    names = {path.name for path in out.glob("*.html")}
    assert {"group.html", "sub-01.html"} <= names
    page = check_page(out / "group.html")
    assert "Could not draw figure" not in page.text
    shown = " ".join(page.text.replace("\xa0", " ").split())
    visible = CELL.translate(dict.fromkeys([0x1B, 0x9B, 0x202E], "\ufffd"))
    for fact in (
        *(f"school {visible} (category, 2 levels)", f"scanner {visible} (category, 3 levels)"),
        f"kept together by family {visible}",
        *("'-999' (1)", "'None' (1)"),
    ):
        assert fact in shown, fact
    # What an earlier call, or somebody else, left in the output directory.
    (out / "sub-01" / "ses-1" / "func" / f'{_STEM}_"><script>.tsv').touch()
    text = " ".join(HOSTILE.values())
    for path in [*out.rglob("sub-01*.json"), out / "dataset_description.json", out / "group_probe.json"]:
        kept = {"status", "reason", "Name", "SHA256", "TableSHA256", "FilesSHA256", "Settings", "Files", "PageFiles"}
        values = {
            key: value if key in kept else poison(value, text) for key, value in json.loads(path.read_text()).items()
        }
        path.write_text(json.dumps(values))
    (out / "logs" / "CITATION.html").write_text("<body>\n<script>document.title=7</script></body>")
    assert run("participant", "--reports-only", "--participant-label", "01") == 0, capfd.readouterr()
    for path in out.glob("*.html"):
        check_page(path)
    page = check_page(out / "sub-01.html")
    assert "document.title" in page.text
    assert any("stat-coverage" in link for link in page.links)
    for path in out.rglob("*.svg"):
        check_svg(path.read_bytes())


_STEM = f"sub-01_ses-1_task-rest{LABEL}_space-MNI152NLin6Asym_atlas-Own"


def _run(series: Path, out: Path, level: str, *arguments: str) -> int:
    options = ["--model", "random:tiny", "--n-procs", "1", "--atlas", str(series.parent / "Own.tsv")]
    return call([str(series), str(out), level, *options, *arguments])


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_encoder_of_hostile_networks_has_its_card(tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind].encode("utf-8", "ignore").decode()
    data = {f"source {text}": f"x {text}", "parcels": [f"y {text}"]}
    details = {"data": data, "limits": data, "recipe": data, "participants": {"sha256": []}, "n_parameters": 7}
    folder = tmp_path / re.sub(r"[/\x00]", "", text)
    write_model_card(folder, name=text, sha256="0" * 64, details=details, drawn=())
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert not re.search(
        r"<[a-z/!]|(?<!\\)\[@|(?<!!)(?<!\\)\[|^#+ (?!Encoder|Data|Recipe|Intended|Limits|Figures)", card
    )
    assert all(line.count("`") % 2 == 0 for line in card.splitlines())
    assert not set(card) & set("\x1b\x00\x9b\u202e")


def test_an_encoder_of_hostile_networks_has_its_figures(tmp_path: Path) -> None:
    # Half a character and a newline, which a table cannot hold but JSON can.
    names = (HOSTILE["controls"], HOSTILE["lines"], " ".join(HOSTILE.values()))
    write_figures(
        tmp_path,
        log={"step": np.arange(3.0), "loss": np.arange(3.0)},
        kernels={name: np.ones((2, 5)) for name in names},
        embeddings=np.eye(3),
        names=names,
        repetition_time=2.0,
    )
    figures = list((tmp_path / "figures").iterdir())
    assert len(figures) == 3
    for path in figures:
        check_svg(path.read_bytes())


def test_commands_to_copy_run_nothing_else(tmp_path: Path) -> None:
    labels = "rest$(touch x);'`touch y`"
    root = write_fmriprep(tmp_path / "$(touch z)", ("01",))
    for session in "12":
        write_run(root, f"sub-01_ses-{session}_task-{labels}_acq-$HOME", f"{C2009}_res-2;touch w")
    for path in root.rglob("*_bold.nii.gz"):
        path.unlink()
        path.symlink_to("../../.git/annex/objects/gone")
    runs = [run for run in runs_of(root) if run.entity("acq")]
    for text in (describe_absent_content(runs), describe_absent_content(runs[:1])):
        command = text[re.search(r"(cd|datalad) ", text).start() :]
        shell = subprocess.run(
            ["bash", "-c", f"datalad() {{ shift; printf '%s\\n' \"$@\"; }}; {command}"],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        assert {str(run.bold.relative_to(root)) for run in runs[: 1 if text.startswith("1 ") else 2]} <= set(
            shell.stdout.splitlines()
        )
    command = describe_applywarp(tmp_path / "a;touch x.nii.gz", tmp_path / "$(touch y).nii.gz")
    subprocess.run(["bash", "-c", f"applywarp() {{ :; }}; {command}"], check=True, cwd=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.name in {*"wxyz"}] == []


def test_names_in_files_of_surfaces_end_no_line(tmp_path: Path) -> None:
    made.write_annot(tmp_path / "lh.Mine.annot", np.arange(50) % 2, ["unknown", HOSTILE["lines"]])
    names = load_surface_labels(tmp_path / "lh.Mine.annot").names
    assert names == {1: "2020-01-01 00:00:00,000 ERROR fake # Head --- code - item"}
    path = made.write_ptseries(tmp_path / "a.ptseries.nii", made.build_series(3), ["V1\tleft", "b\nc", "d  e"])
    assert load_parcel_series(path)[0] == ("V1 left", "b c", "d  e")


def test_names_that_are_not_utf8_can_be_read_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"sub-\xff")
    write_json(tmp_path / "a.json", {"Warnings": [name, "half \ud800"]})
    assert read_json(tmp_path / "a.json") == {"Warnings": [name, "half \ud800"]}
    write_text(tmp_path / "a.txt", f"{name} half \ud800")
    assert (tmp_path / "a.txt").read_bytes() == b"sub-\xff half \xef\xbf\xbd"
