"""Warm-up: the requests that a version brings along, or that servers wrote down, are answered before it takes traffic."""

from __future__ import annotations

import contextlib
import logging
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

logger = logging.getLogger(__name__)
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


def warm_up_by_learned(servable: Servable) -> int:
    """Replays the requests that servers wrote down beside a servable's versions; see `zoo.serving.recording`.

    They were other versions' requests. One that this version cannot answer is passed over.

    Args:
        servable: A loaded version.

    Returns:
        The number of requests that were answered.
    """
    from google.protobuf.message import DecodeError

    path, count = servable.path.parent / FILE.name, 0
    if not path.is_file():
        return 0
    try:
        for record in read_records(path):
            count += answers(servable, message("PredictionLog").FromString(record))
    except (StatusError, DecodeError) as error:
        logger.warning("%s is passed over: %s", path, error)
    return count


def answers(servable: Servable, log: Any) -> bool:
    """Whether a servable answers a request; so it does where the session is not loaded, and the request fits its signatures.

    Args:
        servable: A loaded version.
        log: A PredictionLog.
    """
    try:
        _replay(servable, log)
    except _LeftOut:
        return True
    except StatusError:
        return False
    return True


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
