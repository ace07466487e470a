"""What can be wrong with a model repository: each rule with what TF Serving makes of it, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.golden import MOST_WARMUP_RECORDS

ERROR = "error"
"""The model, or a kind of request to it, fails."""
WARNING = "warning"
"""It works, and will surprise."""
NOTE = "note"
"""It works, and could be better."""


@dataclass(frozen=True)
class Rule:
    """A defect.

    Attributes:
        severity: `error`, `warning` or `note`.
        consequence: What TF Serving does with it.
        mend: What to do about it.
    """

    severity: str
    consequence: str
    mend: str


@dataclass(frozen=True)
class Finding:
    """A defect in its place.

    Attributes:
        rule: Its name, a key of `RULES`.
        path: The file or folder.
        what: What was found there.
    """

    rule: str
    path: Path
    what: str

    @property
    def severity(self) -> str:
        return RULES[self.rule].severity

    @property
    def consequence(self) -> str:
        return RULES[self.rule].consequence

    @property
    def mend(self) -> str:
        return RULES[self.rule].mend


_EXPORT = "Export the model again; write into a temporary folder and rename it, as `zoo export` does."

RULES = {
    # models.config
    "config-syntax": Rule(
        ERROR,
        "The server prints `Error parsing text-format tensorflow.serving.ModelServerConfig` and exits.",
        "Mend the file at the place that is named.",
    ),
    "empty-config": Rule(
        WARNING, "The server starts with no model at all, and says so only in its log.", "List the models in model_config_list { config { ... } }."
    ),
    "relative-base-path": Rule(ERROR, "The server exits: it wants an absolute path.", "Write base_path as an absolute path, as the server sees it."),
    "missing-model-platform": Rule(
        ERROR, "The server exits with `Illegal setting neither model_type(deprecated) nor model_platform.`", 'Add model_platform: "tensorflow".'
    ),
    "model-type": Rule(
        ERROR, "The server exits with `Illegal setting both model_type(deprecated) and model_platform.`", "Remove model_type; it is deprecated."
    ),
    "unknown-platform": Rule(
        ERROR, "The server exits: it has no adapter for such a platform, or two models of different platforms.", 'Write model_platform: "tensorflow".'
    ),
    "duplicate-model": Rule(ERROR, "The server exits: a model may be listed once.", "Give each entry a name of its own."),
    "missing-base-path": Rule(
        ERROR,
        "`Could not find base path`: as long as one folder is missing, the server sees no version of any model.",
        "Create the folder, or mend base_path.",
    ),
    "missing-specific-version": Rule(
        ERROR, "The version is not served; the server only warns of it in its log.", "List versions that exist in model_version_policy, or add them."
    ),
    "label-without-version": Rule(
        ERROR, "The whole configuration is refused: a label can only name a version that is served.", "Point the label at a served version."
    ),
    "labels-need-flag": Rule(
        WARNING,
        "At start-up no version is available yet, and the server exits over the labels.",
        "Start it with --allow_version_labels_for_unavailable_models=true, or add the labels later by a reload.",
    ),
    "unlisted-model": Rule(WARNING, "The model is not served: models.config decides.", "Add it to models.config; `zoo export` does."),
    # Folders
    "no-version": Rule(
        ERROR,
        "The server starts, logs `No versions of servable ... found under base path`, and every request is 404 `Servable not found`.",
        "Move the model into a folder named by a whole number: NAME/1/saved_model.pb.",
    ),
    "ignored-folder": Rule(WARNING, "The folder is passed over without a word: a version's name is a whole number.", "Rename it to a whole number."),
    "too-large-version": Rule(ERROR, "The number does not fit 64 bits, so the folder is passed over without a word.", "Choose a smaller number."),
    "version-below-one": Rule(
        WARNING,
        "It is served, but 0 is what many clients send for `no version`, and REST paths take no negative number.",
        "Number versions from 1.",
    ),
    "duplicate-version": Rule(ERROR, "Of two folders with the same number one is ignored, with a warning in the log only.", "Remove one of them."),
    "version-is-a-file": Rule(
        ERROR, "The server takes the file for a version and fails to load it, five times with a minute in between.", "Remove or rename it."
    ),
    "leftover": Rule(NOTE, "An interrupted export left it; the server passes it over.", "Remove it, if no export is running at this moment."),
    # The files of a version
    "no-saved-model": Rule(
        ERROR,
        "`Could not find SavedModel .pb or .pbtxt`: the version fails to load; it is tried five times with a minute in between.",
        "A version holds saved_model.pb: export with `zoo export`, model.export(...) or tf.saved_model.save.",
    ),
    "half-copied": Rule(
        ERROR,
        "The version fails to load, or loads with variables that have no value. A server that polls may meet every upload in this state.",
        "Copy to a folder beside it whose name is no number, and rename that when everything is there.",
    ),
    "truncated-graph": Rule(ERROR, "The version fails to load: the graph cannot be parsed.", f"Copy saved_model.pb again. {_EXPORT}"),
    "no-serve-tag": Rule(
        ERROR,
        "`Could not find meta graph def matching supplied tags: { serve }`: the version fails to load.",
        'Export with the tag "serve", which is the default.',
    ),
    "damaged-variables": Rule(ERROR, "The version fails to load: the weights cannot be restored.", f"Copy variables/ again. {_EXPORT}"),
    "missing-asset": Rule(ERROR, "The version fails to load: a file that the graph reads is missing.", "Copy assets/ again."),
    "misplaced-warmup": Rule(
        WARNING, "The file is not read, and the first request stays slow.", "Move it to assets.extra/tf_serving_warmup_requests."
    ),
    "private-files": Rule(
        WARNING, "Only its owner can read it; a server under another user fails to load the version.", "chmod -R a+rX the version."
    ),
    # The graph
    "missing-op": Rule(
        ERROR,
        "`Op type not registered`: the version fails to load.",
        "Replace the operation by TensorFlow's own ones, or build the server with it.",
    ),
    "contributed-op": Rule(
        NOTE,
        "The server's official build has the operations of TensorFlow Text and Decision Forests. Here they are missing: nothing more was checked.",
        "Check where the library is installed, or try the server itself.",
    ),
    "unknown-attribute": Rule(
        ERROR,
        "`NodeDef mentions attribute ... not in Op`: the version fails to load in a server older than what wrote it.",
        "Export with the server's version of TensorFlow.",
    ),
    "python-op": Rule(
        ERROR,
        "The operation calls into the Python process that made it. The server has none: every request that reaches it fails.",
        "Write the step with TensorFlow operations instead of tf.py_function or tf.numpy_function.",
    ),
    "xla": Rule(ERROR, "The server's CPU build refuses functions that must be compiled by XLA: requests fail.", "Export without jit_compile=True."),
    "no-cpu-kernel": Rule(ERROR, "The operation has no CPU implementation: requests fail on the CPU build.", "Export a graph made for the CPU."),
    "gpu-layout": Rule(
        ERROR,
        "Convolution and pooling have no CPU implementation for channels-first data: requests fail on the CPU build.",
        'Build the model with data_format="channels_last".',
    ),
    "pinned-device": Rule(
        WARNING, "Where the server lacks the device it falls back to the CPU, or fails if soft placement is off.", "Export without tf.device."
    ),
    "training-mode": Rule(
        WARNING, "Batch normalization uses each batch's own statistics: an answer depends on the requests beside it.", "Export with training=False."
    ),
    # Signatures
    "no-signature": Rule(ERROR, "The version loads, and every request to it fails: there is nothing to ask.", "Export with signatures=..."),
    "no-serving-default": Rule(
        WARNING,
        'Requests that name no signature fail with `Serving signature key "serving_default" not found.`',
        "Name one signature serving_default.",
    ),
    "no-outputs": Rule(ERROR, "Every request to the signature fails: there is nothing to fetch.", "Return the answer from the exported function."),
    "no-inputs": Rule(WARNING, "REST has no form for a request without inputs.", "Give the signature an input."),
    "unknown-method": Rule(
        ERROR,
        "`Expected prediction signature method_name to be one of ...`: requests to the signature fail.",
        "Set method_name to tensorflow/serving/predict, classify or regress.",
    ),
    "classify-form": Rule(
        ERROR,
        "Classify requests fail.",
        "One input `inputs` (string, serialized tf.Example); outputs `classes` (string) and `scores` (float32), both (batch, classes).",
    ),
    "regress-form": Rule(
        ERROR, "Regress requests fail.", "One input `inputs` (string, serialized tf.Example); one output `outputs` (float32), (batch,) or (batch, 1)."
    ),
    "unsupported-dtype": Rule(
        ERROR,
        "REST cannot carry it: 400 or 501, whatever the request says. (gRPC can.)",
        "Cast it to float32 (an integer to int64) in the exported function.",
    ),
    "dangling-tensor": Rule(ERROR, "Every request to the signature fails: the tensor that it names is not in the graph.", "Export the model again."),
    "wrong-dtype": Rule(ERROR, "The metadata promise another type than the graph has; requests that obey them fail.", "Export the model again."),
    "unstable-name": Rule(
        WARNING,
        "The name was made up by Keras or TensorFlow: the next export may call it otherwise, and clients break.",
        "Name inputs by keras.Input(name=...) or tf.TensorSpec(name=...), outputs by returning a dict.",
    ),
    "fixed-batch": Rule(
        WARNING, "Requests with another number of rows fail, and the server cannot batch requests.", "Export with None as the first dimension."
    ),
    "no-batch-dimension": Rule(
        WARNING,
        "Requests in row form (`instances`) fail, as does batching: every output needs the batch as its first dimension.",
        "Return tensors whose first dimension is the batch, or tell clients to use the column form (`inputs`).",
    ),
    # In operation
    "fails-to-load": Rule(ERROR, "The version fails to load; it is tried five times with a minute in between.", "Mend what the message names."),
    "uninitialized-variable": Rule(
        ERROR,
        "The version loads, and requests fail with `Error while reading resource variable`.",
        "Export Keras models by model.export(...) or keras.export.ExportArchive, which track all variables.",
    ),
    "broken-warmup": Rule(
        ERROR,
        "The whole load fails: `Please verify your warmup data is in TFRecord format.`",
        "Write PredictionLog messages by a TFRecordWriter.",
    ),
    "too-many-warmup-records": Rule(
        ERROR, f"The whole load fails: `Number of warmup records exceeds the maximum ({MOST_WARMUP_RECORDS})`.", "Remove some."
    ),
    "failing-warmup": Rule(ERROR, "The whole load fails: one request of the warm-up does.", "Mend or remove the record."),
    "no-warmup": Rule(
        NOTE, "The first requests to each version are slow.", "Put requests into assets.extra/tf_serving_warmup_requests; `zoo export` does."
    ),
    "golden-mismatch": Rule(
        ERROR, "The version answers otherwise than when it was exported.", "Export it again; if that does not help, the weights or the graph changed."
    ),
}
