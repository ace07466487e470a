"""TF Serving's two services, without the wire: a message in, a message out."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from zoo.errors import ServingError
from zoo.serving import inference
from zoo.serving.engines import RUNTIME_NAMES
from zoo.serving.inference import DEFAULTS, SIGNATURE_FIELD, Options
from zoo.serving.manager import Manager, Version
from zoo.serving.messages import message
from zoo.serving.observation import Run
from zoo.serving.repository import sources_of
from zoo.serving.status import Code, StatusError, failed_precondition, invalid_argument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from zoo.serving.metrics import Metrics
    from zoo.serving.observation import Observer
    from zoo.serving.servable import Servable, Signature


class Service:
    """Answers TF Serving's messages.

    Args:
        manager: The models.
        options: How requests are answered.
        metrics: Where the engines' time is recorded, or None.
        alone: Whether no other process serves the same models.
        observers: Who learns of every run of a signature.

    Attributes:
        manager: The same.
        observers: The same.
    """

    def __init__(
        self,
        manager: Manager,
        options: Options = DEFAULTS,
        metrics: Metrics | None = None,
        alone: bool = True,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.manager, self._options, self._metrics, self._alone, self.observers = manager, options, metrics, alone, tuple(observers)

    @property
    def plain(self) -> bool:
        """Whether nothing but the model stands between a predict request and its answer."""
        return self._options.run is inference.run_directly and not self._options.check_methods

    def options(self, model: str, version: int, api: str) -> Options:
        """Returns how a request is answered: as the server was told, with a clock where there are metrics, and before observers."""
        if self._metrics is None and not self.observers:
            return self._options
        metrics, run = self._metrics, self._options.run

        def observed(signature: Signature, arrays: Mapping[str, Any], outputs: Sequence[str]) -> Any:
            found, began = None, time.perf_counter()
            try:
                found = run(signature, arrays, outputs)
                return found
            finally:
                seconds = time.perf_counter() - began
                if metrics is not None and found is not None:
                    metrics.runtime(model, api, RUNTIME_NAMES[signature.engine(arrays)], seconds)
                for observer in self.observers:
                    observer.observe(Run(model, version, api, signature, arrays, found, seconds))

        return dataclasses.replace(self._options, run=observed)

    def predict(self, request: Any) -> Any:
        """Answers a PredictRequest."""
        with self._lease(request) as (version, servable):
            return inference.predict(servable, version, request, self.options(request.model_spec.name, version, "Predict"))

    def classify(self, request: Any) -> Any:
        """Answers a ClassificationRequest."""
        with self._lease(request) as (version, servable):
            return inference.classify(servable, version, request, self.options(request.model_spec.name, version, "Classify"))

    def regress(self, request: Any) -> Any:
        """Answers a RegressionRequest."""
        with self._lease(request) as (version, servable):
            return inference.regress(servable, version, request, self.options(request.model_spec.name, version, "Regress"))

    def multi_inference(self, request: Any) -> Any:
        """Answers a MultiInferenceRequest; its first task names the version."""
        spec = request.tasks[0].model_spec if request.tasks else None
        with self._lease_spec(spec) as (version, servable):
            return inference.multi_inference(servable, version, request, self.options(request.tasks[0].model_spec.name, version, "MultiInference"))

    def metadata(self, request: Any) -> Any:
        """Answers a GetModelMetadataRequest."""
        _require_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_FIELD:  # TF Serving joins the two, and leaves the %s in place
                raise invalid_argument(f"Metadata field %s is not supported{field}")
        with self._lease(request) as (version, servable):
            response, signatures = message("GetModelMetadataResponse")(), message("SignatureDefMap")()
            for name, definition in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(definition)
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = version
            response.metadata[SIGNATURE_FIELD].Pack(signatures)
            return response

    def status(self, request: Any) -> Any:
        """Answers a GetModelStatusRequest. A label in it is ignored, as in TF Serving."""
        _require_spec(request)
        spec, response = request.model_spec, message("GetModelStatusResponse")()
        number = spec.version.value if spec.HasField("version") else None
        for found, version in self.manager.statuses(spec.name, number).items():
            _fill_status(response.model_version_status.add(), found, version)
        return response

    def reload(self, request: Any) -> Any:
        """Answers a ReloadConfigRequest: what it does not list is unloaded."""
        if not self._alone:
            raise failed_precondition("This server runs in several processes, of which a request reaches one: change models.config instead")
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument("ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported")
        try:
            self.manager.reload(sources_of(request.config))
        except ServingError as error:
            raise StatusError(error.code, str(error)) from None
        response = message("ReloadConfigResponse")()
        response.status.error_code = Code.OK
        return response

    def _lease(self, request: Any) -> AbstractContextManager[tuple[int, Servable]]:
        _require_spec(request)
        return self._lease_spec(request.model_spec)

    def _lease_spec(self, spec: Any) -> AbstractContextManager[tuple[int, Servable]]:
        if spec is None:
            return self.manager.lease("")
        choice = spec.WhichOneof("version_choice")
        version = spec.version.value if choice == "version" else None
        return self.manager.lease(spec.name, version, spec.version_label if choice == "version_label" else None)


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _fill_status(entry: Any, number: int, version: Version) -> None:
    entry.version, entry.state = number, int(version.state)
    error = version.error
    entry.status.error_code = Code.OK if error is None else error.code
    entry.status.error_message = "" if error is None else error.message
