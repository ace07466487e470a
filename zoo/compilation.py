"""What a recipe compiles its model with: an optimizer and its schedule, a loss and an accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.optimizers import create_optimizer, lookahead, optimizer_info
from zoo.specs import Recipe

if TYPE_CHECKING:
    import keras

STEPS_PER_EXECUTION = 32


def compile_model(model: keras.Model, recipe: Recipe, steps: int) -> None:
    """Compiles a model with the recipe's optimizer, schedule over `steps` steps, loss and accuracy."""
    model.compile(make_optimizer(recipe, steps), loss(recipe), metrics=[accuracy(recipe)], **_execution())


def make_optimizer(recipe: Recipe, steps: int) -> keras.Optimizer:
    """Returns the recipe's optimizer with its schedule over `steps` steps."""
    averaging = {} if recipe.ema is None else {"use_ema": True, "ema_momentum": recipe.ema}
    optimizer = create_optimizer(recipe.optimizer, schedule(recipe, steps), **{**recipe.optimizer_arguments, **averaging})
    return lookahead(optimizer, recipe.lookahead) if recipe.lookahead else optimizer


def schedule(recipe: Recipe, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate as a function of the step, from 0 to `steps`."""
    from keras.optimizers import schedules

    peak = optimizer_info(recipe.optimizer).learning_rate if recipe.learning_rate is None else recipe.learning_rate
    rise = max(1, round(steps * (0.3 if recipe.schedule == "one_cycle" else recipe.warmup)))
    fall = max(1, steps - rise)
    if recipe.schedule == "constant":
        return schedules.PolynomialDecay(0.0, rise, peak) if recipe.warmup else peak
    if recipe.schedule == "linear":
        return _linear(peak, rise, fall) if recipe.warmup else schedules.PolynomialDecay(peak, steps, 0.0)
    if recipe.schedule == "cosine" and not recipe.warmup:
        return schedules.CosineDecay(peak, steps)
    start = peak / 25 if recipe.schedule == "one_cycle" else 0.0
    return schedules.CosineDecay(start, fall, warmup_target=peak, warmup_steps=rise)


def _linear(peak: float, rise: int, fall: int) -> keras.optimizers.schedules.LearningRateSchedule:
    from keras import ops
    from keras.optimizers import schedules

    class LinearWarmupDecay(schedules.LearningRateSchedule):
        """A straight line up to the peak, then a straight line down to zero."""

        def __call__(self, step: Any) -> Any:
            step = ops.cast(step, "float32")
            return peak * ops.minimum(step / rise, ops.maximum(rise + fall - step, 0.0) / fall)

        def get_config(self) -> dict[str, Any]:
            return {"peak": peak, "rise": rise, "fall": fall}

    return LinearWarmupDecay()


def loss(recipe: Recipe) -> keras.losses.Loss | Callable[[Any, Any], Any]:
    """Returns cross-entropy on logits, with the recipe's label smoothing, and with its teacher's answers where it has one.

    With a teacher, a target is a row of the label followed by the teacher's logits; see `targets`.
    """
    import keras
    from keras import ops

    if not recipe.label_smoothing and not recipe.teacher:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def cross_entropy(labels: Any, logits: Any) -> Any:
        targets = ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), logits.shape[-1])
        return keras.losses.categorical_crossentropy(targets, logits, from_logits=True, label_smoothing=recipe.label_smoothing)

    def distillation(rows: Any, logits: Any) -> Any:
        answers = ops.softmax(rows[:, 1:] / recipe.temperature)
        # The squared temperature keeps the gradient's size; the answers' entropy has no gradient and is left out.
        imitation = -ops.sum(answers * ops.log_softmax(logits / recipe.temperature), axis=-1) * recipe.temperature**2
        return recipe.teacher_weight * imitation + (1 - recipe.teacher_weight) * cross_entropy(rows[:, :1], logits)

    return distillation if recipe.teacher else cross_entropy


def accuracy(recipe: Recipe) -> keras.metrics.Metric:
    """Returns the share of right answers among targets as `targets` gives them."""
    import keras

    def share(rows: Any, logits: Any) -> Any:
        return keras.metrics.sparse_categorical_accuracy(rows[:, :1] if recipe.teacher else rows, logits)

    return keras.metrics.MeanMetricWrapper(share, name="accuracy")


def _execution() -> dict[str, Any]:
    """How Keras runs a step: XLA is the only way with JAX, and slows convolutions down on TensorFlow's CPU."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return {"jit_compile": True}
    return {"jit_compile": False, "steps_per_execution": STEPS_PER_EXECUTION}
