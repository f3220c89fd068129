# ruff: noqa: F821, the names come from the files that stand above this one in the test.


@test_case(points=3)
def test_basic_block(MyBlock):
    says_right(checks.residual_block, MyBlock)
