"""Pages in a real browser: Debian's chromium, driven by playwright. Both may be absent; then tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start a browser without a window; skip the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, to look at pages in a browser")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs chromium, to look at pages in a browser (apt-get install chromium)")
    # Chromium cannot start where the path of its socket is long, and calls with --work-dir set TMPDIR.
    with mock.patch.dict(os.environ, TMPDIR="/tmp"), playwright.sync_playwright() as driver:
        # As root there is no sandbox; nothing but pages of these tests is opened.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, path: Path, *, anchor: str = "", **options: Any) -> Iterator[Any]:
    """Open a page from disk; fail if it says anything on the console, breaks its policy, or asks for another file.

    `options` are those of a browser context: ``java_script_enabled``, ``color_scheme``, ``viewport`` and so on.
    """
    context = browser.new_context(**options)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.resolve().as_uri() + (f"#{anchor}" if anchor else ""))
    try:
        yield page
        assert said == []
        elsewhere = [url for url in asked if not url.startswith(("data:", "blob:", path.resolve().parent.as_uri()))]
        assert elsewhere == []
        # A click may lead to the next page, but pages ask for nothing themselves.
        assert [url for url in asked if url.startswith("file:") and not url.partition("#")[0].endswith(".html")] == []
    finally:
        context.close()
