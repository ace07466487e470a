"""A process that a test interrupts: it gets a small model ready, says so, and exports it when it is told to."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import keras

import zoo
from zoo.cards import Card
from zoo.export import export_model

SHAPE = (6, 5, 2)  # no image file has two channels, so the graph is small
NAME = "tiny"


def tiny_model() -> tuple[keras.Model, Card]:
    model = zoo.create_model("relu_mlp", input_shape=SHAPE, num_classes=3, units=4)
    card = Card(
        name=NAME,
        model=model.name,
        hyperparameters={},
        input_shape=SHAPE,
        num_classes=3,
        class_names=("a", "b", "c"),
        dataset="digits",
        light_on_dark=True,
        recipe={},
        sha256="",
        parameters=model.count_params(),
    )
    return model, card


def export_when_told(pipe: Connection, repository: Path) -> None:
    """What the process runs."""
    tiny = tiny_model()
    pipe.send("ready")
    pipe.recv()
    export_model(tiny, repository)
