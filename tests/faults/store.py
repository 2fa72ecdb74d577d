"""MLflow's own server, whole and on one thread, which the suite's proxy makes misbehave.

python -m tests.faults.store FOLDER      serves FOLDER/mlflow.db, and writes its port to FOLDER/port
"""

import os
import sys
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    folder = Path(sys.argv[1])
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    from mlflow.server import app

    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        (folder / "port.tmp").write_text(str(server.server_port))
        (folder / "port.tmp").rename(folder / "port")
        server.serve_forever()


if __name__ == "__main__":
    main()
