"The pages as a user meets them: a real browser, JupyterLab and Voila, moved by keyboard."
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from browsing import CHROMIUM, PAGES, Tab, browser, server

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")]

BROKEN = """from mvnb.explore import Page, number_slider
from mvnb.plots import blank_figure, style
class Broken:
    alt = "A line."
    def __init__(self):
        with style(): self.figure = blank_figure(4, 1)
        self.moving = self.figure.subplots().plot([0, 1], [0, 0])
    def controls(self): return {"number": number_slider("number", 2)}
    def show(self, number):
        if number == 1: raise ValueError("one is not allowed")
        self.moving[0].set_ydata([0, number])
        return {"number": str(number)}
Page(Broken())"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A server and a browser; what the pages compute on first use is shared with the servers of other workers."
    folder, base = tmp_path_factory.mktemp("lab"), tmp_path_factory.getbasetemp()
    with server(folder, cache=(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "explore-cache") as (address, token):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BROKEN)], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}),
                       folder / "pages/broken.ipynb")
        with browser(address) as context: yield lambda name, voila=False: Tab(context, address, token, name, voila)


def there_and_back(tab, go, back, first):
    "Press a key on a control, and the one that undoes it: something changes, and everything is as it was."
    moved = tab.press(*go)
    assert moved["pictures"] != first["pictures"] and moved["readouts"] != first["readouts"]
    assert tab.press(*back) == first


def slide(tab, slider, first):
    label = slider.locator("xpath=ancestor::*[contains(@class, 'widget-slider')]/label").inner_text()
    assert label and tab.page.get_by_role("slider", name=label, exact=True).and_(slider).count() == 1
    at_end = float(slider.get_attribute("aria-valuenow")) >= float(slider.get_attribute("aria-valuemax"))
    keys = ["ArrowRight", "ArrowLeft"][::-1 if at_end else 1]
    there_and_back(tab, (slider, keys[0]), (slider, keys[1]), first)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_every_control_moves_the_picture_and_back(lab, path):
    tab = lab(path.name)
    first, places = tab.state(), tab.boxes()
    assert first["pictures"] and len(first["pictures"]) == len(first["readouts"]) and tab.controls("sliders")
    for slider in tab.controls("sliders"): slide(tab, slider, first)
    for check in tab.controls("checks"): there_and_back(tab, (check, "Space"), (check, "Space"), first)
    for group in tab.controls("groups"):
        pressed, other = (group.locator("button").nth(i) for i in (0, 1))
        there_and_back(tab, (other, "Space"), (pressed, "Space"), first)
    assert tab.boxes() == places, "the layout moved"
    for image in tab.page.locator("img.widget-image").all():
        assert ". Now: " in image.get_attribute("title") and tab.page.get_by_role("img", name=image.get_attribute("title")).count() == 1
    assert not tab.failures()
    tab.close()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_voila_shows_the_same_pages(lab, path):
    tab = lab(path.name, voila=True)
    slide(tab, tab.controls("sliders")[0], tab.state())
    assert not tab.failures() and not tab.page.get_by_text("import Page").count()
    tab.close()


def test_the_last_of_many_moves_is_shown(lab):
    tab = lab("60_corruptions.ipynb")
    slider = tab.controls("sliders")[0]
    first = tab.state()
    slider.focus()
    for _ in range(10): tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowLeft")
    tab.page.get_by_text("57 of 60 (95.0%), asked 95%").wait_for()
    assert tab.settle() != first
    for _ in range(9): tab.page.keyboard.press("ArrowLeft")
    tab.page.get_by_text("30 of 60 (50.0%), asked 50%").wait_for()
    assert tab.settle() == first
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("() => document.activeElement !== document.body")
    tab.close()


def test_an_error_is_written_into_the_page_and_leaves_with_its_cause(lab):
    tab = lab("broken.ipynb")
    slider, first = tab.controls("sliders")[0], tab.state()
    wrong = tab.press(slider, "ArrowRight")
    assert wrong["pictures"] == first["pictures"] and "ValueError: one is not allowed" in wrong["readouts"][0]
    assert tab.page.get_by_role("alert").count() == 1
    assert tab.press(slider, "ArrowRight")["readouts"] == ["number: 2"] and not tab.failures()
    tab.close()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends the server, elsewhere its parent has to")
def test_the_server_and_its_kernels_die_with_their_parent(tmp_path):
    code = """import sys, time, urllib.request
from browsing import server
with server(sys.argv[1]) as (address, token):
    urllib.request.urlopen(urllib.request.Request(f"{address}/api/kernels?token={token}", data=b"{}", method="POST")).read()
    print("up", flush=True)
    time.sleep(100)"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lab")], cwd=Path(__file__).parent, stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"up\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2  # a server and a kernel
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE] and time.monotonic() < end: time.sleep(.2)
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
