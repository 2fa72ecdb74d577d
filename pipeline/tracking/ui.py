"""MLflow's pages in a browser, served on this machine alone: `make ui`, or `python -m pipeline.tracking.ui`."""

import argparse
import os
import socket
import sys
from pathlib import Path

from pipeline.core.errors import PipelineError, exit_cleanly, printable
from pipeline.params import PARAMS_FILE
from pipeline.tracking.addresses import HOST, PORT
from pipeline.tracking.views import ranked_experiments

STORE = "sqlite:///mlflow.db"
MOST_NAMED = 5  # experiments whose addresses are printed


def require_free(port: int) -> None:
    """Make sure that a server can listen on `port` of this machine.

    Raises:
        PipelineError: another program does already, or this user may not.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just closed is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = (error.strerror or "not free").lower()
            raise PipelineError(f"port {port} cannot be used ({reason}): name another, such as {port + 1}") from None


def port_number(text: str) -> int:
    """A port, as an option of a command."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= 65535):
        raise argparse.ArgumentTypeError(f"must be a port, 1 to 65535, got {printable(text)}")
    return int(text)


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.tracking.ui") -> None:
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split(":")[0])
    parser.add_argument("--port", type=port_number, default=PORT, help=f"the port to listen on ({PORT})")
    port = parser.parse_args(arguments).port
    if not PARAMS_FILE.exists():  # MLflow would make an empty store wherever it is started
        raise PipelineError(f"{PARAMS_FILE} is not here: run this in the repository's root, where the runs are kept")
    require_free(port)
    print(f"http://{HOST}:{port}, Ctrl-C ends it", flush=True)
    for name, page in list(ranked_experiments(Path("mlflow.db").absolute()).items())[:MOST_NAMED]:
        print(f"{name}, ranked: http://{HOST}:{port}/{page}", flush=True)
    server = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [*server, "--backend-store-uri", STORE])


if __name__ == "__main__":
    main()
