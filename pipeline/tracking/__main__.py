"""Send logged entries that no MLflow server has received yet: `python -m pipeline.tracking sync`."""

import argparse

from pipeline.core.errors import exit_cleanly
from pipeline.tracking import sync


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.tracking") -> None:
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split(":")[0])
    parser.add_subparsers(dest="command").add_parser("sync", help="send the unsent entries of all runs under .work/")
    if parser.parse_args(arguments).command == "sync":
        sync()
    else:
        parser.print_help()


if __name__ == "__main__":
    main()
