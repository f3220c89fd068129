"""What command lines have in common: words for every terminal, and an error in one line."""

import argparse
import codecs
import sys

from resnetbook import data

# For terminals and files whose characters are few, such as those of Windows.
_SPELLED = {"…": "...", "×": "x", "±": "+-", "–": "-", "−": "-", "→": "->", "’": "'", "“": '"', "”": '"'}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """In place of characters that an encoding lacks, what looks like them; a question mark for others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SPELLED.get(character, "?") for character in lacking), error.end


def run_command(name: str, parser: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Parse a command line and do what it says: ``run`` of the parsed arguments, called with them.

    Args:
        name: stands in front of a message of what went wrong.
        parser: knows the arguments.
        argv: the command line; default: this process's.

    Returns:
        The exit status: 0, or 1 with a message on standard error.
    """
    codecs.register_error("resnetbook.spell", _spell)
    for stream in (sys.stdout, sys.stderr):
        # Something else may stand in for them, such as a notebook's.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="resnetbook.spell")
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (data.DataError, FloatingPointError, KeyError, OSError, ValueError) as error:
        # A KeyError would print its message in quotes; an OSError's first argument is only a number.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{name}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 1
    return 0
