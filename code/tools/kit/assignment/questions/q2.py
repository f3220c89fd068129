# ruff: noqa: F821, the names come from the files that stand above this one in the test.


@test_case(points=3)
def test_bottleneck(env):
    says_right(checks.bottleneck, env.get(checks.bottleneck.name))
