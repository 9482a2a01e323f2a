"""What a person types: every command with its options and its help, a file a subject, in the order of `slipway --help`.

No work is done here. A command's module is imported when the command runs, so that `slipway --help` answers at once.
"""

from slipway.cli.typed import pipeline, policy, models, people, audit, serving, gateway, canary  # isort: skip
from slipway.cli.typed.root import app

__all__ = ["app", "audit", "canary", "gateway", "models", "people", "pipeline", "policy", "serving"]
