"""The one error that users see, and the one place that turns it into an exit code."""

import atexit
import contextlib
import difflib
import errno
import functools
import gc
import io
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable


class PipelineError(Exception):
    """A fault that the user can fix.

    The message is one clear sentence that names the thing and the remedy. It is printed without a traceback; any other
    exception is a bug of ours and keeps its traceback.

    Code that rewords the error, or acts on it, reads these parts, never the message; "" = not given.

    field: the parameter at fault, by its dotted name in params.yaml, such as "metrics.weights".
    problem: what is wrong with it, without the field's name and the remedy.
    remedy: what fixes it other than a change of the field, such as "fetch the file from https://...".
    """

    def __init__(self, message: str, *, field: str = "", problem: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.field, self.problem, self.remedy = field, problem, remedy


# SIGHUP: the terminal is closed. SIGUSR1: Slurm sends it before it takes a machine away.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
AGAIN = 0.05  # seconds until a stop signal that was lost in a `__del__` is sent again
HIDDEN = {"Cc", "Cf", "Zl", "Zp"}  # Unicode's categories of control and format characters, and of separators of lines
JOINERS = {"\u200c", "\u200d"}
UNNAMED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # errors of writing to an open file, without its name


class Stopped(KeyboardInterrupt):
    """The signal `number` asked this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_cleanly(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command's ``main``: a `PipelineError` becomes ``error: ...`` on stderr and exit status 2.

    Errors of the operating system and a lack of memory end the same way. After a stop signal it prints a sentence and
    exits with 128 plus the signal's number, also where the signal came during a `__del__`, in which Python drops every
    exception. A signal that arrives after `main` has ended kills the process at once.
    """

    @functools.wraps(main)
    def wrapper(*args: object, **kwargs: object) -> None:
        _complete_streams()
        atexit.register(gc.freeze)  # Python's last collections would look at all of torch for half a second
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set while importing, see pipeline/__init__.py
            signal.signal(signal.SIGINT, signal.default_int_handler)
        told = sys.unraisablehook
        sys.unraisablehook = functools.partial(_stop_later, told)
        try:
            main(*args, **kwargs)
            sys.stdout.flush()  # here, where an error can still be reported
        except PipelineError as error:
            sys.exit(_fail(str(error), 2))
        except FileNotFoundError as error:
            sys.exit(_fail(f"{error.filename} does not exist: run `dvc repro`, which makes what is missing", 2))
        except BrokenPipeError:  # for example `| head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  Python flushes it at exit
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            if error.filename is None and error.errno not in UNNAMED:
                raise
            sys.exit(_fail(_sentence(error), 2))
        except MemoryError:
            sys.exit(_fail("out of memory: free some, or lower batch sizes and sample numbers in params.yaml", 2))
        except KeyboardInterrupt as stop:
            _end_at_once()
            number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
            sys.exit(_fail("interrupted; run the same command again to continue", 128 + number))
        finally:
            _end_at_once()
            sys.unraisablehook = told
            try:
                sys.stderr.flush()
            except OSError:  # Python would turn this into the exit status
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115

    return wrapper


def log_line(line: str) -> None:
    """Print a line on stderr. It is lost, without an error, if stderr is closed, a broken pipe or on a full disk."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print a warning on stderr; the program goes on."""
    log_line(f"warning: {_visible(message)}")


def suggest(name: str, choices: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest match if there is one, and all the choices.

    >>> suggest("hinqe", ["bce", "hinge"])
    "did you mean 'hinge'? Choices: bce, hinge"
    """
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Choices: {', '.join(choices)}"


def printable(text: str, longest: int = 60) -> str:
    r"""Foreign text on one line of a terminal, cut to `longest` letters; control characters are escaped.

    >>> printable("a\n\x1b[2J")
    'a\\n\\x1b[2J'
    """
    text = text if len(text) <= longest else text[: longest - 3] + "..."
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def visible(text: str) -> str:
    r"""Foreign text for pages: what is hidden, or shows the text after it backwards, is escaped, as are line ends.

    The two joiners stay, of which words of Persian and pictures of families are made.

    >>> visible("a\u202eb\u200d\nc")
    'a\\u202eb\u200d\\nc'
    """
    if text.isprintable():
        return text
    hidden = {letter for letter in text if unicodedata.category(letter) in HIDDEN} - JOINERS
    return "".join(repr(letter)[1:-1] if letter in hidden else letter for letter in text)


def _fail(message: str, code: int) -> int:
    log_line(f"error: {_visible(message)}")
    return code


def _sentence(error: OSError) -> str:
    if error.filename is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  its buffer would be refused again
        return f"standard output: {error.strerror}: the output is incomplete"
    remedy = "move it away" if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST) else "fix that"
    return f"{error.filename}: {error.strerror}: {remedy} and run the same command again"


def _complete_streams() -> None:
    """Open standard streams that are closed, as after `2>&-`: otherwise the next file opened would take their place.

    What a terminal's encoding lacks is escaped on stdout, too, as Python does on stderr.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  stays open while this runs
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _stop_later(otherwise: Callable[["sys.UnraisableHookArgs"], object], dropped: "sys.UnraisableHookArgs", /) -> None:
    """What Python calls with an exception that it drops: a stop signal's is raised again, a moment later."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        otherwise(dropped)
        return
    number = dropped.exc_value.number if isinstance(dropped.exc_value, Stopped) else signal.SIGINT
    again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _end_at_once() -> None:
    """From now on a stop signal kills the process silently."""
    for number in STOP_SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.signal(number, signal.SIG_DFL)


def _visible(message: str) -> str:
    r"""A message with control characters escaped: a foreign name in it cannot control the terminal.

    >>> _visible("a\x1b[2J\nb")
    'a\\x1b[2J\nb'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in message)
