"""LitServe, as its documentation begins."""

from __future__ import annotations

import os

import litserve as ls
import tensorflow as tf


class Api(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.model = tf.saved_model.load(os.environ["PEER_SAVED_MODEL"])
        self.signature = self.model.signatures["serving_default"]

    def decode_request(self, request: dict) -> tf.Tensor:
        return tf.constant(request["instances"], tf.float32)

    def predict(self, images: tf.Tensor) -> tf.Tensor:
        return self.signature(image=images)["probabilities"]

    def encode_response(self, output: tf.Tensor) -> dict:
        return {"predictions": output.numpy().tolist()}


if __name__ == "__main__":
    ls.LitServer(Api(), accelerator="cpu").run(port=int(os.environ["PEER_PORT"]), generate_client_file=False)
