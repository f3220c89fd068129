# ruff: noqa: F401, F821, personal.py stands above this in every test, and a question below it.
import contextlib
import io
import math

from resnetbook import blocks, checks, probes


def says_right(check, thing):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        check(thing)
    assert out.getvalue().startswith("Right"), out.getvalue()


def whole_name(NAME):
    assert isinstance(NAME, str) and NAME.strip(), "there is no name in NAME"
    return personal(NAME)


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
