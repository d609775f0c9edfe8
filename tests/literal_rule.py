"""The source report's denoising, component by component: the oracle of cleaning."""

import numpy as np
from scipy import ndimage


def literal_slice(mask, ratio):
    """Return one 2-D slice after the source's rule, component by component."""
    limit = int(ratio * mask.sum())
    for value_of_component in (False, True):
        components, count = ndimage.label(mask == value_of_component)
        for component in range(1, count + 1):
            where = components == component
            if where.sum() < limit:
                mask = np.where(where, not value_of_component, mask)
    return mask


def literal_slices(mask, ratio):
    slices = [literal_slice(mask[:, :, k], ratio) for k in range(mask.shape[2])]
    return np.stack(slices, axis=2)


def literal_volume(mask, min_voxels, keep_largest):
    filled = ndimage.binary_fill_holes(mask)
    components, count = ndimage.label(filled.T)
    components = components.T
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    ranked = sorted(range(1, count + 1), key=lambda c: (-sizes[c], c))
    kept = [c for c in ranked[:keep_largest] if sizes[c] >= min_voxels]
    return np.isin(components, kept)


def merged(one, results):
    """Return the labelmap that the rule of claims makes of each structure's result."""
    claims = np.sum(results, axis=0)
    voxels = np.zeros_like(one.voxels)
    for label, result in zip(one.labels, results, strict=True):
        alone = result & (claims == 1)
        kept = result & (claims > 1) & one.mask(label)
        voxels[alone | kept] = label.value
    return voxels, int(np.count_nonzero(claims > 1))
