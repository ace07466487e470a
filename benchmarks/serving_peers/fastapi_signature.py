"""FastAPI around a SavedModel's signature."""

from __future__ import annotations

import os

import tensorflow as tf
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = tf.saved_model.load(os.environ["PEER_SAVED_MODEL"])
signature = model.signatures["serving_default"]


class Request(BaseModel):
    instances: list


@app.post("/predict")
def predict(request: Request) -> dict:
    return {"predictions": signature(image=tf.constant(request.instances, tf.float32))["probabilities"].numpy().tolist()}
