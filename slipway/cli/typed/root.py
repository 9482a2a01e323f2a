"""The command that all others hang on."""

from typing import Annotated

from cyclopts import App, Parameter

from slipway import __version__

app = App(
    name="slipway",
    help="Takes a fine-tuned language model from data to production, and lets nothing unproven through.",
    version=__version__,
)
app.register_install_completion_command()

Json = Annotated[bool, Parameter(name="--json", help="Answer as JSON on standard output.", negative="")]
