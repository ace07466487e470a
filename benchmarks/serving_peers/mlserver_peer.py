"""MLServer's custom runtime, with its NumPy codec."""

from __future__ import annotations

import os

import numpy
import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classifier(MLModel):
    async def load(self) -> bool:
        self.loaded = tf.saved_model.load(os.environ["PEER_SAVED_MODEL"])
        self.signature = self.loaded.signatures["serving_default"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        probabilities = self.signature(image=tf.constant(images.astype("float32")))["probabilities"].numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("predictions", numpy.asarray(probabilities))])
