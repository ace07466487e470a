"""Warm-up: the requests that a version brings along are answered before it takes traffic."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.serving import inference
from zoo.serving.messages import message
from zoo.serving.status import Code, StatusError, invalid_argument, unimplemented
from zoo.serving.tfrecord import read_records

if TYPE_CHECKING:
    import numpy

    from zoo.serving.servable import Servable, Signature

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAXIMUM_RECORDS = 1000


def warm_up(servable: Servable, iterations: int = 1) -> int:
    """Replays a servable's warm-up requests, a TFRecord file of PredictionLog messages.

    Where an engine answers in place of the session, and the session is not loaded, requests for the session are only held
    against the signatures.

    Args:
        servable: A loaded version.
        iterations: How often each request is replayed.

    Returns:
        The number of records.

    Raises:
        StatusError: The file or a record cannot be read, there are more than 1000, or a request fails.
    """
    from google.protobuf.message import DecodeError

    path = servable.path / FILE
    if not path.is_file():
        return 0
    count = 0
    try:
        for record in read_records(path):
            count += 1
            if count > MAXIMUM_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAXIMUM_RECORDS}) at {path}")
            try:
                log = message("PredictionLog").FromString(record)
            except DecodeError:
                raise invalid_argument(f"Failed to parse warmup record: {record[:100]!r} from {path}") from None
            with contextlib.suppress(_LeftOut):
                for _ in range(max(iterations, 1)):
                    _replay(servable, log)
    except StatusError as error:
        if error.code is not Code.DATA_LOSS:
            raise
        raise StatusError(Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format.") from None
    return count


class _LeftOut(Exception):
    """A request would load the session."""


def _run(signature: Signature, arrays: Mapping[str, numpy.ndarray], outputs: Sequence[str]) -> dict[str, numpy.ndarray]:
    if not signature.is_ready(arrays):
        raise _LeftOut
    return signature.run(arrays, outputs)


_OPTIONS = inference.Options(_run)


def _replay(servable: Servable, log: Any) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        inference.predict(servable, 0, log.predict_log.request, _OPTIONS)
    elif kind == "classify_log":
        inference.classify(servable, 0, log.classify_log.request, _OPTIONS)
    elif kind == "regress_log":
        inference.regress(servable, 0, log.regress_log.request, _OPTIONS)
    elif kind == "multi_inference_log":
        inference.multi_inference(servable, 0, log.multi_inference_log.request, _OPTIONS)
    elif kind == "session_run_log":
        raise unimplemented("Unsupported log_type for warmup: session_run_log")
