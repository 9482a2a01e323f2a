"""What was typed wrongly, in one line: what, and which `--help` tells more."""

from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError

from slipway.errors import UsageError


def of(error: CycloptsError) -> UsageError:
    """A mistake on the command line as one of ours."""
    command = f"`{' '.join(('slipway', *(error.command_chain or ())))} --help`"
    if isinstance(error, MissingArgumentError) and error.argument is not None and not _given(error):
        return UsageError(f"{_called(error)} is missing; {command} says what it is")
    if isinstance(error, UnusedCliTokensError):
        odd = " ".join(map(str, error.unused_tokens or ()))
        return UsageError(f"{ascii(odd)[:80]} is more than this command takes; {command} lists what it takes")
    return UsageError(f"{' '.join(str(error).split())} ({command} lists what there is)")


def _given(error: MissingArgumentError) -> bool:
    """`--reason` without its text: cyclopts says that better."""
    return error.keyword is not None or bool(error.argument and error.argument.tokens)


def _called(error: MissingArgumentError) -> str:
    """A word by its place (TIME), an option by its name (--reason)."""
    assert error.argument is not None
    about = error.argument.field_info
    return about.name.upper() if about.is_positional else error.argument.name
