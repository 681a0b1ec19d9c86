"""What every command does around its work: the exit code, and the line that says why."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from rich.markup import escape

from classmix_core.errors import DataError, InvalidValue
from harness.cli.display import err
from harness.errors import FAILED, INTERRUPTED, REFUSED, ClusterLost, Interrupted, RunFailed, UserError, is_no_room


def run_command(main: Callable[[Sequence[str] | None], int], args: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; what the user caused is one line on stderr, without a traceback.

    Args:
        main: takes the words of the command line (None: those of this process).
    """
    at_once = False
    try:
        code = main(args)
    except (UserError, DataError, InvalidValue) as error:
        where = f"{error.field}: " if isinstance(error, InvalidValue) else ""
        err.print(f"[bold red]error:[/] {escape(' '.join(f'{where}{error}'.split()))}")
        code = REFUSED
    except RunFailed as error:
        err.print(f"[bold red]failed:[/] {escape(str(error))}")
        code, at_once = FAILED, isinstance(error, ClusterLost)
    except (KeyboardInterrupt, Interrupted):
        code = INTERRUPTED
    except Exception as error:
        if is_no_room(error):
            err.print(f"[bold red]failed:[/] {escape(str(error))}")
        else:
            traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED or at_once:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        os._exit(code)  # all is saved and closed; Python's own end takes 4 s more after a search, or waits for Ray
    sys.exit(code)
