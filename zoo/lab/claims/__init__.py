"""The claims, one module each, in the order in which a reader meets them."""

from __future__ import annotations

from zoo.errors import unknown
from zoo.lab.claim import Claim
from zoo.lab.claims import adaptive, batchnorm, gradients, logits, momentum, pooling, relu, representations, sgd, sharing, sigmoid

_CLAIMS = {
    module.CLAIM.name: module.CLAIM
    for module in (sigmoid, relu, representations, sharing, pooling, logits, gradients, batchnorm, sgd, momentum, adaptive)
}


def list_claims() -> list[str]:
    """Lists the claims' names, in the order in which a reader meets them.

    Example:
        >>> list_claims()[:3]
        ['sigmoid', 'relu', 'representations']
    """
    return list(_CLAIMS)


def claim(name: str) -> Claim:
    """Returns a claim by name.

    Raises:
        UnknownNameError: No such claim.

    Example:
        >>> claim("pooling").says
        'Max pooling down-samples the stages, and high-level features come with growing receptive fields.'
    """
    if name not in _CLAIMS:
        raise unknown("claim", name, _CLAIMS)
    return _CLAIMS[name]
