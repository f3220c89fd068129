"""What chapter 2 says of its results is what the records say."""

from statistics import fmean

from conftest import last_of_seeds

from resnetbook import runs


def test_what_chapter_2_says_of_its_seeds_is_so():
    plain, residual = (
        {
            depth: last_of_seeds(f"degradation-{kind}-{depth}", "slice_loss")
            for depth in (8, 14, 20, 32, 44, 56)
        }
        for kind in ("plain", "residual")
    )
    for losses in (plain, residual):
        assert all(len(values) >= (5 if depth in (20, 56) else 3) for depth, values in losses.items())
    # Plain: nothing is lost up to 14 layers; then every seed is behind every seed of the row above.
    assert fmean(plain[14]) <= fmean(plain[8])
    for shallower, deeper in ((14, 20), (20, 32), (32, 44), (44, 56)):
        assert max(plain[shallower]) < min(plain[deeper])
    # Residual: depth helps up to 32 layers; beyond, most seeds end near those, and the worst among plain
    # ones of 20 to 32 layers or a little above.
    means = [fmean(residual[depth]) for depth in (8, 14, 20, 32)]
    assert means == sorted(means, reverse=True)
    for depth in (44, 56):
        near = [loss for loss in residual[depth] if loss < min(plain[20])]
        assert len(near) > len(residual[depth]) / 2
        assert fmean(residual[depth]) > max(means[-2:])
        assert runs.mean_std(residual[depth])[1] > 3 * runs.mean_std(residual[20])[1]
        assert max(plain[20]) < max(residual[depth]) < min(plain[depth])
        assert max(residual[depth]) < 1.1 * max(plain[32])


def test_what_chapter_2_says_of_its_limits_is_so():
    conditions = ["degradation", "limits-low-rate", "limits-long-warmup", "limits-long"]
    shallow, deep = (
        {name: last_of_seeds(f"{name}-plain-{depth}", "slice_loss") for name in conditions}
        for depth in (20, 56)
    )
    gap = {name: fmean(deep[name]) - fmean(shallow[name]) for name in conditions}
    for name in conditions[1:]:
        assert min(deep[name]) > max(shallow[name]), name
        assert gap[name] < gap["degradation"], name
    for name in conditions[1:3]:  # "about half"
        assert 0.35 < gap[name] / gap["degradation"] < 0.65, name
        assert fmean(deep[name]) < fmean(deep["degradation"])
    # "ends worse than before", "next to nothing"
    assert min(shallow["limits-low-rate"]) > max(shallow["degradation"])
    assert gap["limits-long-warmup"] > 5 * abs(
        fmean(shallow["limits-long-warmup"]) - fmean(shallow["degradation"])
    )
    assert min(deep["limits-long"]) > max(shallow["degradation"])
    # What the shortcut is worth, "more with every row".
    worth = [
        fmean(last_of_seeds(f"degradation-plain-{depth}", "slice_loss"))
        - fmean(last_of_seeds(f"degradation-residual-{depth}", "slice_loss"))
        for depth in (8, 14, 20, 32, 44, 56)
    ]
    assert worth == sorted(worth) and worth[0] < 0.01
