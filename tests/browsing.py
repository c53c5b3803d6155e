"A JupyterLab (with Voila in it) and a Chromium that opens its pages: what the browser tests and the latency benchmark share."
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "nbs/explore").glob("*.ipynb"))
KNOWN_ERRORS = {  # on the browser's console while a page loads, and not ours
    "lab": ["net::ERR_FAILED"],                        # what we block: JupyterLab asks its home for news and extensions
    "voila": ["net::ERR_FAILED",                       # what we block: Voila takes icons from a CDN
              "Access to font at 'about:blank'",   # a font without an address, now and then, on a page with formulas; our pages name no fonts
              "#RUNTIME-012\nargs: {\"shareKey\":\"@jupyterlab/docmanager\"}"],   # Voila loads jupytext's extension for JupyterLab without the document manager that it needs
}
WRONG = ", ".join([".mvnb-error", "[data-mime-type='application/vnd.jupyter.stderr']", "[data-mime-type='application/vnd.jupyter.error']", ".jupyter-widgets-error-widget", ".voila-notebook-error"])
CHROMIUM = next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(p).exists()), None)


def _die_with_parent():
    "Ask Linux to kill this process when its parent ends, however it ends; kernels end when they miss their server."
    if sys.platform == "linux": ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextmanager
def server(folder, cache=None):
    "JupyterLab on 127.0.0.1 with a random token, everything it writes below `folder`, what its kernels compute in `cache` if given; yields its address and token."
    folder = Path(folder)
    places = {name: str(folder / name.lower()) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
                                                           "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME")}
    if cache is not None: places |= {"MPLCONFIGDIR": str(Path(cache, "matplotlib")), "XDG_CACHE_HOME": str(cache)}
    for place in places.values(): Path(place).mkdir(parents=True, exist_ok=True)
    quiet = Path(places["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab/apputils-extension/notification.jupyterlab-settings")
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    shutil.copytree(ROOT / "nbs/explore", folder / "pages", ignore=shutil.ignore_patterns(".*"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(24)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "MVNB_DATA"))} | places | {
        "JUPYTER_TOKEN": token, "MVNB_OFFLINE": "1", "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    options = {"ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0, "ServerApp.open_browser": False, "ServerApp.root_dir": folder / "pages",
               "ServerApp.allow_root": True, "LabApp.expose_app_in_browser": True, "VoilaConfiguration.show_tracebacks": True}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "jupyter", "lab", *(f"--{k}={v}" for k, v in options.items())], cwd=folder, env=env,
                                   stdout=log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_parent)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api?token={token}", process, folder / "server.log")
        yield address, token
    finally:
        _end(process)


def _pictures(name):
    "How many pictures a notebook of ours shows, one in any other."
    path = ROOT / "nbs/explore" / name
    if not path.exists(): return 1
    return sum("".join(cell["source"]).startswith("Page(") for cell in json.loads(path.read_text())["cells"])


