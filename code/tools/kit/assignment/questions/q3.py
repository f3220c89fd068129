# ruff: noqa: F821, the names come from the files that stand above this one in the test.


@test_case(points=1)
def test_basic_parameters(basic_parameters):
    says_right(checks.basic_parameters, basic_parameters)


@test_case(points=1)
def test_bottleneck_macs(bottleneck_macs):
    says_right(checks.bottleneck_macs, bottleneck_macs)


def true_macs(block, mine):
    return probes.count_macs(
        block(mine.in_channels, mine.out_channels, 2), (mine.in_channels, mine.side, mine.side)
    )


@test_case(points=1)
def test_macs_of_the_own_basic_block(NAME, basic_macs):
    assert basic_macs == true_macs(blocks.BasicBlock, whole_name(NAME))


@test_case(points=1)
def test_share_of_the_own_bottleneck(NAME, share_of_bottleneck):
    mine = whole_name(NAME)
    share = true_macs(blocks.Bottleneck, mine) / true_macs(blocks.BasicBlock, mine)
    # Three digits are enough, by whichever of the usual roundings.
    assert is_number(share_of_bottleneck) and abs(share_of_bottleneck - share) < 0.001
