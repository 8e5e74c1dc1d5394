"""Opens the demo's page in headless Chromium and tells, as JSON, what it shows once everything on it is alive.

browser.py URL PROFILE SCREENSHOT
"""

import asyncio
import base64
import json
import pathlib
import subprocess
import sys

import websockets

URL, PROFILE, SCREENSHOT = sys.argv[1:4]
CHROMIUM = [
    "setpriv", "--pdeathsig", "KILL", "--",
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--ignore-certificate-errors", "--remote-debugging-port=0", "--remote-allow-origins=*",
    f"--user-data-dir={PROFILE}", "about:blank",
]
# Says something on the WebSocket, then waits until all parts of the page have something to show.
LOOK = """
new Promise((resolve, reject) => {
  const text = (id) => document.getElementById(id)?.textContent ?? "";
  const began = Date.now();
  let said = false;
  const look = () => {
    if (!said && text("echo-log").includes("connected to")) {
      said = true;
      document.getElementById("words").value = "ping from the browser";
      document.getElementById("say").requestSubmit();
    }
    const seen = {
      who: text("who"), here: text("here"), hop: text("hop"), title: document.title, line: text("line"),
      fields: text("fields"), tally: text("tally"), shares: text("shares"), echo: text("echo-log"),
      events: Number(text("events-count")),
    };
    const echoed = /ping from the browser[0-9.]+ ms/.test(seen.echo);
    // What has been asked may not have been answered yet.
    const counts = [...seen.shares.matchAll(/· (\\d+)/g)].map((count) => Number(count[1]));
    const answered = counts.reduce((sum, count) => sum + count, 0);
    if (echoed && seen.events >= 2 && answered === 24) resolve(JSON.stringify(seen));
    else if (Date.now() - began > 30000) reject(new Error("not alive: " + JSON.stringify(seen)));
    else setTimeout(look, 50);
  };
  look();
})
"""


async def main():
    browser = subprocess.Popen(CHROMIUM, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await asyncio.wait_for(drive(browser), 70)
    finally:
        browser.kill()
        browser.wait()


async def drive(browser):
    port_file = pathlib.Path(PROFILE, "DevToolsActivePort")
    while not (port_file.exists() and len(port_file.read_text().split("\n")) >= 2):
        if browser.poll() is not None:
            raise SystemExit(f"chromium ended with {browser.returncode}")
        await asyncio.sleep(0.05)
    port, path = port_file.read_text().split("\n")[:2]
    address = f"ws://127.0.0.1:{port}{path}"
    async with websockets.connect(address, max_size=None, ping_interval=None) as socket:
        number = 0

        async def call(method, session=None, **params):
            nonlocal number
            number += 1
            message = {"id": number, "method": method, "params": params}
            if session:
                message["sessionId"] = session
            await socket.send(json.dumps(message))
            while True:
                answer = json.loads(await socket.recv())
                if answer.get("id") == number:
                    if "error" in answer:
                        raise SystemExit(f"{method}: {answer['error']}")
                    return answer["result"]

        target = await call("Target.createTarget", url="about:blank")
        session = (await call("Target.attachToTarget", targetId=target["targetId"], flatten=True))["sessionId"]
        went = await call("Page.navigate", session, url=URL)
        if went.get("errorText"):
            raise SystemExit(f"{URL}: {went['errorText']}")
        # A document that is still the blank one has no such part; its context ends when the page comes.
        while True:
            try:
                ready = await call("Runtime.evaluate", session, expression="!!document.getElementById('who')")
            except SystemExit:
                continue
            if ready["result"].get("value"):
                break
            await asyncio.sleep(0.05)
        seen = await call("Runtime.evaluate", session, expression=LOOK, awaitPromise=True)
        if "exceptionDetails" in seen:
            raise SystemExit(seen["exceptionDetails"]["exception"].get("description"))
        shot = await call("Page.captureScreenshot", session, format="png")
        pathlib.Path(SCREENSHOT).write_bytes(base64.b64decode(shot["data"]))
        print(seen["result"]["value"])


asyncio.run(main())
