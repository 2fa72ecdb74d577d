"""Show the newest report in a browser: `make report`, or `python -m pipeline.report`."""

import argparse
import webbrowser

from pipeline.core import paths
from pipeline.core.errors import PipelineError, exit_cleanly


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.report") -> None:
    argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split(":")[0]).parse_args(arguments)
    page = (paths.REPORTS / "report.html").absolute()
    if not page.is_file():
        raise PipelineError(f"{page} does not exist: run `make run`, which makes it")
    print(page)
    if not webbrowser.open(page.as_uri()):
        print("no browser can be started from here: open the file above in one")


if __name__ == "__main__":
    main()