def _wait_for(url, process, log, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None: break
        try: return urllib.request.urlopen(url, timeout=5).read()
        except OSError: time.sleep(.2)
    raise RuntimeError(f"the server did not answer; its log ends with:\n{log.read_text(errors='replace')[-3000:]}")


def _end(process):
    "End the server and its kernels: it shuts them down when asked twice, and what is left of its group is killed."
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try: os.killpg(process.pid, sign)
        except ProcessLookupError: return
        try: process.wait(10)
        except subprocess.TimeoutExpired: pass


@contextmanager
def browser(address):
    "Headless Chromium, one context for all pages (they share its cache); nothing but `address` can be reached from it."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        context = chromium.new_context(viewport={"width": 1440, "height": 1100})
        context.route(lambda url: not url.startswith((address, "data:", "blob:")), lambda route: route.abort())
        try: yield context
        finally: chromium.close()


class Tab:
    "One page of ours, in JupyterLab or in Voila."
    def __init__(self, context, address, token, name, voila=False):
        self.page, self.errors, self.pictures = context.new_page(), [], _pictures(name)
        self.page.set_default_timeout(90_000)
        self.kernels = lambda kernel="", method="GET": urllib.request.urlopen(urllib.request.Request(f"{address}/api/kernels{kernel}?token={token}", method=method)).read()
        known = KNOWN_ERRORS["voila" if voila else "lab"]
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" and not any(sign in m.text for sign in known) else None)
        if voila: self.page.goto(f"{address}/voila/render/{name}?token={token}", wait_until="commit")
        else: self._run_all(f"{address}/lab/tree/{name}?token={token}&reset")
        start = time.monotonic()
        self._wait_for_readouts(1)
        self.first_seconds = time.monotonic() - start   # in JupyterLab: from running the cells to the first picture
        self._wait_for_readouts(self.pictures)
        self.settle(300)
        self.whole_seconds = time.monotonic() - start   # until nothing is computed any more

    def _run_all(self, url):
        "Open a notebook in JupyterLab, wait until the kernel is connected (the toolbar says idle before), run all cells."
        self.page.goto(url, wait_until="commit")
        self.page.wait_for_function("""() => { const session = window.jupyterapp?.shell?.currentWidget?.context?.sessionContext?.session;
            return session?.kernel?.connectionStatus === 'connected' && session.kernel.status === 'idle'; }""")
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")

    def _wait_for_readouts(self, n):
        "Wait until `n` pages have drawn what their controls say, or something went wrong."
        self.page.wait_for_function("([n, wrong]) => document.querySelectorAll('.mvnb-page .mvnb-readout').length >= n || document.querySelector(wrong)", arg=[n, WRONG], timeout=300_000)

    def close(self):
        "End the page and its kernel, the only one there is; when a browser leaves Voila, Voila asks for that too, but without the token."
        self.page.close()
        for kernel in json.loads(self.kernels()): self.kernels(f"/{kernel['id']}", "DELETE")

    def settle(self, seconds=60, quiet=.1):
        "Wait until nothing is computed any more, every picture's name says what its read-out says, and neither has changed for a while; returns the state."
        end, before, since = time.monotonic() + seconds, None, time.monotonic()
        while time.monotonic() < end:
            now = self._glance()
            if now != before or not now["rest"]: before, since = now, time.monotonic()
            elif time.monotonic() - since > quiet: return self.state()
            time.sleep(.03)
        raise TimeoutError(f"the page does not come to rest: {now}")

    def _glance(self):
        "What can change, at little cost: every new picture has a new address."
        return self.page.evaluate("""() => {
            const pages = Array.from(document.querySelectorAll('.mvnb-page')).map(page => {
                const [image, readout, error, progress] = ['img.widget-image', '.mvnb-readout', '.mvnb-error', '.mvnb-progress'].map(s => page.querySelector(s));
                const lines = Array.from(readout?.children ?? []).map(line => line.textContent).join('; ');
                return {picture: image?.src, text: (readout ?? error)?.textContent, progress: progress?.textContent, rest: !progress && !!(error || (readout && image?.title.endsWith('Now: ' + lines)))}; });
            return {pages, rest: pages.every(page => page.rest)}; }""")

    def state(self):
        "The bytes of every picture, and the text of every read-out."
        return self.page.evaluate("""async () => {
            const hash = async src => { const b = await (await fetch(src)).arrayBuffer();
                return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', b))).map(x => x.toString(16).padStart(2, '0')).join(''); };
            return {pictures: await Promise.all(Array.from(document.querySelectorAll('img.widget-image')).map(i => hash(i.src))),
                    readouts: Array.from(document.querySelectorAll('.mvnb-readout, .mvnb-error')).map(e => e.innerText)}; }""")

    def press(self, control, key, seconds=30):
        "Focus a control, press a key as a hand would, wait until something has changed and all is at rest again."
        before, end = self._glance(), time.monotonic() + seconds
        control.focus()
        self.page.keyboard.press(key)
        while self._glance() == before and time.monotonic() < end: time.sleep(.03)
        return self.settle()

    def controls(self, kind):
        "All sliders, check boxes or groups of buttons of the page."
        return self.page.locator({"sliders": ".noUi-handle[role=slider]", "checks": ".widget-checkbox input[type=checkbox]", "groups": ".widget-toggle-buttons"}[kind]).all()

    def failures(self):
        "Everything on the page that says that something went wrong."
        return self.errors + self.page.locator(WRONG).all_inner_texts()

    def boxes(self):
        "Where pictures and read-outs are below the page's title (a key may scroll), once fonts and the page around them are at rest."
        def read():
            top = self.page.locator("h1").first.bounding_box()["y"]
            found = [e.bounding_box() for e in self.page.locator("img.widget-image, .widget-html:visible").all()]
            return [{k: round(v - top if k == "y" else v, 2) for k, v in box.items()} for box in found]
        places, end = None, time.monotonic() + 20
        while (now := read()) != places and time.monotonic() < end:
            places = now
            time.sleep(.5)
        return now
