"""`python -m tasks STAGE …`: what dvc.yaml runs."""

import sys

try:
    from tasks._stage import main
except ModuleNotFoundError as error:
    sys.exit(
        f"{sys.executable} lacks {error.name}, which Slipway needs; "
        f"use the project's own Python: `. .venv/bin/activate` (or `make install` first)"
    )

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
