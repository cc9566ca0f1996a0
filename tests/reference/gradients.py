"""Gradients as golden tensors: every element of small ones, projections of large ones on random directions.

tests/support/gradients.h reads and compares them, and gives the reason why a wrong gradient cannot pass.
"""

import math

import torch

LARGEST_WHOLE = 512
DIRECTIONS = 8


def direction(count, seed):
    """A random direction of `count` elements, of norm 1 in expectation.

    Doubles between 0 and 1 are drawn one after the other from a CPU generator, and both languages scale them with one
    multiplication: the bits are the same.
    """
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, generator=generator, dtype=torch.float64) - 0.5) * math.sqrt(12 / count)


def projections(gradient):
    flat = gradient.detach().double().flatten()
    return torch.stack([direction(flat.numel(), seed).dot(flat) for seed in range(1, DIRECTIONS + 1)])


def is_key_bias(name, names):
    """Whether the gradient is exactly zero: it moves all scores of a query alike, which the softmax does not see.

    Where a second projection makes keys of its own, each bias moves the scores of its keys only.
    """
    for own, other in (("add_k_proj.bias", "to_k.bias"), ("to_k.bias", "add_k_proj.bias")):
        if name.endswith(own):
            return name.removesuffix(own) + other not in names
    return name.endswith("k_proj.bias")


def gradients(key, model, tensors):
    """Adds the gradients of all parameters, in their order.

    sizes        elements of each gradient, 0 where there is none
    elements     of the gradients of at most LARGEST_WHOLE elements, one gradient after the other
    norms        of the others
    projections  of the others, a row for each
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
            # A copy: a later backward adds to the gradient in place.
            elements.append(gradient.flatten().clone())
        else:
            norms.append(gradient.double().norm())
            projected.append(projections(gradient))
    tensors[key + "/gradients/sizes"] = torch.tensor(sizes, dtype=torch.int32)
    tensors[key + "/gradients/elements"] = torch.cat(elements)
    if norms:
        tensors[key + "/gradients/norms"] = torch.stack(norms)
        tensors[key + "/gradients/projections"] = torch.stack(projected)
