"""Checks that readers run on their own code: a right solution says so, a wrong one names the mistake.

Every check raises :class:`CheckFailed`, an ``AssertionError``, whose message says what is wrong and
what to look at next. A check never says that something is right which it has not compared with a
trusted implementation.
"""


class CheckFailed(AssertionError):
    """The reader's solution is not right yet; the message names the mistake and a next step."""
