"""Debian's Chromium, driven as a reader would: light or dark, by keyboard, and judged by axe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["assert_readable", "chromium"]


def chromium() -> Iterator[Any]:
    """Yield a browser that reaches no network; skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra test has it)")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def assert_readable(browser: Any, url: str, *, allowed: str | None = None) -> None:
    """Open a page in light and in dark: nothing is fetched, no script fails, and axe finds no fault."""
    from axe_playwright_python.sync_playwright import Axe

    grounds = set()
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(url)
        found = Axe().run(page).response["violations"]
        assert [(v["id"], [n["target"] for n in v["nodes"]]) for v in found] == []
        assert said == []
        foreign = [a for a in asked if not a.startswith(("data:", allowed or url))]
        assert foreign == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390  # wide pictures scroll by themselves
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert len(grounds) == 2
