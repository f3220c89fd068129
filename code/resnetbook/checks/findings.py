"""What an audit can say: a kind and a test for each finding, what it is, what it does, and a next step.

``[key] kind test``, then what was found, why it matters, and behind an arrow what to do; ``{0}``, ``{1}``, …
are filled in by :mod:`resnetbook.checks.audit`.
"""

import re
from typing import NamedTuple


class Text(NamedTuple):
    """One entry, with places to fill in."""

    kind: str
    test: str
    what: str
    why: str
    next_step: str


def read(text: str) -> dict[str, Text]:
    """The entries of a catalogue by their keys."""
    found = {}
    for key, kind, test, body in re.findall(r"^\[([\w-]+)\] (\w+) (\w+)\n((?:  .*\n)+)", text, re.M):
        lines = re.sub(r"\n    ", " ", body).splitlines()
        parts = [line.strip() for line in lines]
        steps = [part.removeprefix("→ ") for part in parts if part.startswith("→")]
        what, *why = [part for part in parts if not part.startswith("→")]
        found[key] = Text(kind, test, what, " ".join(why), " ".join(steps))
    return found


CATALOGUE = """\
[mixed-modes] wrong statistics
  {0} in another mode than the network
  As you handed it over, the network is in {1} mode and they are not.
  → Call network.train() or network.eval() on the whole; freeze norms on purpose or not at all.

[kept-graph] wrong gradients
  A result is kept with its graph
  {0}{1}

[hidden-method] wrong counts
  A method is hidden
  {0}

[no-copy] doubtful counts
  It cannot be copied
  copy.deepcopy says: {0}

[types] wrong counts
  Weights of several types: {0}
  Most are {1}, these are not: a cast of a part has been left over.
  → Cast the whole network with one .float() or .to(); for 16 bits in training use autocast.

[all-of-a-type] doubtful counts
  All weights are {0}
  Training in it loses small changes of the weights, or takes twice the time.
  → Keep weights in float32, and use torch.autocast for 16 bits.

[devices] wrong counts
  Weights on several devices: {0}
  A part was moved, or made, on its own.
  → Move the whole network with one .to(device).

[no-numbers] wrong counts
  Weights that are no numbers (inf or nan)
  They spoil all else.

[equal-filters] wrong gradients
  All filters of a convolution are the same
  Equal filters get equal gradients and stay equal: the layer has one channel, many times.
  → Start from random numbers, such as nn.init.kaiming_normal_.

[dead-block] wrong gradients
  A block that cannot start to learn
  {0} in it are all zero, and each keeps the gradient from the others.
  → To start as the identity, set only the last norm's scale to zero.

[does-not-run] wrong shapes
  It does not run
  With images of {0} it stops: {1}: {2}.
  → {3}

[not-in-training] wrong gradients
  It does not run in training mode
  {0}: {1}.
  → {2}

[prints] doubtful shapes
  It prints while it runs
  Each forward pass prints {0!r}.
  → Take the forgotten print out: it costs time in every step.

[changes-images] wrong shapes
  It changes its caller's images
  The batch that went in holds other numbers afterwards.
  → No in-place operation on the input: x = x + 1, not x += 1; nn.ReLU() without inplace=True.

[one-size] unusual shapes
  It accepts images of {0}×{1}, and not of {2}×{3}
  What stands before the last layer counts on one size of map.
  → nn.AdaptiveAvgPool2d(1) accepts every size.

[odd-sizes] wrong shapes
  It runs for {0}×{1} and stops for {2}×{3}
  {4}: {5}. A stride of 2 rounds odd sizes up on one way around the block, and down on the other.
  → A 3×3 convolution needs padding 1, a 1×1 none; slice the shortcut with [:, :, ::2, ::2].

[rows] wrong shapes
  {0} images give an output of shape {1}
  There must be one row for each image; flattening has mixed images with channels.
  → Use torch.flatten(x, 1), which leaves the first dimension alone.

[output-shape] unusual shapes
  The output has shape {0}
  Logits are (N, num_classes).
  → Pool over the map and flatten before the last layer, if you want to classify.

[softmax] wrong order
  The output passes a {0}
  Cross-entropy in PyTorch takes logits and does the softmax itself. Done twice, the loss of ten classes
    cannot fall below 1.46, and the gradients are small.
  → Return the logits; apply softmax where you show probabilities.

[log-softmax] unusual order
  The output passes a log-softmax
  It belongs to nn.NLLLoss; cross-entropy would do it a second time, which changes nothing.

[bent-logits] wrong order
  The logits pass {0}
  A logit must be free to be any number.
  → End with the linear layer.

[padding] wrong shapes
  {0} with the wrong padding
  A {1}×{1} with padding {2} makes {3}×{4} of {5}×{6}, where {7}×{8} is right.
  → padding={9} keeps the size, but for the stride.

[pool-stride] wrong shapes
  A max-pool of {0}×{0} with stride 1
  It does not make the map smaller: all that follows does four times the work.
  → nn.MaxPool2d(3, stride=2, padding=1): the second number is the stride.

[stem-pool] doubtful shapes
  The stem's max-pool is {0}×{0}, stride {1}, padding {2}
  The paper's is 3×3 with stride 2, and windows that overlap; a padding of 1 makes 56 of 112.
  → nn.MaxPool2d(3, stride=2, padding=1).

[no-pool] doubtful shapes
  A stem of 7×7 with stride 2 and no max-pool
  The maps of every stage have twice the side, and cost four times the work.
  → nn.MaxPool2d(3, stride=2, padding=1) follows the stem in the paper.

[never-runs] wrong counts
  {0} with weights that never run
  {1:,} parameters are built and take no part.
  → Call them in forward, or do not build them; look for a name that is overwritten.

[not-owned] wrong counts
  {0} that the network does not own
  They run, but network.parameters() does not list them: no optimizer trains them, and .to(), .eval()
    and state_dict() pass them by.
  → Keep layers in nn.Sequential or nn.ModuleList, not in a list, and build them in __init__.

[shared] wrong counts
  {0} used at more than one place
  The same weights work up to {1} times in one pass{2}
  → Build a new layer for every place: [Block() for _ in range(n)], not [Block()] * n.

[other-blocks] doubtful counts
  {0} built otherwise than the rest
  Most blocks have {1} convolutions (kernels {2}); here they are {3}.
  → Compare its constructor and its forward with the others'.

[depth] wrong counts
  {0} layers with weights, where {1} {2}
  The stages have {3} blocks{4}.
  → Count the first block of a stage as one of them: n blocks are 1 + (n - 1).

[kernels] unusual counts
  Blocks of {0} with kernels {1}
  The paper's have 3, 3 (basic) or 1, 3, 1 (bottleneck).

[near-family] doubtful counts
  Stages of {0} blocks
  That is no member of the family, but near one: {1}.
  → If it is meant to be that one, look at the loop that builds a stage.

[other-stages] unusual counts
  Stages of {0} blocks
  No network of the paper has these numbers.

[neighbours] wrong counts
  Neighbouring stages with the same channels: {0}
  Where the map halves, the channels double; here a stage has its neighbour's number.
  → Write the channels of the stages as width, 2 width, 4 width, 8 width.

[channels] unusual counts
  The channels of the stages are {0}
  In the paper each stage has twice as many as the one before.

[expansion] unusual counts
  Bottlenecks with an expansion of {0}
  The paper's output has four times the channels of the 3×3.

[groups] unusual counts
  Convolutions in groups
  As in ResNeXt, not in ResNet.

[image-channels] doubtful counts
  The first convolution reads {0} channels
  Images have 3, or 1.
  → in_channels of the stem is that of the images, not that of the first stage.

[dilation] unusual shapes
  Dilation in place of a stride
  As networks for segmentation have it.

[no-stride] wrong shapes
  {0} that should halve the map, and do not
  The channels double and the map keeps its side: four times the work, here and in all that follows.
  → The first block of a stage has stride 2, in F and on the shortcut. Is the argument used?

[every-stride] wrong shapes
  {0} blocks of one stage halve the map
  Only the first block of a stage has the stride; the others keep the map.
  → Give the stride to the first block, and 1 to the rest.

[late-stride] unusual shapes
  The map is halved inside of a stage, not at its beginning
  Some versions put the stride into the last block.

[first-stride] unusual shapes
  The first stage halves the map, too
  In the paper the stem has done it already.

[stride-1x1] unusual shapes
  The stride stands on the first 1×1 convolution
  So it was in the paper (v1): three quarters of the map are thrown away unread. torchvision has it on
    the 3×3 (v1.5), at the same number of parameters.

[self-sum] wrong order
  A sum of something with itself
  Both sides of the plus are the same tensor: the output of F is doubled, and x is not there.
  → Keep x under a name of its own before the first layer of F.

[plain] wrong order
  No shortcut at all
  Nothing is ever added to what went around some convolutions{0}
  → relu(F(x) + shortcut(x)): look at what forward does with x.

[no-shortcut] wrong order
  {0} without a shortcut
  Their convolutions run, and nothing is added.
  → Every block adds: x itself where the shape stays, a projection where it changes.

[late-shortcut] wrong order
  {0}
  A convolution of the block stands before the place where the shortcut begins, or after the plus.
  → Keep x under a name of its own before the first layer, and add it after the last norm.

[loose-convs] unusual order
  {0} between or behind the blocks
  No shortcut goes around them.

[minus] wrong order
  A minus where the plus should be
  The two ways are subtracted.
  → out + shortcut.

[long-shortcut] unusual order
  {0} around whole groups of blocks
  The paper has one around each block.

[relu-before-plus] wrong order
  ReLU before the plus in {0}
  F ends with an activation, so it is never negative: a block can raise its input and never lower it.
  → The last norm goes straight into the plus; the ReLU comes after it.

[linear-pair] wrong order
  No ReLU between two convolutions in {0}
  Two linear layers in a row can do no more than one.
  → Convolution, norm, ReLU; only the last norm of F has none.

[relu-before-norm] doubtful order
  ReLU before the norm in {0}
  The norm then sees only what is not negative.
  → Convolution, norm, ReLU, in this order.

[bare-conv] wrong order
  A convolution without its norm at {0}
  The others are normalized; what this one puts out has a scale of its own.
  → Every convolution of the paper is followed by batch normalization.

[no-norms] unusual order
  No normalization
  Every network of the paper has it.

[bare-projection] wrong order
  {0} without a norm
  F is normalized and the shortcut is not, so the two are added on different scales{1}
  → nn.Sequential(1×1 convolution, batch norm) on the shortcut.

[active-shortcut] wrong order
  An activation on {0}
  The shortcut must carry negative numbers too; a helper for convolution, norm and ReLU does not fit
    here.
  → On the shortcut stand a convolution and its norm, or nothing.

[normed-shortcut] wrong order
  A norm on {0} without a convolution
  The identity is no identity any more: it is scaled anew in every block.
  → Where the shape stays, add x itself.

[touched-shortcut] doubtful order
  {0} scaled, gated or with dropout
  He et al. 2016 tried it: a shortcut with anything on it trains worse.
  → Put it into F.

[large-projection] unusual order
  {0} larger than 1×1
  The paper's are 1×1.

[needless-projection] unusual order
  {0} where the shape stays
  Neither option B, which has them where the shape changes, nor C, which has them everywhere.

[option-c] unusual order
  A projection in every block
  Option C of the paper. Option B has them only where the shape changes, at far fewer parameters.

[factor-after-plus] doubtful order
  A factor or dropout after the plus
  The paper has none there.

[changed-input] wrong order
  {0} whose input is changed in place
  The shortcut carries what is left of x, not x.
  → out = f(x), with no method whose name ends in _ and no *= on the input.

[no-last-relu-v2] wrong order
  Nothing activates the last sum
  A network of pre-activation blocks ends with one more norm and ReLU, before the pooling.
  → x = relu(norm(x)) after the last block.

[no-last-relu] wrong order
  No ReLU after the plus in {0}
  The output of such a block is never activated.
  → return relu(out + shortcut).

[norm-after-plus] wrong order
  A norm after the plus of {0}
  It rescales the shortcut too, in every block anew, and the early blocks fade.
  → {1}

[relu-on-road] wrong order
  A ReLU on the main road before {0}
  Pre-activation blocks leave the sum as it is: here every sum passes a ReLU.
  → nn.ReLU() without inplace=True on a tensor that the shortcut still needs.

[stem-relu] wrong order
  No ReLU in the stem
  The first block's shortcut carries what was never activated.
  → Convolution, norm, ReLU, then the pool.

[image-arithmetic] unusual order
  Arithmetic on the images before the stem
  The paper normalizes the images outside of the network.

[bias] doubtful counts
  {0} with a bias in front of a norm
  The norm subtracts it again: {1:,} parameters that do nothing.
  → bias=False.

[gates] unusual order
  Gates inside of the blocks
  Such as squeeze-and-excitation; not in the paper.

[dropout] unusual order
  Dropout
  In training mode something is left out by chance; the paper's ResNets have none.

[factor] unusual order
  A factor inside of F
  The paper has none there.

[strange] unusual order
  Operations on the maps that no network of the paper has: {0}
  The audit does not judge them.

[activations] unusual order
  Activations: {0}
  The paper has ReLU alone.

[other-norms] unusual order
  A norm that is no batch norm
  It has no running statistics.

[hand-norms] unusual order
  Norms written by hand
  They are seen, and not compared.

[no-last-pool] unusual order
  No pooling over the last map
  The paper averages over it, so that any size of image fits.

[max-last-pool] unusual order
  The last map is reduced by its maximum
  The paper averages.

[pooled-projection] unusual order
  An average pool in front of the projections
  As in ResNet-D, which loses nothing where the map halves.

[casts] wrong gradients
  Numbers of type {0} in a float32 network
  A cast stands in forward.
  → Take .half() or .double() out of forward; use torch.autocast around the call.

[frozen] doubtful gradients
  {0} with frozen weights
  requires_grad is False: no training changes them{1}
  → {2}

[cut] wrong gradients
  The gradient is cut at {0}
  What goes on from there is computed, and nothing in front of it learns from it.
  → Look for .detach(), .data, torch.no_grad(), .item() and numpy().

[no-gradient] wrong gradients
  The output has no gradient
  Nothing in it can learn.

[backward] wrong gradients
  The backward pass stops
  {0}.
  → Something is changed in place that autograd still needs: write out = out + x, not x += out.

[dead-weight] wrong gradients
  {0} without a gradient
  They take part in the output and never learn.
  → Follow the tensor from there to the output: where does it end?

[stuck-norms] wrong statistics
  {0} in evaluation mode while the network trains
  They use running statistics that never move.
  → Let train() and eval() reach every layer; F.batch_norm needs training=self.training.

[momentum] doubtful statistics
  {0} with a momentum of {1:g}
  In PyTorch it is the share of the new batch: these running statistics forget all but the last one or
    two. Keras and TensorFlow count the other way round.
  → momentum=0.1 here is 0.9 there.

[no-affine] unusual statistics
  {0} without scale and shift
  The paper's norms learn both.

[epsilon] doubtful statistics
  {0} with an epsilon of {1:g}
  It is added to the variance to avoid a division by zero, and here it is large.
  → PyTorch's default is 1e-5.

[training-norms] wrong statistics
  {0} in training mode while the network evaluates
  What is predicted for an image depends on which others are in its batch.
  → Norms need running statistics, and eval() has to reach them.

[eval-changes] wrong statistics
  Evaluation changes the network
  Buffers are not what they were before a forward pass in evaluation mode.
  → Only training may move running statistics.

[chance] wrong statistics
  Chance in evaluation mode
  Asked twice, it gives two answers, or draws random numbers.
  → F.dropout needs training=self.training; nn.Dropout knows its mode.

[mixed-images] wrong statistics
  The images of a batch are mixed
  In evaluation mode too, the output for an image depends on the others.
  → Look for a view() or a mean() that takes the first dimension along.

[other-size] doubtful twin
  Other numbers for other sizes
  For images of {0}×{1} it gives what the book's network of this plan gives. For {2}×{3} the largest
    difference is {4:.1g} of the largest output: something counts on one size, and cuts off the rest of a map.
  → Look for a pool with a fixed window: nn.AdaptiveAvgPool2d(1) sees all of every map.

[twin] wrong twin
  A plan like a ResNet's, and another output
  With the same weights in it, the book's network of this plan gives other numbers: the largest
    difference is {0:.1g} of the largest output.
  → Compare block by block: feed both the same tensor, and halve the network until they differ.
"""

TEXTS = read(CATALOGUE)
