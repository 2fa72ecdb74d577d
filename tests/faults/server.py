"""A broken MLflow server: a proxy before a sound one. Training goes on, and all points arrive later, each one once."""

import contextlib
import csv
import http.client
import http.server
import random
import signal
import socketserver
import sqlite3
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

from pipeline.spool import first
from tests.faults.bits import DAMAGES, spoil
from tests.faults.processes import PATIENCE
from tests.faults.stages import finish
from tests.faults.table import Trial
from tests.faults.world import TRAIN, World

MOODS = ("refuses", "500", "slow", "closes", "forgets to answer", "HTML", "dies", "any of these")
SPEED = "images_per_second"
LATE = 60.0  # seconds that a broken server may cost the end of a training, see CLOSE_WAIT


class Proxy(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Passes requests on to the server at `port`, or does by its mood what a broken server does."""

    daemon_threads = True

    def __init__(self, port: int, chance: random.Random) -> None:
        self.mood, self.sound, self.chance, self.requests = "", port, chance, 0
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Nothing: the client hung up."""

    def mood_now(self) -> str:
        self.requests += 1
        if self.mood == "any of these":
            return self.chance.choice(["", *MOODS[:-2]])
        if self.mood.startswith("dies"):
            return "" if self.requests <= int(self.mood.split()[-1]) else "closes"
        return self.mood


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def answer(self) -> None:
        mood = self.server.mood_now()
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if mood == "slow":
            time.sleep(5)
        if mood in ("closes", "refuses"):
            self.close_connection = True
        elif mood == "500":
            self._reply(500, b'{"error_code": "INTERNAL_ERROR", "message": "no space left on device"}')
        elif mood == "HTML":
            self._reply(200, b"<html><body>Please log in</body></html>")
        else:
            status, body = self._pass_on(content)
            if mood != "forgets to answer":
                self._reply(status, body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def _pass_on(self, content: bytes) -> tuple[int, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.sound, timeout=60)) as connection:
            headers = {name: self.headers[name] for name in ("Content-Type",) if name in self.headers}
            connection.request(self.command, self.path, content, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json" if body[:1] == b"{" else "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def offend(world: World, chance: random.Random) -> Trial:
    """Train beside a broken server, perhaps killed half-way, or with a damaged spool; then send what is left."""
    mood = chance.choice(MOODS)
    trial = Trial(f"server {mood}", TRAIN.name, tried=1)
    proxy = Proxy(_store(world), chance)
    try:
        proxy.mood = f"dies after {chance.randint(1, 25)}" if mood == "dies" else mood
        uri = "http://127.0.0.1:9" if mood == "refuses" else proxy.uri
        world.set(runtime__tracking=True)
        world.restore(TRAIN)
        if chance.random() < 0.4:
            job = world.start(TRAIN, extra={"MLFLOW_TRACKING_URI": uri})
            job.wait(chance.uniform(0, world.seconds[TRAIN.name]))
            job.signal(signal.SIGKILL)
            job.wait()
            trial.about += f", killed after {job.seconds:.2f} s"
        job = world.start(TRAIN, extra={"MLFLOW_TRACKING_URI": uri})
        if job.wait(world.seconds[TRAIN.name] * 3 + LATE) != 0:
            job.signal(signal.SIGKILL)
            trial.problems.append(f"training did not go on: {job.wait()}: {job.errors[-300:]}")
        told = [line for line in job.errors.splitlines() if "MLflow" in line]
        if len(told) > 1 or "Traceback" in job.errors:
            trial.problems.append(f"more than one warning: {told}")
        trial.differ(world.differences(TRAIN), "at the end")
        proxy.mood = ""
        for _ in range(2):  # the second finds nothing to send
            _sync(world, trial, proxy.uri if chance.random() < 0.5 else f"http://127.0.0.1:{proxy.sound}")
        _check_points(world, trial)
    finally:
        world.set(runtime__tracking=False)
        proxy.shutdown()
        proxy.server_close()
    return trial


def damage_spool(world: World, chance: random.Random) -> Trial:
    """Damage what was to be sent, or the note of what is sent, and go on with the training: it ends all the same.

    Points that are lost from a spool are lost to MLflow, and may come twice where training makes them anew; a note that
    is lost costs nothing. (history.csv has all points.)
    """
    kind = chance.choice(list(DAMAGES))
    trial = Trial(f"{kind}, of a spool", tried=1)
    proxy = Proxy(_store(world), chance)
    try:
        world.set(runtime__tracking=True)
        world.restore(TRAIN)
        job = world.start(TRAIN, extra={"MLFLOW_TRACKING_URI": proxy.uri})
        while not list((world.repo / ".work").glob("*/step-*.safetensors")) and job.wait(0) is None:
            time.sleep(0.01)
        job.signal(signal.SIGTERM)
        job.wait()
        found = [path for name in ("spool.jsonl", "mlflow.json") for path in (world.repo / ".work").glob(f"*/{name}")]
        assert len(found) == 2, f"nothing was sent: {job.errors}"
        chosen = chance.choice(found)
        spoil(chosen, kind, chance)
        trial.about = chosen.name
        finish(world, TRAIN, trial)
        if chosen.is_dir():
            chosen.rmdir()
        elif chosen.name == "mlflow.json":
            _sync(world, trial, proxy.uri)
            _check_points(world, trial)
    finally:
        world.set(runtime__tracking=False)
        proxy.shutdown()
        proxy.server_close()
    return trial


def _sync(world: World, trial: Trial, uri: str) -> None:
    job = world.nursery.start(world.repo, "pipeline.tracking", "sync", extra={"MLFLOW_TRACKING_URI": uri})
    if job.wait() != 0:
        trial.problems.append(f"sync ended with {job.code}: {job.output[-200:]} {job.errors[-300:]}")


def _check_points(world: World, trial: Trial) -> None:
    """See that the store has one run, with each point of the curves in it once, and each picture."""
    wanted, found = Counter[tuple[str, int, float]](), Counter[tuple[str, int, float]]()
    with open(world.repo / TRAIN.output / "history.csv", newline="") as file:
        names = {"images": "images", "loss/d": "loss/d", "loss/g": "loss/g", "diversity": "curve/diversity",
                 "distance": "curve/fd_efficientnet_lite0"}  # fmt: skip
        for row in csv.DictReader(file):
            wanted.update((key, int(row["step"]), float(row[name])) for name, key in names.items() if row[name])
            wanted.update([(SPEED, int(row["step"]), 0.0)] if row["loss/d"] else [])  # measured: any value
    folder = _folder(world)
    heads = [first(path.parent) for path in (world.repo / ".work").glob("*/spool.jsonl")]
    marks = [head["value"]["id"] for head in heads if head]
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store:
        tags = store.execute("select run_uuid, value from tags where key = 'pipeline.spool'")
        runs = [run for run, mark in tags if mark in marks]
        for run in runs:
            points = store.execute("select key, step, value from metrics where run_uuid = ?", [run])
            found.update((key, step, 0.0 if key == SPEED else value) for key, step, value in points)
    lost, doubled = wanted - found, found - wanted
    if len(runs) != 1 or lost or doubled:
        trial.problems.append(f"{len(runs)} runs, points lost {dict(lost)}, doubled or unknown {dict(doubled)}")
    pictures = [path.name.split("+")[2] for run in runs for path in folder.rglob(f"{run}/artifacts/images/*.png")]
    steps = sorted(str(int(path.stem)) for path in (world.repo / TRAIN.output / "grids").iterdir())
    if sorted(pictures) != steps:
        trial.problems.append(f"pictures of steps {sorted(pictures)}, not of {steps}")


def _folder(world: World) -> Path:
    return world.folder / "store"


def _store(world: World) -> int:
    """The port of a sound server, whose store is kept in `_folder`; one is started if none runs."""
    folder = _folder(world)
    if not folder.exists():
        folder.mkdir()
        job = world.nursery.start(world.folder, "tests.faults.store", str(folder))
        deadline = time.monotonic() + PATIENCE
        while not (folder / "port").exists():
            assert job.wait(0.05) is None and time.monotonic() < deadline, f"no MLflow server: {job.errors}"
        world.servers.append(job)
        url = f"http://127.0.0.1:{(folder / 'port').read_text()}/api/2.0/mlflow/experiments/search?max_results=1"
        urllib.request.urlopen(url, timeout=PATIENCE).close()  # makes the tables
    return int((folder / "port").read_text())
