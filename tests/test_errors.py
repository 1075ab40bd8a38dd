"""Errors cross process borders."""

from __future__ import annotations

import pickle

import pytest

from bids_semantoks.errors import (
    AtlasError,
    RunFailed,
    RunSkipped,
    escape_latex,
    escape_markdown,
    replace_hidden,
    show_hidden,
)


@pytest.mark.parametrize(
    "error",
    [
        RunFailed("no_mask", "There is no mask.", hint="Make one."),
        RunSkipped("too_short", "It lasts 3 s."),
        AtlasError("It is far away.", hint="Move it."),
    ],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert (str(copy), copy.args) == (str(error), error.args)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sub-01 ü 日本 \U0001f9e0\t50 %", "sub-01 ü 日本 \U0001f9e0\t50 %"),
        ("\x1b[2Jred\x07", "\\x1b[2Jred\\x07"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x9b31m\x85\u2028", "\\x9b31m\\x85\\u2028"),
        ("\u202etxt.\u2066", "\\u202etxt.\\u2066"),
        ("bytes \udcff", "bytes \\udcff"),
    ],
)
def test_a_terminal_shows_what_would_steer_it(text: str, shown: str) -> None:
    assert show_hidden(text) == shown
    replaced = replace_hidden(text)
    assert len(replaced) == len(text)
    assert replaced.encode().decode().isprintable() or set(replaced) & set("\t\n")


def test_newlines_stay_where_they_may() -> None:
    assert show_hidden("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"
    assert replace_hidden("a\n\tb\r\x00") == "a\n\tb\ufffd\ufffd"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("xcp_d 0.10.6, 24P (36 columns) at 50 % & more!", "xcp_d 0.10.6, 24P (36 columns) at 50 % & more!"),
        ("rot_*, a _b_", r"rot_\*, a \_b_"),
        ("[@key] `code` <b>", r"\[\@key\] 'code' &lt;b>"),
        ("&lt; &#60; a&b", r"\&lt; \&#60; a&b"),
        (r"\input{x} $x$ a^b~c", r"\\input{x} \$x\$ a\^b\~c"),
        ("http://a.b ![x](y)", r"http\://a.b !\[x\](y)"),
        ("a\n\n# b\x1b", "a  # b\ufffd"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, written: str) -> None:
    assert escape_markdown(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Müller–Šmíd “x” 5 €", "Müller–Šmíd “x” 5 €"),
        (r"\input{a} %", r"\textbackslash{}input\{a\} \%"),
        ("^^5cinput ~ $x_1$ #&", r"\textasciicircum{}\textasciicircum{}5cinput \textasciitilde{} \$x\_1\$ \#\&"),
        ("日 \U0001f9e0\u00a0\x00\n", "U+65E5 U+1F9E0 U+0000 "),
    ],
)
def test_latex_sets_text_as_it_is(text: str, written: str) -> None:
    assert escape_latex(text) == written
