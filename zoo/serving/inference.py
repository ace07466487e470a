"""What a request asks of a loaded version: predict, classify, regress, several at once, metadata.

Everything here works on TF Serving's messages or on arrays, and raises TF Serving's errors; how they travel is the
protocols' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from zoo.serving.messages import message
from zoo.serving.servable import DEFAULT_SIGNATURE, Servable, Signature
from zoo.serving.status import Code, StatusError, failed_precondition, invalid_argument, unimplemented
from zoo.serving.tensors import BY_NUMBER, STRING, fill_proto, from_proto, type_of

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
SIGNATURE_FIELD = "signature_def"
Runner = Callable[[Signature, Mapping[str, numpy.ndarray], Sequence[str]], dict[str, numpy.ndarray]]


def run_directly(signature: Signature, arrays: Mapping[str, numpy.ndarray], outputs: Sequence[str]) -> dict[str, numpy.ndarray]:
    """Runs one request by itself."""
    return signature.run(arrays, outputs)


@dataclass(frozen=True)
class Options:
    """How requests are answered.

    Attributes:
        run: Runs a signature; `batching.Batcher.run` joins requests.
        tensor_content: Whether answers carry tensors as raw bytes and not in typed fields.
        check_methods: Whether a signature's method has to be the one that is called.
    """

    run: Runner = run_directly
    tensor_content: bool = False
    check_methods: bool = False


DEFAULTS = Options()


def predict_arrays(
    servable: Servable,
    signature_name: str,
    inputs: Mapping[str, Any],
    output_filter: Iterable[str] = (),
    options: Options = DEFAULTS,
) -> dict[str, numpy.ndarray]:
    """Runs a signature on arrays or TensorProtos.

    Raises:
        StatusError: There is no such signature, a name is wrong, or an operation fails.
    """
    signature = servable.signature(signature_name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{signature_name or DEFAULT_SIGNATURE}" not found.')
    if options.check_methods:
        _check_method(signature)
    arrays = _inputs(signature, inputs)
    outputs: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set {{{','.join(signature.outputs)}}}."
            )
        if alias in outputs:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        outputs.append(alias)
    return options.run(signature, arrays, outputs)


def _check_method(signature: Signature) -> None:
    method, valid = signature.definition.method_name, (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD)
    if method not in valid:
        raise StatusError(Code.INTERNAL, f"Expected prediction signature method_name to be one of {{{', '.join(valid)}}}. Was: {method}")


def _inputs(signature: Signature, given: Mapping[str, Any]) -> dict[str, numpy.ndarray]:
    """Holds what a request gives against what the signature takes; a signature may have defaults for some of it."""
    expected, defaults = signature.inputs, signature.definition.defaults
    if len(given) != len(expected) and (not defaults or len(given) > len(expected)):
        extra, missing = sorted(set(given) - set(expected)), sorted(set(expected) - set(given))
        raise invalid_argument(
            f"input size does not match signature: {len(given)}!={len(expected)} len({{{','.join(sorted(given))}}}) != "
            f"len({{{','.join(expected)}}}). Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    arrays = {}
    for alias, info in expected.items():
        if alias in given:
            value = given[alias]
        elif alias in defaults:
            value = defaults[alias]
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.tensor}) not found in request and no default value provided. Inputs expected "
                f"to be in the request {{{','.join(sorted(given))}}}, or default input alias set: {','.join(sorted(defaults))}"
            )
        try:
            arrays[alias] = value if isinstance(value, numpy.ndarray) else from_proto(value)
        except ValueError:
            raise invalid_argument(f"tensor parsing error: {alias}") from None
    used = [alias for alias in sorted(given) if alias in expected]
    if used and len(used) != len(given):
        raise invalid_argument(f"Inputs contains invalid name. Used request inputs: {','.join(used)}, request input: {','.join(sorted(given))}")
    return arrays


def predict(servable: Servable, version: int, request: Any, options: Options = DEFAULTS) -> Any:
    """Answers a PredictRequest.

    Raises:
        StatusError: See `predict_arrays`.
    """
    spec = request.model_spec
    outputs = predict_arrays(servable, spec.signature_name, request.inputs, request.output_filter, options)
    response = message("PredictResponse")()
    _fill_spec(response.model_spec, spec.name, version, spec.signature_name)
    for name, array in outputs.items():
        fill_proto(response.outputs[name], array, as_content=options.tensor_content)
    return response


def classify(servable: Servable, version: int, request: Any, options: Options = DEFAULTS) -> Any:
    """Answers a ClassificationRequest.

    Raises:
        StatusError: See `classify_examples`.
    """
    spec, response = request.model_spec, message("ClassificationResponse")()
    signature = classification_signature(servable, spec.signature_name, options)
    classes, scores = classify_examples(signature, _examples(request.input), options)
    _fill_spec(response.model_spec, spec.name, version, spec.signature_name)
    _fill_classifications(response.result, classes, scores)
    return response


def regress(servable: Servable, version: int, request: Any, options: Options = DEFAULTS) -> Any:
    """Answers a RegressionRequest.

    Raises:
        StatusError: See `regress_examples`.
    """
    spec, response = request.model_spec, message("RegressionResponse")()
    signature = regression_signature(servable, spec.signature_name, options)
    values = regress_examples(signature, _examples(request.input), options)
    _fill_spec(response.model_spec, spec.name, version, spec.signature_name)
    _fill_regressions(response.result, values)
    return response


def multi_inference(servable: Servable, version: int, request: Any, options: Options = DEFAULTS) -> Any:
    """Answers a MultiInferenceRequest: classifications and regressions of the same examples.

    Raises:
        StatusError: The tasks do not fit together, or one of them fails.
    """
    signatures = _check_tasks(servable, request, options)
    examples, response = _examples(request.input), message("MultiInferenceResponse")()
    for task, signature in zip(request.tasks, signatures, strict=True):
        result = response.results.add()
        _fill_spec(result.model_spec, task.model_spec.name, version, signature.name)
        if task.method_name == CLASSIFY_METHOD:
            _fill_classifications(result.classification_result, *classify_examples(signature, examples, options))
        else:
            _fill_regressions(result.regression_result, regress_examples(signature, examples, options))
    return response


def _check_tasks(servable: Servable, request: Any, options: Options) -> list[Signature]:
    signatures: list[Signature] = []
    for task in request.tasks:
        spec = task.model_spec
        if not spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if spec.name != request.tasks[0].model_spec.name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = spec.signature_name or DEFAULT_SIGNATURE
        if any(signature.name == name for signature in signatures):
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        signature = servable.signature(name)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if task.method_name == CLASSIFY_METHOD:
            _check_classification(signature, options)
        elif task.method_name == REGRESS_METHOD:
            _check_regression(signature, options)
        else:
            raise unimplemented(f"Unsupported signature method_name: {task.method_name}")
        signatures.append(signature)
        if signature.inputs["inputs"].tensor != signatures[0].inputs["inputs"].tensor:
            raise invalid_argument("Input tensor must be the same for all Signatures.")
    return signatures


def classification_signature(servable: Servable, name: str, options: Options = DEFAULTS) -> Signature:
    """Returns a signature that can classify.

    Raises:
        StatusError: There is none of the name, or it cannot.
    """
    signature = _example_signature(servable, name)
    _check_classification(signature, options)
    return signature


def regression_signature(servable: Servable, name: str, options: Options = DEFAULTS) -> Signature:
    """Returns a signature that can regress.

    Raises:
        StatusError: There is none of the name, or it cannot.
    """
    signature = _example_signature(servable, name)
    _check_regression(signature, options)
    return signature


def _example_signature(servable: Servable, name: str) -> Signature:
    signature = servable.signature(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name or DEFAULT_SIGNATURE}")
    return signature


def _check_classification(signature: Signature, options: Options) -> None:
    method = signature.definition.method_name
    if options.check_methods and method != CLASSIFY_METHOD:
        raise invalid_argument(f"Expected classification signature method_name to be {CLASSIFY_METHOD}. Was: {method}")
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise failed_precondition(f"No classification inputs found in SignatureDef: {_show(signature)}")
    if not {"classes", "scores"} & set(signature.outputs):
        raise failed_precondition(
            f'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature was: {_show(signature)}'
        )


def _check_regression(signature: Signature, options: Options) -> None:
    method = signature.definition.method_name
    if options.check_methods and method != REGRESS_METHOD:
        raise invalid_argument(f"Expected regression signature method_name to be {REGRESS_METHOD}. Was: {method}")
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise failed_precondition(f"No regression inputs found in SignatureDef: {_show(signature)}")
    if "outputs" not in signature.outputs:
        raise failed_precondition(f"No regression outputs found in SignatureDef: {_show(signature)}")


def _show(signature: Signature) -> str:
    from google.protobuf import text_format

    return text_format.MessageToString(signature.definition)


def _examples(given: Any) -> list[bytes]:
    """The serialized examples of an Input, with the context in front of each."""
    kind = given.WhichOneof("kind")
    if kind == "example_list":
        return [example.SerializeToString() for example in given.example_list.examples]
    if kind == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        return [context + example.SerializeToString() for example in given.example_list_with_context.examples]
    return []


def _run_on_examples(signature: Signature, examples: Sequence[bytes], outputs: Sequence[str], options: Options) -> dict[str, numpy.ndarray]:
    if not examples:
        raise invalid_argument("Input is empty.")
    array = numpy.empty(len(examples), dtype=object)
    array[:] = examples
    return options.run(signature, {"inputs": array}, outputs)


def classify_examples(
    signature: Signature, examples: Sequence[bytes], options: Options = DEFAULTS
) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """Runs a classification signature on serialized examples.

    Returns:
        The labels, strings `(examples, classes)`, and the scores, float32 of the same shape; None for what the signature
        does not give.

    Raises:
        StatusError: There are no examples, an operation fails, or an output has another type or shape.
    """
    names = [name for name in ("classes", "scores") if name in signature.outputs]
    outputs = _run_on_examples(signature, examples, names, options)
    for name, kind in (("classes", STRING), ("scores", BY_NUMBER[1])):
        if (array := outputs.get(name)) is None:
            continue
        if array.ndim != 2:
            raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        if type_of(array) is not kind:
            raise invalid_argument(f"Expected {name} Tensor of DT_{kind.name.upper()}. Got: DT_{type_of(array).name.upper()}")
        if len(array) != len(examples):
            raise invalid_argument(f"Expected {name} output batch size of {len(examples)}. Got: {len(array)}")
    classes, scores = outputs.get("classes"), outputs.get("scores")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid_argument(f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}")
    return classes, scores


def regress_examples(signature: Signature, examples: Sequence[bytes], options: Options = DEFAULTS) -> numpy.ndarray:
    """Runs a regression signature on serialized examples.

    Returns:
        float32 `(examples,)`.

    Raises:
        StatusError: There are no examples, an operation fails, or the output has another type or shape.
    """
    array = _run_on_examples(signature, examples, ["outputs"], options)["outputs"]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid_argument(f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(array)}")
    if len(array) != len(examples):
        raise invalid_argument(f"Input batch size did not match output batch size: {len(examples)} vs. {len(array)}")
    if type_of(array).name != "float":
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: DT_{type_of(array).name.upper()}")
    return array.reshape(-1)


def _shape(array: numpy.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _fill_spec(spec: Any, name: str, version: int, signature_name: str) -> None:
    spec.name = name
    spec.signature_name = signature_name or DEFAULT_SIGNATURE
    spec.version.value = version


def _fill_classifications(result: Any, classes: numpy.ndarray | None, scores: numpy.ndarray | None) -> None:
    for row in rows_of_classes(classes, scores):
        classifications = result.classifications.add()
        for label, score in row:
            classifications.classes.add(label=label.decode("utf-8", "replace"), score=score)


def _fill_regressions(result: Any, values: numpy.ndarray) -> None:
    for value in values.tolist():
        result.regressions.add(value=value)


def rows_of_classes(classes: numpy.ndarray | None, scores: numpy.ndarray | None) -> list[list[tuple[bytes, float]]]:
    """Returns each example's labels and scores; what a signature does not give is empty or 0."""
    present = classes if classes is not None else scores
    assert present is not None
    labels = numpy.full(present.shape, b"", dtype=object) if classes is None else classes
    numbers = numpy.zeros(present.shape, "float32") if scores is None else scores
    return [list(zip(*row, strict=True)) for row in zip(labels.tolist(), numbers.tolist(), strict=True)]
