"""The command ``sspruning``, also as ``python -m sspruning``."""

from sspruning.stopping import leave_at_once

__all__ = ["main"]


def main() -> None:
    """Entry point of the command."""
    leave_at_once()  # loading what follows takes a moment
    from sspruning.cli import main as work

    work()


if __name__ == "__main__":
    main()
