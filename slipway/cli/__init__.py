"""The `slipway` command. The outermost layer: it may call flows and tasks, and nothing below it knows it.

`typed` has the commands as people type them; each one's work is in the module of this folder that it names.
"""

import sys
from pathlib import Path

from slipway.cli.typed import app
from slipway.errors import SlipwayError

__all__ = ["app", "main"]


def main(argv: list[str] | None = None) -> None:
    """Run a command; a mistake is one line and an exit code, never a traceback."""
    from cyclopts import CycloptsError

    try:
        code = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        from slipway.cli import mistakes

        code = _say(mistakes.of(error))
    except SlipwayError as error:
        code = _say(error)
    except KeyboardInterrupt:
        print("slipway: interrupted; run it again to go on", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `slipway status | head`
        code = 0
    except OSError as error:
        from slipway.errors import of_storage

        known = of_storage(error, Path.cwd(), 0)
        if known is None:
            raise
        code = _say(known)
    sys.exit(code or 0)


def _say(error: SlipwayError) -> int:
    print(f"slipway: {error}", file=sys.stderr)
    return error.exit_code
