"""Warm-up: the requests that a version brings along are answered before it takes traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.serving import inference
from zoo.serving.status import Code, StatusError, invalid_argument, unimplemented

if TYPE_CHECKING:
    from zoo.serving.servable import Servable

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAXIMUM_RECORDS = 1000


def warm_up(servable: Servable, iterations: int = 1) -> int:
    """Replays a servable's warm-up requests, a TFRecord file of PredictionLog messages.

    Args:
        servable: A loaded version.
        iterations: How often each request is replayed.

    Returns:
        The number of records.

    Raises:
        StatusError: The file or a record cannot be read, there are more than 1000, or a request fails.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    path = servable.path / FILE
    if not path.is_file():
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            count += 1
            if count > MAXIMUM_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAXIMUM_RECORDS}) at {path}")
            try:
                log = PredictionLog.FromString(record)
            except DecodeError:
                raise invalid_argument(f"Failed to parse warmup record: {record[:100]!r} from {path}") from None
            for _ in range(max(iterations, 1)):
                _replay(servable, log)
    except tf.errors.DataLossError as error:
        raise StatusError(Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format.") from None
    except tf.errors.OpError as error:
        raise StatusError(error.error_code, str(error.message)) from None
    return count


def _replay(servable: Servable, log: object) -> None:
    kind = log.WhichOneof("log_type")  # type: ignore[attr-defined]
    if kind == "predict_log":
        inference.predict(servable, 0, log.predict_log.request)  # type: ignore[attr-defined]
    elif kind == "classify_log":
        inference.classify(servable, 0, log.classify_log.request)  # type: ignore[attr-defined]
    elif kind == "regress_log":
        inference.regress(servable, 0, log.regress_log.request)  # type: ignore[attr-defined]
    elif kind == "multi_inference_log":
        inference.multi_inference(servable, 0, log.multi_inference_log.request)  # type: ignore[attr-defined]
    elif kind == "session_run_log":
        raise unimplemented("Unsupported log_type for warmup: session_run_log")
