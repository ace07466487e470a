"""FastAPI around `model.predict`, as tutorials write it."""

from __future__ import annotations

import os

import keras
import numpy
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = keras.models.load_model(os.environ["PEER_KERAS"], compile=False)


class Request(BaseModel):
    instances: list


@app.post("/predict")
def predict(request: Request) -> dict:
    return {"predictions": model.predict(numpy.array(request.instances, "float32"), verbose=0).tolist()}
