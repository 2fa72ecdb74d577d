"""A broken MLflow server: a proxy before a sound one. Training goes on, and all points arrive later, each one once."""

import contextlib
import http.client
import http.server
import random
import signal
import socketserver
import threading
import time

from tests.faults.corruption import DAMAGES, corrupt
from tests.faults.mlflow_checks import check_mlflow_has_all, check_one_warning, store, sync
from tests.faults.random_faults import RandomFaults
from tests.faults.report import Trial
from tests.faults.sandbox import TRAIN, Sandbox
from tests.faults.stages import finish

MOODS = ("refuses", "500", "slow", "closes", "forgets to answer", "HTML", "dies", "any of these")
LATE = 60.0  # seconds that a broken server may cost the end of a training, see CLOSE_WAIT


class Proxy(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Passes requests on to the server at `port`, or does by its mood what a broken server does."""

    daemon_threads = True

    def __init__(self, port: int, draws: random.Random) -> None:
        self.mood, self.sound, self.draws, self.requests = "", port, draws, 0
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
            return self.draws.choice(["", *MOODS[:-2]])
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


def offend(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Train beside a broken server, perhaps killed half-way, or with a damaged outbox; then send what is left."""
    mood = draws.in_turn(MOODS)
    trial = Trial(f"server {mood}", TRAIN.name, tried=1)
    proxy = Proxy(store(sandbox), draws)
    try:
        proxy.mood = f"dies after {draws.randint(1, 25)}" if mood == "dies" else mood
        uri = "http://127.0.0.1:9" if mood == "refuses" else proxy.uri
        sandbox.set(runtime__tracking=True)
        sandbox.restore(TRAIN)
        if draws.random() < 0.4:
            job = sandbox.start(TRAIN, extra={"MLFLOW_TRACKING_URI": uri})
            job.wait(draws.uniform(0, sandbox.seconds[TRAIN.name]))
            job.signal(signal.SIGKILL)
            job.wait()
            trial.about += f", killed after {job.seconds:.2f} s"
        job = sandbox.start(TRAIN, extra={"MLFLOW_TRACKING_URI": uri})
        if job.wait(sandbox.seconds[TRAIN.name] * 3 + LATE) != 0:
            job.signal(signal.SIGKILL)
            trial.problems.append(f"training did not go on: {job.wait()}: {job.errors[-300:]}")
        check_one_warning(trial, job)
        trial.differ(sandbox.differences(TRAIN), "at the end")
        proxy.mood = ""
        for _ in range(2):  # the second finds nothing to send
            sync(sandbox, trial, proxy.uri if draws.random() < 0.5 else f"http://127.0.0.1:{proxy.sound}")
        check_mlflow_has_all(sandbox, trial)
    finally:
        sandbox.set(runtime__tracking=False)
        proxy.shutdown()
        proxy.server_close()
    return trial


def damage_outbox(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Damage what was to be sent, or the note of what is sent, and go on with the training: it ends all the same.

    Points that are lost from an outbox are lost to MLflow, and may come twice where training makes them anew; a lost
    note costs nothing. (history.csv has all points.)
    """
    name, kind = draws.in_turn([(name, kind) for kind in DAMAGES for name in ("mlflow.json", "outbox.jsonl")])
    trial = Trial(f"{kind}, of {name}", TRAIN.name, tried=1)
    proxy = Proxy(store(sandbox), draws)
    try:
        sandbox.set(runtime__tracking=True)
        sandbox.restore(TRAIN)
        job = sandbox.start(TRAIN, extra={"MLFLOW_TRACKING_URI": proxy.uri})
        while not list((sandbox.repo / ".work").glob("*/step-*.safetensors")) and job.wait(0) is None:
            time.sleep(0.01)
        job.signal(signal.SIGTERM)
        job.wait()
        found = list((sandbox.repo / ".work").glob(f"*/{name}"))
        assert len(found) == 1, f"nothing was sent: {job.errors}"
        chosen = found[0]
        corrupt(chosen, kind, draws)
        finish(sandbox, TRAIN, trial)
        if chosen.is_dir():
            chosen.rmdir()
        elif chosen.name == "mlflow.json":
            sync(sandbox, trial, proxy.uri)
            check_mlflow_has_all(sandbox, trial)
    finally:
        sandbox.set(runtime__tracking=False)
        proxy.shutdown()
        proxy.server_close()
    return trial
