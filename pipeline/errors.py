"""The one error that users see, and the one place that turns it into an exit code."""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable


class PipelineError(Exception):
    """A fault that the user can mend.

    The message is one clear sentence that names the thing and the remedy. It is printed as it stands, without a
    traceback; any other exception is a bug of ours and keeps its traceback.
    """


def exit_cleanly(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command's ``main``: a `PipelineError` becomes ``error: ...`` on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapper(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except PipelineError as error:
            sys.exit(_fail(str(error), 2))
        except KeyboardInterrupt:
            sys.exit(_fail("interrupted; run the same command again to continue", 130))

    return wrapper


def warn(message: str) -> None:
    """One line on stderr about what goes on all the same."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def suggest(name: str, choices: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest match if there is one, and all the choices.

    >>> suggest("hinqe", ["bce", "hinge"])
    "did you mean 'hinge'? Choices: bce, hinge"
    """
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Choices: {', '.join(choices)}"


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code
