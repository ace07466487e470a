"""Training on several devices at once: each takes an equal part of every batch, and their gradients are averaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from zoo.errors import UsageError

Scope = Callable[[], contextlib.AbstractContextManager[Any]]


def data_parallel(devices: int) -> Scope:
    """Returns a scope in which a model is to be built, and then trained, so that it is spread over several devices.

    GPUs are taken where there are enough; otherwise the processor is split into as many virtual devices, which is of use to
    try things out. `tf.distribute.MirroredStrategy` does the work under TensorFlow, `keras.distribution.DataParallel` under
    JAX. Batch normalization normalizes each device's part by itself under TensorFlow, the whole batch under JAX.

    Args:
        devices: How many, above 0; 1 changes nothing.

    Raises:
        UsageError: There are not so many devices and the backend has started already, or the backend is neither of the two.

    Example:
        >>> scope = data_parallel(1)
        >>> with scope():
        ...     pass
    """
    import keras

    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise UsageError(f"devices must be a whole number above 0. Received: {devices!r}.")
    if devices == 1:
        return contextlib.nullcontext
    backends = {"tensorflow": _mirrored, "jax": _distribution}
    if keras.backend.backend() not in backends:
        raise UsageError(f"Several devices need KERAS_BACKEND=tensorflow or jax. It is {keras.backend.backend()}.")
    return backends[keras.backend.backend()](devices)


def _mirrored(devices: int) -> Scope:
    import tensorflow as tf

    names = [device.name for device in tf.config.list_physical_devices("GPU")]
    if len(names) >= devices:
        names = [f"GPU:{index}" for index in range(devices)]
    else:
        processor = tf.config.list_physical_devices("CPU")[0]
        with contextlib.suppress(RuntimeError):  # TensorFlow has started: what there is has to do
            if len(tf.config.get_logical_device_configuration(processor) or []) < devices:
                tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * devices)
        names = [f"CPU:{index}" for index in range(devices)]
        _require(devices, len(tf.config.list_logical_devices("CPU")))
    return tf.distribute.MirroredStrategy(names, cross_device_ops=tf.distribute.ReductionToOneDevice()).scope


def _distribution(devices: int) -> Scope:
    import jax
    import keras

    with contextlib.suppress(RuntimeError):  # JAX has started: what there is has to do
        jax.config.update("jax_num_cpu_devices", devices)
    names = keras.distribution.list_devices()
    _require(devices, len(names))
    return keras.distribution.DataParallel(devices=names[:devices]).scope


def _require(wanted: int, found: int) -> None:
    if found < wanted:
        raise UsageError(f"{wanted} devices are wanted, but there are {found}, and the processor can only be split before the first computation.")
