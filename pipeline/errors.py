"""The one error that users see, and the one place that turns it into an exit code."""

import difflib
import functools
import signal
import sys
from collections.abc import Callable, Iterable


class PipelineError(Exception):
    """A fault that the user can mend.

    The message is one clear sentence that names the thing and the remedy. It is printed as it stands, without a
    traceback; any other exception is a bug of ours and keeps its traceback.
    """


STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # Slurm sends the last one before it takes a machine away


class Stopped(KeyboardInterrupt):
    """The signal `number` asked this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_cleanly(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command's ``main``: a `PipelineError` becomes ``error: ...`` on stderr and exit status 2.

    A signal that asked it to stop becomes a sentence too, and 128 plus the signal's number. One that comes when it is
    over ends the process at once, as signals do.
    """

    @functools.wraps(main)
    def wrapper(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except PipelineError as error:
            sys.exit(_fail(str(error), 2))
        except FileNotFoundError as error:
            sys.exit(_fail(f"{error.filename} does not exist: run `dvc repro`, which makes what is missing", 2))
        except (IsADirectoryError, NotADirectoryError) as error:
            sys.exit(_fail(f"{error.filename}: {error.strerror}: move it away and run `dvc repro` again", 2))
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
            sys.exit(_fail("interrupted; run the same command again to continue", 128 + number))
        finally:
            for number in STOPS:
                if callable(handler := signal.getsignal(number)) and handler is not signal.default_int_handler:
                    signal.signal(number, signal.SIG_DFL)

    return wrapper


def warn(message: str) -> None:
    """One line on stderr about what goes on all the same."""
    print(f"warning: {_visible(message)}", file=sys.stderr, flush=True)


def suggest(name: str, choices: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest match if there is one, and all the choices.

    >>> suggest("hinqe", ["bce", "hinge"])
    "did you mean 'hinge'? Choices: bce, hinge"
    """
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Choices: {', '.join(choices)}"


def _fail(message: str, code: int) -> int:
    print(f"error: {_visible(message)}", file=sys.stderr, flush=True)
    return code


def _visible(message: str) -> str:
    r"""A message, in which a name from outside cannot steer the terminal.

    >>> _visible("a\x1b[2J\nb")
    'a\\x1b[2J\nb'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in message)
