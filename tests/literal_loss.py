"""The losses of partly drawn cases, word by word as their page defines them.

Loops over samples, voxels and structures in float64; nothing of the package is used.
"""

import math

SMOOTH, ALPHA, GAMMA = 1e-5, 0.25, 2.0


def literal_loss(logits, voxels, *, batch, background, kind):
    """Return the loss of logits[n][c][v]; voxels[n][v] is (label, not drawn, where).

    `where` is "inside", "outside" (of the image) or "ignored"; the set of an outside
    voxel is not read.
    """
    outputs = len(logits[0])
    structures = range(0 if background else 1, outputs)
    sums, of_voxels = {}, []
    for n, sample in enumerate(voxels):
        nowhere = drawn_nowhere([o for _, o, w in sample if w != "outside"])
        for v, (label, not_drawn, where) in enumerate(sample):
            joined = set() if where == "outside" else not_drawn
            p = probabilities([logits[n][c][v] for c in range(outputs)], joined)
            without = nowhere if where == "outside" else not_drawn
            for c in structures:
                if c in without:
                    continue
                three = sums.setdefault(c if batch else (n, c), [0.0, 0.0, 0.0])
                counts = where != "ignored"
                three[0] += counts * p[c] * (label == c)
                three[1] += counts * p[c]
                three[2] += counts * (label == c)
            if where != "ignored":
                of_voxels.append(p[label])
    dice = [(2 * i + SMOOTH) / (a + b + SMOOTH) for i, a, b in sums.values()]
    loss = background - sum(dice) / max(len(dice), 1)  # nothing was drawn: no Dice
    return loss + mean_of_voxels(of_voxels, kind, outputs)


def mean_of_voxels(probabilities, kind, outputs):
    """Return the cross-entropy or the focal loss of the probabilities of the truth."""
    focal = [-ALPHA * (1 - p) ** GAMMA * math.log(p) for p in probabilities]
    entropy = [-math.log(p) for p in probabilities]
    each = {"ce": entropy, "focal": [loss / outputs for loss in focal], "": [0.0]}[kind]
    return sum(each) / len(each)


def probabilities(logits, joined):
    """Return the probability of each output; the background takes the joined ones."""
    total = sum(math.exp(value) for value in logits)
    p = [math.exp(value) / total for value in logits]
    return [p[0] + sum(p[c] for c in joined), *p[1:]]


def drawn_nowhere(sets):
    """Return what was drawn in no voxel of a sample."""
    return set.intersection(*map(set, sets)) if sets else set()
