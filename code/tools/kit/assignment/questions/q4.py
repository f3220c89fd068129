# ruff: noqa: F821, the names come from the files that stand above this one in the test.


@test_case(points=2)
def test_test(without_gradient):
    says_right(checks.without_gradient, without_gradient)


@test_case(points=2)
def test_mended(Mended):
    says_right(checks.residual_block, Mended)
    names = set(Mended(8, 16, 2).state_dict())
    layers = {name.split(".")[0] for name in names}
    assert layers == {"conv1", "bn1", "conv2", "bn2", "shortcut"}, "other layers than the patient's"
