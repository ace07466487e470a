"""Muon for matrices and filters, Nesterov momentum for everything else."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any
# Of the quintic a x + b x^3 + c x^5 whose iteration drives singular values towards 1 (Jordan et al., 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@keras.saving.register_keras_serializable("neuron_zoo")
class Muon(keras.optimizers.Optimizer):
    """Momentum whose step is made orthogonal, for kernels; Nesterov momentum for biases, normalization and the logits.

    A kernel's gradient is flattened to a matrix `(inputs, outputs)`, a filter bank's to `(height * width * inputs,
    outputs)`. The momentum's singular values are driven to about 1 by a Newton-Schulz iteration, so that every direction
    of the matrix moves by the learning rate. Keras's own Muon leaves filter banks to Adam.

    Args:
        learning_rate: Of the orthogonal steps, scaled by `sqrt(max(1, outputs / inputs))` so that it carries over between
            shapes.
        momentum: Of the orthogonal steps, 0..1.
        iterations: Newton-Schulz iterations per step.
        normalize: Rescales each kernel to the norm `sqrt(outputs)` before its step. Right where a normalization follows the
            kernel, which makes its norm immaterial; wrong elsewhere.
        sgd_learning_rate_ratio: The learning rate of the logits' kernel as a multiple of `learning_rate`.
        bias_learning_rate_ratio: The learning rate of biases, scales and shifts as a multiple of `learning_rate`.
        sgd_momentum: Of the Nesterov steps, 0..1.
        exclude_layers: Layers whose kernels take Nesterov steps, by name.
        **arguments: Of `keras.optimizers.Optimizer`, such as `weight_decay` or `use_ema`.

    References:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, https://kellerjordan.github.io/posts/muon/

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2, name="logits")])
        >>> model.compile(Muon(0.02), "mse")
    """

    def __init__(
        self,
        learning_rate: Any = 0.02,
        momentum: float = 0.9,
        iterations: int = 5,
        normalize: bool = False,
        sgd_learning_rate_ratio: float = 1.0,
        bias_learning_rate_ratio: float = 1.0,
        sgd_momentum: float = 0.9,
        exclude_layers: tuple[str, ...] = ("logits",),
        name: str = "muon",
        **arguments: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **arguments)
        self.momentum, self.newton_schulz_iterations, self.normalize = momentum, iterations, normalize
        self.sgd_learning_rate_ratio, self.bias_learning_rate_ratio = sgd_learning_rate_ratio, bias_learning_rate_ratio
        self.sgd_momentum, self.exclude_layers = sgd_momentum, tuple(exclude_layers)

    def build(self, variables: list[Any]) -> None:
        """Makes a momentum slot for each variable."""
        if self.built:
            return
        super().build(variables)
        self.orthogonal = [self.is_orthogonal(variable) for variable in variables]
        self.velocities = [self.add_variable_from_reference(variable, name="velocity") for variable in variables]

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """Moves one variable."""
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        index = self._get_variable_index(variable)
        velocity, orthogonal = self.velocities[index], self.orthogonal[index]
        momentum = self.momentum if orthogonal else self.sgd_momentum
        self.assign(velocity, momentum * velocity + gradient)
        step = gradient + momentum * velocity
        if not orthogonal:
            ratio = self.sgd_learning_rate_ratio if len(variable.shape) > 1 else self.bias_learning_rate_ratio
            self.assign_sub(variable, rate * ratio * step)
            return
        outputs = variable.shape[-1]
        matrix = ops.reshape(step, (-1, outputs))
        inputs = matrix.shape[0]
        move = ops.reshape(orthogonalize(matrix, self.newton_schulz_iterations), variable.shape)
        value = ops.convert_to_tensor(variable)
        if self.normalize:
            value = value * (outputs**0.5 / (ops.norm(ops.reshape(value, (-1,))) + 1e-7))
        self.assign(variable, value - rate * max(1.0, outputs / inputs) ** 0.5 * move)

    def is_orthogonal(self, variable: Any) -> bool:
        """True for the kernels that take orthogonal steps."""
        return len(variable.shape) > 1 and not any(layer in variable.path.split("/") for layer in self.exclude_layers)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "iterations": self.newton_schulz_iterations,
            "normalize": self.normalize,
            "sgd_learning_rate_ratio": self.sgd_learning_rate_ratio,
            "bias_learning_rate_ratio": self.bias_learning_rate_ratio,
            "sgd_momentum": self.sgd_momentum,
            "exclude_layers": self.exclude_layers,
        }


def orthogonalize(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Returns a matrix with the same singular vectors and singular values of about 1 (0.7..1.2), by Newton-Schulz.

    Args:
        matrix: `(rows, columns)`, float.
        iterations: Five suffice for singular values from about 0.01 of the largest up.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    wide = ops.transpose(matrix) if tall else matrix
    wide = wide / (ops.norm(wide) + 1e-7)
    for _ in range(iterations):
        gram = ops.matmul(wide, ops.transpose(wide))
        wide = a * wide + ops.matmul(b * gram + c * ops.matmul(gram, gram), wide)
    return ops.transpose(wide) if tall else wide
