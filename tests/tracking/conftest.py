"""A project with an empty MLflow store, the folder of an experiment, and servers that answer badly."""

import http.server
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from pipeline.core.checksums import write_sums
from pipeline.gan.checkpoint import export_networks, generator_tensors
from pipeline.gan.step import create_state
from pipeline.tracking import tracker as tracker_module
from pipeline.tracking import warn_once
from pipeline.tracking.mlflow_client import open_client
from pipeline.tracking.outbox import Outbox
from tests.recipes import tiny_budget, tiny_recipe


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A sqlite store without experiments: creating one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch, empty_store):
    """A repository's root with a space in its name and an empty store, no tracking URI, and quick uploaders."""
    root = tmp_path / "a root"
    root.mkdir()
    shutil.copyfile(empty_store, root / "mlflow.db")
    monkeypatch.chdir(root)
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracker_module, "INTERVAL", 0.1)
    monkeypatch.setattr(tracker_module, "RETRY", 0.2)
    patient = dict.fromkeys(tracker_module.CLOSE_WAIT, 60.0)  # a busy machine is slow
    monkeypatch.setattr(tracker_module, "CLOSE_WAIT", patient)
    warn_once.warned.clear()
    return root


@pytest.fixture
def folder(root):
    return root / ".work" / "tiny-0-abc"


@pytest.fixture
def server():
    """A function that starts a local HTTP server which gives the same answer to everything, after `delay` seconds."""
    started = []

    def start(code, delay=0.0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                time.sleep(delay)
                with_body = b"{}"
                self.send_response(code)
                self.send_header("Content-Length", str(len(with_body)))
                self.end_headers()
                self.wfile.write(with_body)

            do_GET = do_POST = do_PUT = do_PATCH = answer

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):  # the client hung up
                pass

        started.append(Quiet(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{started[-1].server_port}"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@pytest.fixture
def study(root):
    """The folder of a parent that no server knows: its outbox has a header, and nothing sends it."""
    folder = root / ".work" / "study"
    Outbox(folder, "digits", "study")
    return folder


@pytest.fixture
def conditional_run(tmp_path, monkeypatch):
    """The folder of an untrained conditional generator of three classes, as the stage train leaves it."""
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe(network="dcgan_conditional")
    state = create_state(recipe, tiny_budget(), (1, 16, 16), 3, 0, torch.device("cpu"))
    info = {"recipe": recipe.model_dump(mode="json"), "image_shape": [1, 16, 16], "n_classes": 3}
    folder = Path("runs/dcgan-0")
    folder.mkdir(parents=True)
    export_networks(folder, state, {n: t.detach() for n, t in generator_tensors(state).items()}, info)
    write_sums(folder)
    return folder
