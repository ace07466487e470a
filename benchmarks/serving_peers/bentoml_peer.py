"""BentoML's service class."""

from __future__ import annotations

import os

import bentoml
import numpy
import tensorflow as tf


@bentoml.service
class Classifier:
    def __init__(self) -> None:
        self.model = tf.saved_model.load(os.environ["PEER_SAVED_MODEL"])
        self.signature = self.model.signatures["serving_default"]

    @bentoml.api
    def predict(self, instances: numpy.ndarray) -> dict:
        return {"predictions": self.signature(image=tf.constant(instances, tf.float32))["probabilities"].numpy().tolist()}
