"""Ray Serve's deployment class."""

from __future__ import annotations

import os

import tensorflow as tf
from ray import serve
from starlette.requests import Request


@serve.deployment
class Classifier:
    def __init__(self, path: str) -> None:
        self.model = tf.saved_model.load(path)
        self.signature = self.model.signatures["serving_default"]

    async def __call__(self, request: Request) -> dict:
        images = tf.constant((await request.json())["instances"], tf.float32)
        return {"predictions": self.signature(image=images)["probabilities"].numpy().tolist()}


app = Classifier.bind(os.environ["PEER_SAVED_MODEL"])
