"""What was typed wrongly is one line that says what is missing or too much, and where to look."""

import pytest

from slipway import cli


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("at", "TIME is missing; `slipway at --help` says what it is"),
        ("models stage 1.0.0", "STAGE is missing; `slipway models stage --help` says what it is"),
        ("models promote 1.0.0", "--reason is missing; `slipway models promote --help` says what it is"),
        ("models promote 1.0.0 --reason", "--reason requires an argument"),
        ("at now extra", "'extra' is more than this command takes; `slipway at --help` lists what it takes"),
        ("run --nosuch", "Unknown option: --nosuch. (`slipway run --help` lists what there is)"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_help(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(typed.split())
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and said in shown and shown.count("\n") == 1
