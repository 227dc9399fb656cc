"""The status page in a headless Chromium, over the DevTools protocol: browser.py CHROMIUM URL PID-OF-CLUSTERINIT FOLDER

It kills a worker of that clusterinit and at last stops it. Every failed check is a line on stderr, and the exit status is 1.
Pictures for people go to FOLDER.
"""
import base64
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

DEADLINE = 90
PAINT_MS = 100


class Socket:
    """A WebSocket client (RFC 6455) that speaks text, on one loopback connection."""

    def __init__(self, url):
        host, path = url.removeprefix("ws://").split("/", 1)
        name, port = host.split(":")
        self.socket = socket.create_connection((name, int(port)), timeout=DEADLINE)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(65536)
        self.buffer = self.buffer.split(b"\r\n\r\n", 1)[1]

    def take(self, count):
        while len(self.buffer) < count:
            more = self.socket.recv(1 << 20)
            if not more:
                raise EOFError("the browser has gone")
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def send(self, text):
        data = text.encode()
        size = len(data)
        head = bytes([0x81, 0x80 | size]) if size < 126 else struct.pack("!BBH", 0x81, 0xFE, size)
        # Frames of a client are masked; with zeros they stay as they are.
        self.socket.sendall(head + bytes(4) + data)

    def receive(self):
        text = b""
        while True:
            first, second = self.take(2)
            size = second & 0x7F
            if size == 126:
                size = struct.unpack("!H", self.take(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", self.take(8))[0]
            text += self.take(size)
            if first & 0x80:
                return json.loads(text)


class Browser:
    def __init__(self, program):
        self.profile = tempfile.mkdtemp()
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
             "--remote-debugging-port=0", f"--user-data-dir={self.profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            self.connect()
        except BaseException:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    def connect(self):
        found = os.path.join(self.profile, "DevToolsActivePort")
        until("the browser runs", lambda: os.path.exists(found) and open(found).read().count("\n") >= 1)
        port = open(found).read().split("\n")[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        self.socket = Socket(next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"])
        self.number = 0
        self.requests, self.complaints = [], []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(domain + ".enable")

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = self.socket.receive()
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.note(message)

    def note(self, message):
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            # Of a plain text a browser asks for an icon by itself, and there is none.
            if not parameters["entry"].get("url", "").endswith("/favicon.ico"):
                self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" or method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters)[:400])

    def ask(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, url):
        self.call("Page.navigate", url=url)
        until("the page is loaded", lambda: self.ask("location.href") == url and self.ask("document.readyState") == "complete")

    def size(self, width, height, phone=False):
        self.viewport = (width, height, phone)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone)

    def colours(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def scripts(self, on):
        self.call("Emulation.setScriptExecutionDisabled", value=not on)

    def shoot(self, path):
        # The viewport as large as the page: what is beyond it may not be painted yet.
        width, height = self.ask("[innerWidth, document.documentElement.scrollHeight]")
        before = self.viewport
        self.size(width, height, before[2])
        picture = self.call("Page.captureScreenshot", format="png")
        self.size(*before)
        with open(path, "wb") as file:
            file.write(base64.b64decode(picture["data"]))

    def end(self):
        try:
            self.call("Browser.close")
            self.process.wait(10)
        except (OSError, EOFError, RuntimeError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def until(what, condition):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"not within {DEADLINE} s: {what}")


failures = []


def check(holds, what):
    print("ok" if holds else "FAILED", what, flush=True)
    if not holds:
        failures.append(what)


def contrast(browser):
    """The lowest contrast of visible text against what is behind it (WCAG 2.2, 1.4.3: at least 4.5), and the text."""
    return browser.ask("""(() => {
      const rgb = text => text.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const behind = at => { for (; at; at = at.parentElement) { const c = rgb(getComputedStyle(at).backgroundColor);
        if (c.length < 4 || c[3] > 0) return c } return [255, 255, 255] };
      let worst = [99, ""];
      for (const at of document.querySelectorAll("body *")) {
        if (![...at.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !at.getClientRects().length) continue;
        const [a, b] = [light(rgb(getComputedStyle(at).color)), light(behind(at))].sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        if (ratio < worst[0]) worst = [ratio, at.textContent.trim()];
      }
      return worst })()""")


def main(program, url, init, folder):
    os.makedirs(folder, exist_ok=True)
    shot = lambda name: os.path.join(folder, name + ".png")
    browser = Browser(program)
    try:
        browser.size(1280, 1000)
        browser.colours("light")
        look(browser, url, init, shot)
    finally:
        browser.end()
    sys.stdout.flush()
    for what in failures:
        print("FAILED:", what, file=sys.stderr)
    return 1 if failures else 0


def look(browser, url, init, shot):
    # A first visit warms the browser up: its start is not ours to measure.
    browser.open(url)
    paints, plain = [], []
    # The best of some. On a machine that is too busy to paint an "ok" soon it may take three times as long as that.
    while len(paints) < 12 and not any(paint <= PAINT_MS for paint in paints[2:]):
        plain.append(painted(browser, url + "healthz"))
        paints.append(painted(browser, url))
    most = max(PAINT_MS, 3 * min(plain))
    check(min(paints) <= most, f"first paint within {most} ms: {paints}, of a plain text: {plain}")
    rows = "[...document.querySelectorAll('#rows tr')].map(row => row.innerText)"
    check(len(browser.ask(rows)) == 3, "three rows")

    # Nothing moves when the script takes over, nor later.
    browser.call("Page.addScriptToEvaluateOnNewDocument", source="""
      window.jumps = []; new PerformanceObserver(list => { for (const e of list.getEntries()) if (!e.hadRecentInput) jumps.push(e.value) })
        .observe({type: 'layout-shift', buffered: true})""")
    browser.open(url)
    busy = "[...document.querySelectorAll('#rows [data-f=cpu]')].every(cell => cell.textContent.endsWith(' %'))"
    until("it is live: a share of a CPU needs two answers", lambda: browser.ask(busy))
    until("charts are drawn", lambda: browser.ask("document.querySelector('#rows .spark[data-c=mem] path').getAttribute('d')?.includes('L')"))
    check(browser.ask("jumps.reduce((a, b) => a + b, 0)") < 0.02, f"nothing jumps: {browser.ask('jumps')}")

    # A worker is killed, and the page tells without being loaded again.
    browser.ask("window.mark = 1")
    pid = int(browser.ask("document.querySelector('#rows [data-f=pid]').textContent").split()[1])
    os.kill(pid, signal.SIGKILL)
    state = "document.querySelector('#rows tr').innerText"
    until("its row tells of the restart", lambda: f"pid {pid}" not in browser.ask(state) and "SIGKILL, crash" in browser.ask(state))
    until("an event tells of its end", lambda: f"pid {pid}, SIGKILL, crash" in browser.ask("document.getElementById('log').textContent"))
    until("all are ready again", lambda: browser.ask("document.querySelector('h1').innerText") == "All 3 workers are ready")
    check(browser.ask("window.mark") == 1, "and it was not loaded again")
    check(browser.ask("document.title") == "3/3 ready, clusterinit", "the title counts")
    check(browser.ask("document.documentElement.scrollWidth") <= 1280, "no scrolling sideways")
    check(contrast(browser)[0] >= 4.5, f"contrast, light: {contrast(browser)}")
    browser.shoot(shot("light"))

    browser.colours("dark")
    check(contrast(browser)[0] >= 4.5, f"contrast, dark: {contrast(browser)}")
    browser.shoot(shot("dark"))

    browser.size(390, 844, phone=True)
    check(browser.ask("document.documentElement.scrollWidth") <= 390, f"fits a phone: {browser.ask('document.documentElement.scrollWidth')}")
    browser.shoot(shot("phone-dark"))
    browser.colours("light")
    browser.shoot(shot("phone"))
    browser.size(1280, 1000)

    hidden(browser)

    # Nothing but its own, and no complaints.
    elsewhere = [asked for asked in browser.requests if not asked.startswith((url, "data:", "about:"))]
    check(not elsewhere, f"no request to elsewhere: {elsewhere}")
    check(not browser.complaints, f"nothing in the console: {browser.complaints}")

    browser.scripts(False)
    browser.open(url)
    check(len(browser.ask(rows)) == 3, "three rows without scripts")
    browser.shoot(shot("plain"))
    browser.scripts(True)

    browser.open(url)
    until("it is live again", lambda: browser.ask("document.body.className") == "up" and browser.ask(busy))
    os.kill(init, signal.SIGTERM)
    until("it says that nobody answers", lambda: "No answer" in browser.ask("document.getElementById('alert').textContent"))
    check(browser.ask("document.body.className") == "down" and browser.ask("document.querySelector('h1').innerText") == "No answer", "and shows it")
    browser.shoot(shot("gone"))


def painted(browser, url):
    """Milliseconds from navigation to the first contentful paint."""
    browser.open("about:blank")
    browser.open(url)
    return until("the first paint", lambda: browser.ask("performance.getEntriesByName('first-contentful-paint')[0]?.startTime"))


def hidden(browser):
    """Nothing is asked while nobody looks."""
    set_to = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    browser.ask(set_to % "true")
    asked = len(browser.requests)
    # Twice as long as it would be until the next one: that nothing happens cannot be waited for.
    end = time.monotonic() + 3
    while time.monotonic() < end:
        browser.ask("1")
        time.sleep(0.1)
    check(len(browser.requests) == asked, "a hidden page asks for nothing")
    browser.ask(set_to % "false")
    until("it asks again when it is seen", lambda: browser.ask("1") and len(browser.requests) > asked)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
