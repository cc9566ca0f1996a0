"""Gradients as golden tensors: every element of small ones, projections of large ones on random directions.

tests/support/gradients.h reads and compares them, and explains why a wrong gradient cannot pass.
"""

import math

import torch

LARGEST_WHOLE = 512
DIRECTIONS = 8


def direction(count, seed):
    """Returns a random direction of `count` elements with an expected norm of 1.

    Doubles between 0 and 1 are drawn one after the other from a CPU generator, and both languages scale them with one
    multiplication, so the bits are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, generator=generator, dtype=torch.float64) - 0.5) * math.sqrt(12 / count)


def projections(gradient):
    flat = gradient.detach().double().flatten()
    return torch.stack([direction(flat.numel(), seed).dot(flat) for seed in range(1, DIRECTIONS + 1)])


def is_key_bias(name, names):
    """Returns true if the gradient is exactly zero: the bias shifts all scores of a query equally, and the softmax is
    invariant to that.

    If a second projection makes further keys, each bias shifts only the scores of its own keys.
    """
    for own, other in (("add_k_proj.bias", "to_k.bias"), ("to_k.bias", "add_k_proj.bias")):
        if name.endswith(own):
            return name.removesuffix(own) + other not in names
    return name.endswith("k_proj.bias")


def gradients(key, model, tensors):
    """Adds the gradients of all parameters, in their order.

    sizes        number of elements of each gradient, 0 without a gradient
    elements     of the gradients of at most LARGEST_WHOLE elements, one gradient after the other
    norms        of the other gradients
    projections  of the other gradients, one row for each
    """
    parameters = dict(model.named_parameters())
    sizes, elements, norms, projected = [], [], [], []
    for name, parameter in parameters.items():
        gradient = parameter.grad
        sizes.append(0 if gradient is None else gradient.numel())
        if gradient is None:
            continue
        if is_key_bias(name, parameters):
            # Rounding noise.
            gradient = torch.zeros_like(gradient)
        if gradient.numel() <= LARGEST_WHOLE:
            # A copy, since a later backward pass adds to the gradient in place.
            elements.append(gradient.flatten().clone())
        else:
            norms.append(gradient.double().norm())
            projected.append(projections(gradient))
    tensors[key + "/gradients/sizes"] = torch.tensor(sizes, dtype=torch.int32)
    tensors[key + "/gradients/elements"] = torch.cat(elements)
    if norms:
        tensors[key + "/gradients/norms"] = torch.stack(norms)
        tensors[key + "/gradients/projections"] = torch.stack(projected)
